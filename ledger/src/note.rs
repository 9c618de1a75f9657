//! C2SP signed notes (<https://c2sp.org/signed-note>): a text, an empty line, signature lines.
//!
//! Parsing accepts the canonical bytes only. The caller says which keys count; a line by any
//! other key is carried along and never counted. A line that names a key which the caller knows
//! and does not verify spoils the whole note, because somebody tampered with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemas::Hash;
use schemas::signature::{KeyPair, PublicKey, SIGNATURE_BYTES};

use crate::Error;

/// The reference implementation's bounds (golang.org/x/mod/sumdb/note).
const NOTE_BYTES_MAX: usize = 1_000_000;
const SIGNATURES_MAX: usize = 100;
/// The first line of what a cosignature signs (<https://c2sp.org/tlog-cosignature>).
const COSIGNATURE_HEADER: &str = "cosignature/v1";

/// What a key signs. Numbers are fixed by C2SP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// Ed25519 over the text.
    Ed25519 = 1,
    /// Ed25519 over a time and the text, as witnesses sign.
    Cosignature = 4,
}

/// The public key of a signer, bound to its name and to what it signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    algorithm: Algorithm,
    key: PublicKey,
}

/// One line under a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLine {
    /// Name of the signer, as the line claims.
    pub name: String,
    /// Key id, as the line claims.
    pub id: [u8; 4],
    /// What follows the key id.
    pub signature: Vec<u8>,
}

/// A text with the lines that vouch for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    lines: Vec<SignatureLine>,
}

/// What a key says of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attestation {
    /// No line is by this key.
    Absent,
    /// The key signed the text.
    Signed,
    /// The witness saw the text at this Unix time.
    Cosigned {
        /// Seconds since 1970.
        time_s: u64,
    },
}

impl NoteKey {
    /// A key with the name under which it signs.
    ///
    /// # Errors
    /// [`Error::Note`] for a name that cannot stand in a signature line.
    pub fn new(name: &str, algorithm: Algorithm, key: PublicKey) -> Result<Self, Error> {
        check_name(name)?;
        Ok(NoteKey { name: name.to_owned(), algorithm, key })
    }

    /// The name under which it signs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        self.key
    }

    /// The key id: it binds name, algorithm and key, so that none can be passed for another.
    pub fn id(&self) -> [u8; 4] {
        let hash = Hash::of(&[self.name.as_bytes(), b"\n", &[self.algorithm as u8], &self.key.0]);
        [hash.0[0], hash.0[1], hash.0[2], hash.0[3]]
    }

    /// The C2SP text form, `<name>+<key id>+<base64>`.
    pub fn to_text(&self) -> String {
        let mut bytes = vec![self.algorithm as u8];
        bytes.extend_from_slice(&self.key.0);
        format!("{}+{}+{}", self.name, schemas::ids::hex(&self.id()), BASE64.encode(bytes))
    }

    /// Reads what [`NoteKey::to_text`] wrote.
    ///
    /// # Errors
    /// [`Error::Note`] for anything else, a key id of another key included.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Note("verifier key is not name+id+base64");
        let (name, rest) = text.split_once('+').ok_or_else(wrong)?;
        let (_, encoded) = rest.split_once('+').ok_or_else(wrong)?;
        let bytes = BASE64.decode(encoded).map_err(|_| wrong())?;
        let (algorithm, key) = match bytes.split_first() {
            Some((1, key)) => (Algorithm::Ed25519, key),
            Some((4, key)) => (Algorithm::Cosignature, key),
            _ => return Err(Error::Note("verifier key has an unknown algorithm")),
        };
        let key = PublicKey(key.try_into().map_err(|_| wrong())?);
        let key = NoteKey::new(name, algorithm, key)?;
        if key.to_text() == text { Ok(key) } else { Err(wrong()) }
    }
}

impl Note {
    /// `text` without signatures yet.
    ///
    /// # Errors
    /// [`Error::Note`] for a text that does not end in a line feed or holds control characters.
    pub fn new(text: &str) -> Result<Self, Error> {
        check_text(text)?;
        Ok(Note { text: text.to_owned(), lines: Vec::new() })
    }

