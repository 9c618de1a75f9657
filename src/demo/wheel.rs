//! The worker's wheel, made here: one module that touches its heartbeat file; and the bad one
//! that somebody installs over it.

use std::io::{Cursor, Write as _};
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemas::Hash;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// The module that the worker runs.
pub(super) const MODULE: &str = "demo_worker";
/// The wheel's file name: any Python 3, any platform.
pub(super) const FILE: &str = "demo_worker-1.0-py3-none-any.whl";

/// Touches `heartbeat` in its folder ten times a second.
const MAIN: &str = "import pathlib, time\nfrom . import PERIOD\nwhile True:\n    \
                    pathlib.Path('heartbeat').touch()\n    time.sleep(PERIOD)\n";
/// What the bad wheel puts in place of the module: a C library of another version.
const BROKEN: &str = "raise ImportError('libdemo.so.2: version `DEMO_3.0` not found')\n";

/// A wheel that works.
///
/// # Errors
/// The archive cannot be written.
pub(super) fn good() -> anyhow::Result<Vec<u8>> {
    let info = "demo_worker-1.0.dist-info";
    let files = [
        (format!("{MODULE}/__init__.py"), "PERIOD = 0.1\n"),
        (format!("{MODULE}/__main__.py"), MAIN),
        (format!("{info}/METADATA"), "Metadata-Version: 2.1\nName: demo_worker\nVersion: 1.0\n"),
        (format!("{info}/WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
    ];
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    let mut record = String::new();
    for (path, text) in &files {
        zip.start_file(path.as_str(), options).context("writing a wheel")?;
        zip.write_all(text.as_bytes()).context("writing a wheel")?;
        let hash = URL_SAFE_NO_PAD.encode(Hash::of(&[text.as_bytes()]).0);
        record.push_str(&format!("{path},sha256={hash},{}\n", text.len()));
    }
    record.push_str(&format!("{info}/RECORD,,\n"));
    zip.start_file(format!("{info}/RECORD"), options).context("writing a wheel")?;
    zip.write_all(record.as_bytes()).context("writing a wheel")?;
    Ok(zip.finish().context("writing a wheel")?.into_inner())
}

/// Does to the environment in `venv` what installing the bad wheel does.
///
/// # Errors
/// The module is not where it should be.
pub(super) fn install_bad(venv: &Path) -> anyhow::Result<()> {
    let lib = venv.join("lib");
    let listed = std::fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))?;
    for python in listed.flatten() {
        let module = python.path().join("site-packages").join(MODULE).join("__init__.py");
        if module.exists() {
            return std::fs::write(&module, BROKEN)
                .with_context(|| format!("writing {}", module.display()));
        }
    }
    anyhow::bail!("{} holds no {MODULE}", venv.display())
}
