//! Asking servers of others: a registry, a receiver of escalations. In clear or with TLS, and
//! nobody but the address that the configuration names.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// A client that gives up after `within`. Servers are vouched for by the authorities in the PEM
/// file `ca_file`, or by those of the machine. It follows no redirect, and an answer of any
/// status is an answer.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub fn agent(ca_file: Option<&Path>, within: Duration) -> anyhow::Result<ureq::Agent> {
    let roots = match ca_file {
        Some(path) => RootCerts::new_with_certs(&authorities(path)?),
        None => RootCerts::PlatformVerifier,
    };
    // The ciphers that are in the program for clouds already.
    let ciphers = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(ciphers)
        .root_certs(roots)
        .build();
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(within))
        .tls_config(tls);
    Ok(config.build().into())
}

fn authorities(path: &Path) -> anyhow::Result<Vec<ureq::tls::Certificate<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        let item = item.with_context(|| format!("reading {}", path.display()))?;
        if let PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        bail!("{} holds no certificate in PEM form", path.display());
    }
    Ok(found)
}

/// Why `url` is no address to ask, or nothing.
pub fn refused(url: &str) -> Option<&'static str> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.unwrap_or_default().split('/').next().unwrap_or_default();
    let plain = !url.contains(char::is_whitespace);
    (host.is_empty() || !plain).then_some("is no http:// or https:// URL")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::process::Command;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use super::*;

    /// A server with the certificate in `dir` that answers each request with 204; its address.
    fn serve(dir: &Path) -> String {
        let certificates = CertificateDer::pem_file_iter(dir.join("broker.pem")).unwrap();
        let certificates = certificates.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.join("broker.key")).unwrap();
        let ciphers = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(ciphers)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .unwrap();
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("https://{}/hook", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut stream = BufReader::new(rustls::StreamOwned::new(server, stream.unwrap()));
                let mut line = String::new();
                // A client that does not trust it hangs up here.
                while stream.read_line(&mut line).is_ok_and(|n| 2 < n) {
                    line.clear();
                }
                let _ = stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            }
        });
        url
    }

    #[test]
    fn a_server_is_asked_over_tls_where_an_authority_of_ours_vouches_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/secrets.sh");
        assert!(Command::new("bash").arg(script).arg(dir.path()).status().unwrap().success());
        let url = serve(dir.path());
        let ask = |ca_file: Option<&str>| {
            let path = ca_file.map(|name| dir.path().join(name));
            let agent = agent(path.as_deref(), Duration::from_secs(10))?;
            Ok::<u16, anyhow::Error>(agent.get(&url).call()?.status().as_u16())
        };
        assert_eq!(ask(Some("ca.pem")).unwrap(), 204);
        for stranger in [Some("stranger.pem"), None] {
            let said = format!("{:#}", ask(stranger).unwrap_err());
            assert!(said.contains("certificate"), "{stranger:?}: {said}");
        }
        let said = format!("{:#}", ask(Some("password")).unwrap_err());
        assert!(said.contains("holds no certificate"), "{said}");
    }

    #[test]
    fn an_address_is_a_url_of_http() {
        for good in ["http://127.0.0.1:9/", "https://hooks.example.org/a/b?c=d"] {
            assert_eq!(refused(good), None, "{good}");
        }
        for bad in ["", "hooks.example.org", "ftp://a/", "https://", "http:///a", "http://a b/"] {
            assert!(refused(bad).is_some(), "{bad}");
        }
    }
}
