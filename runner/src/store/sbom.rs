//! The bill of materials beside each artifact: CycloneDX, generated from the manifest alone.
//!
//! It says nothing that the manifest does not say, so it can be made again and compared byte for
//! byte: a component that was dropped or altered cannot stay unseen (C04).

use serde_json::{Value, json};

use super::manifest::{ArtifactKind, FileEntry, Manifest};

/// The bytes of the bill of materials of `manifest`; its `sbom` field plays no part.
pub(super) fn generate(manifest: &Manifest) -> Vec<u8> {
    let components: Vec<Value> = manifest.files.iter().map(|it| component(manifest, it)).collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "name": manifest.name, "version": manifest.version,
        }},
        "components": components,
    });
    let mut bytes = document.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

fn component(manifest: &Manifest, file: &FileEntry) -> Value {
    let hashes = json!([{"alg": "SHA-256", "content": file.sha256.to_string()}]);
    match wheel(manifest.kind, &file.path) {
        Some((name, version)) => json!({
            "type": "library", "name": name, "version": version, "hashes": hashes,
            "purl": format!("pkg:pypi/{}@{version}", name.to_ascii_lowercase().replace('_', "-")),
        }),
        None => json!({"type": "file", "name": file.path, "hashes": hashes}),
    }
}

/// Name and version in the file name of a wheel.
fn wheel(kind: ArtifactKind, path: &str) -> Option<(&str, &str)> {
    if kind != ArtifactKind::Environment {
        return None;
    }
    let stem = path.rsplit('/').next()?.strip_suffix(".whl")?;
    let mut parts = stem.split('-');
    Some((parts.next()?, parts.next()?))
}
