//! TLS 1.3 between two nodes. Each shows its node key bare (RFC 7250) and proves it with the
//! handshake: what the deployment's root certifies is a key, and no other authority is asked.
//!
//! The caller knows from the chain whose key it is that answers. The one that is called learns the
//! caller's key and holds it against what the root says of it.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, ServerConfig, SignatureAlgorithm, SignatureScheme,
};
use schemas::signature::PublicKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::keys::Identity;

/// How an Ed25519 key begins as a SubjectPublicKeyInfo; its 32 bytes follow (RFC 8410 §4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Nodes are known by their keys: the name is said to nobody.
const NAME: &str = "node.invalid";

/// Calls the node whose key is `expected`.
///
/// # Errors
/// Whoever answers has another key, or something between the two interferes.
pub(super) async fn call<S>(
    stream: S,
    own: &Arc<Identity>,
    expected: PublicKey,
) -> anyhow::Result<client::TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = ClientConfig::builder_with_provider(ciphers())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("preparing TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Peer(Some(expected))))
        .with_client_cert_resolver(Arc::new(
            rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified(own)),
        ));
    config.enable_sni = false;
    // A session that is resumed proves no key, and all nodes have one name here.
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(NAME).context("naming the node")?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.with_context(|| format!("greeting node {}", expected.id()))
}

/// Answers a node that calls; its key, of which nothing is known but that the caller has it.
///
/// # Errors
/// It proves no key, or something between the two interferes.
pub(super) async fn answer<S>(
    stream: S,
    own: &Arc<Identity>,
) -> anyhow::Result<(server::TlsStream<S>, PublicKey)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = ServerConfig::builder_with_provider(ciphers())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("preparing TLS")?
        .with_client_cert_verifier(Arc::new(Peer(None)))
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(
            certified(own),
        )));
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let accepted = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    let accepted = accepted.context("greeting a node")?;
    let shown = accepted.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let key = shown.and_then(|it| key_in(it)).context("the node shows no key")?;
    Ok((accepted, key))
}

fn ciphers() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certified(own: &Arc<Identity>) -> Arc<CertifiedKey> {
    let shown = CertificateDer::from(spki(&own.node.public()));
    Arc::new(CertifiedKey::new(vec![shown], Arc::new(NodeKey(own.clone()))))
}

fn spki(key: &PublicKey) -> Vec<u8> {
    [&SPKI[..], &key.0].concat()
}

fn key_in(spki: &[u8]) -> Option<PublicKey> {
    let key = spki.strip_prefix(&SPKI)?;
    key.try_into().ok().map(PublicKey)
}

/// The key of this node. TLS brings its own domain: what it signs begins with 64 spaces and its
/// name (RFC 8446 §4.4.3), as nothing else does that a node key signs.
#[derive(Clone, Debug)]
struct NodeKey(Arc<Identity>);

impl SigningKey for NodeKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = || -> Box<dyn Signer> { Box::new(self.clone()) };
        offered.contains(&SignatureScheme::ED25519).then(signer)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki(&self.0.node.public()).into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.node.sign_bare(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Who may be at the other end: this key, or whoever proves one.
#[derive(Debug)]
struct Peer(Option<PublicKey>);

impl Peer {
    fn admit(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        let key = key_in(shown).ok_or(CertificateError::BadEncoding)?;
        let is_expected = self.0.is_none_or(|it| it == key);
        if is_expected { Ok(()) } else { Err(CertificateError::UnknownIssuer.into()) }
    }

    /// Under the one acceptance rule for Ed25519 that there is here.
    fn proves(
        shown: &CertificateDer<'_>,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = key_in(shown).ok_or(CertificateError::BadEncoding)?;
        let signature = signed.signature().try_into();
        let is_valid = signed.scheme == SignatureScheme::ED25519
            && signature.is_ok_and(|it| key.verify_bare(message, it));
        if is_valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }
}

/// TLS 1.2 is not spoken.
const OLD: Error = Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme);

/// What both sides ask of the proof, each in a trait of its own.
macro_rules! proved_by_key {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _shown: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(OLD)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            shown: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Peer::proves(shown, message, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for Peer {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.admit(shown).map(|()| ServerCertVerified::assertion())
    }

    proved_by_key!();
}

impl ClientCertVerifier for Peer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.admit(shown).map(|()| ClientCertVerified::assertion())
    }

    proved_by_key!();
}