    /// Reads the canonical bytes of a note, signed at least once.
    ///
    /// # Errors
    /// [`Error::Note`] says which rule the bytes break.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(Error::Note("it is over 1 MB"));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| Error::Note("it is no UTF-8"))?;
        let split = whole.rfind("\n\n").ok_or(Error::Note("no empty line ends the text"))?;
        let (text, block) = (&whole[..=split], &whole[split + 2..]);
        check_text(text)?;
        let block = block.strip_suffix('\n').ok_or(Error::Note("a signature line is cut"))?;
        let lines: Vec<_> =
            block.split('\n').map(SignatureLine::parse).collect::<Result<_, _>>()?;
        if lines.len() > SIGNATURES_MAX {
            return Err(Error::Note("it has over 100 signature lines"));
        }
        Ok(Note { text: text.to_owned(), lines })
    }

    /// The bytes that [`Note::parse`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let lines: String = self.lines.iter().map(SignatureLine::encode).collect();
        format!("{}\n{lines}", self.text).into_bytes()
    }

    /// What is signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Who claims to have signed it.
    pub fn lines(&self) -> &[SignatureLine] {
        &self.lines
    }

    /// Adds the signature of `key` over the text.
    ///
    /// # Errors
    /// [`Error::Note`] for a name that cannot stand in a signature line, [`Error::Signature`]
    /// when the signature just made does not verify (a fault in memory or processor).
    pub fn sign(&mut self, name: &str, key: &KeyPair) -> Result<(), Error> {
        let verifier = NoteKey::new(name, Algorithm::Ed25519, key.public())?;
        let signature = key.sign_bare(self.text.as_bytes()).to_vec();
        self.add(&verifier, signature)
    }

    /// Adds the cosignature of a witness that saw the text at `time_s`, in Unix seconds.
    ///
    /// # Errors
    /// As [`Note::sign`].
    pub fn cosign(&mut self, name: &str, key: &KeyPair, time_s: u64) -> Result<(), Error> {
        let verifier = NoteKey::new(name, Algorithm::Cosignature, key.public())?;
        let mut signature = time_s.to_be_bytes().to_vec();
        signature.extend(key.sign_bare(&cosigned(time_s, &self.text)));
        self.add(&verifier, signature)
    }

    /// Adds a line that somebody else made over the same text, as `head.cosigned` carries it.
    ///
    /// # Errors
    /// [`Error::Note`] when it is no signature line.
    pub fn add_line(&mut self, line: &str) -> Result<(), Error> {
        let line = SignatureLine::parse(line.strip_suffix('\n').unwrap_or(line))?;
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
        Ok(())
    }

    /// What `key` says of this note. Several lines by one key count once.
    ///
    /// # Errors
    /// [`Error::Signature`] when a line claims this key and is not by it.
    pub fn attestation(&self, key: &NoteKey) -> Result<Attestation, Error> {
        let id = key.id();
        let mut attestation = Attestation::Absent;
        for line in self.lines.iter().filter(|line| line.name == key.name && line.id == id) {
            attestation =
                line.verify(&self.text, key).ok_or_else(|| Error::Signature(key.name.clone()))?;
        }
        Ok(attestation)
    }

    fn add(&mut self, key: &NoteKey, signature: Vec<u8>) -> Result<(), Error> {
        let line = SignatureLine { name: key.name.clone(), id: key.id(), signature };
        line.verify(&self.text, key).ok_or_else(|| Error::Signature(key.name.clone()))?;
        self.lines.push(line);
        Ok(())
    }
}

impl SignatureLine {
    fn parse(line: &str) -> Result<Self, Error> {
        let wrong = Error::Note("a signature line is not '— name base64'");
        let Some((name, encoded)) = line.strip_prefix("— ").and_then(|it| it.split_once(' '))
        else {
            return Err(wrong);
        };
        check_name(name)?;
        let bytes = BASE64.decode(encoded).map_err(|_| wrong.clone())?;
        let Some((id, signature)) = bytes.split_first_chunk::<4>() else { return Err(wrong) };
        if signature.is_empty() {
            return Err(wrong);
        }
        Ok(SignatureLine { name: name.to_owned(), id: *id, signature: signature.to_vec() })
    }

    /// The line as it stands in a note, line feed included.
    pub fn encode(&self) -> String {
        let bytes = [&self.id[..], &self.signature].concat();
        format!("— {} {}\n", self.name, BASE64.encode(bytes))
    }

    fn verify(&self, text: &str, key: &NoteKey) -> Option<Attestation> {
        let (time, signature) = self.signature.split_last_chunk::<SIGNATURE_BYTES>()?;
        match key.algorithm {
            Algorithm::Ed25519 => {
                let holds = time.is_empty() && key.key.verify_bare(text.as_bytes(), signature);
                holds.then_some(Attestation::Signed)
            }
            Algorithm::Cosignature => {
                let time_s = u64::from_be_bytes(time.try_into().ok()?);
                let holds = key.key.verify_bare(&cosigned(time_s, text), signature);
                holds.then_some(Attestation::Cosigned { time_s })
            }
        }
    }
}

/// What a cosignature signs.
fn cosigned(time_s: u64, text: &str) -> Vec<u8> {
    format!("{COSIGNATURE_HEADER}\ntime {time_s}\n{text}").into_bytes()
}

fn check_name(name: &str) -> Result<(), Error> {
    let bad = |it: char| it.is_whitespace() || it.is_control() || it == '+';
    if name.is_empty() || name.contains(bad) {
        return Err(Error::Note("a key name is empty or holds a space or a plus"));
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), Error> {
    if !text.ends_with('\n') {
        return Err(Error::Note("its text does not end in a line feed"));
    }
    if text.contains(|it: char| it < ' ' && it != '\n') {
        return Err(Error::Note("its text holds a control character"));
    }
    Ok(())
}
