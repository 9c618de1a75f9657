//! Receipts: what this runner has begun and finished, so that no request starts twice
//! (protocol.md §7).
//!
//! One file, appended and fsynced record by record. A record is a line `<checksum> <json>`.
//! The order of durable steps, and what a crash at each means:
//!
//! 1. `started` is written before the lease is asked for. Without it nothing was done, and a
//!    dispatch may come again. With it and nothing more, nobody knows: the request is answered
//!    as unknown, and never run again.
//! 2. `finished` (or `refused`, where the last check failed) holds the signed answer. From here
//!    on every repeat is answered with the same bytes.
//! 3. `journaled` says that the answer need not be sent again.
//!
//! A receipt is kept until its request has expired, and then the time until which everything is
//! expired stands in the file instead: setting the clock back makes no request new.
//!
//! Trusted; its loss costs the promise for requests that have not expired, so a file that is
//! damaged before its end stops the runner. Only an unfinished last line is a crash's and is
//! cut off: what it says was never acted upon.
//! The caller holds the runner's lock for the life of the process, so there is one writer.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use schemas::{Hash, Ns, Uuid};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::durable::{self, Steps};
use crate::wire::Base64;

/// Hex digits of a line's checksum.
const CHECKSUM_DIGITS: usize = 16;
/// Receipts that may be forgotten are, once there are so many.
const N_PRUNED_MIN: usize = 256;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Record {
    Started { id: Uuid, expires_at: Ns },
    Answered { id: Uuid, expires_at: Ns, ran: bool, answer: Base64 },
    Journaled { id: Uuid },
    ExpiredUntil { until: Ns },
}

/// What is known of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// After it the request is void, and the receipt may go.
    pub expires_at: Ns,
    /// The signed answer, an encoded `runner.result`; `None` while it is under way.
    pub answer: Option<Base64>,
    /// Whether the host was called, as far as that is known.
    pub ran: bool,
    /// Whether the answer stands in the chain.
    pub is_journaled: bool,
}

/// All receipts of a runner.
#[derive(Debug)]
pub struct Receipts {
    path: PathBuf,
    file: File,
    kept: BTreeMap<Uuid, Receipt>,
    expired_until: Ns,
}

impl Receipts {
    /// Opens the receipts of `dir`, and cuts off what a crash left unfinished.
    ///
    /// # Errors
    /// A line before the last is damaged; it is named.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("receipts");
        let mut file = open_for_append(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(Error::io("cut", &path))?;
            file.sync_all().map_err(Error::io("sync", &path))?;
        }
        file.seek(SeekFrom::End(0)).map_err(Error::io("read", &path))?;
        let mut receipts =
            Receipts { path, file, kept: BTreeMap::new(), expired_until: Ns::default() };
        for (number, line) in (1..).zip(bytes[..whole].split_inclusive(|it| *it == b'\n')) {
            let record = decode(line).ok_or_else(|| {
                Error::damaged(&receipts.path, format!("line {number} is not what was written"))
            })?;
            receipts.fold(record);
        }
        Ok(receipts)
    }

    /// What is known of a request.
    pub fn get(&self, id: &Uuid) -> Option<&Receipt> {
        self.kept.get(id)
    }

    /// Everything that expires until then counts as expired.
    pub fn expired_until(&self) -> Ns {
        self.expired_until
    }

    /// Begins a request: `true` for the first caller ever, and durable when it says so.
    ///
    /// # Errors
    /// It cannot be kept; then the runner must end, for nobody knows what the disk holds.
    pub fn start(&mut self, id: Uuid, expires_at: Ns) -> Result<bool, Error> {
        if self.kept.contains_key(&id) || expires_at <= self.expired_until {
            return Ok(false);
        }
        self.append(Record::Started { id, expires_at })?;
        Ok(true)
    }

    /// Keeps the answer to a request: the host was called (`ran`), or the request is refused.
    /// The first answer is final.
    ///
    /// # Errors
    /// As [`Receipts::start`].
    pub fn answer(
        &mut self,
        id: Uuid,
        expires_at: Ns,
        ran: bool,
        answer: Base64,
    ) -> Result<(), Error> {
        if self.kept.get(&id).is_some_and(|it| it.answer.is_some()) {
            return Ok(());
        }
        self.append(Record::Answered { id, expires_at, ran, answer })
    }

    /// The answer stands in the chain.
    ///
    /// # Errors
    /// As [`Receipts::start`].
    pub fn journaled(&mut self, id: Uuid) -> Result<(), Error> {
        match self.kept.get(&id) {
            Some(receipt) if receipt.answer.is_some() && !receipt.is_journaled => {
                self.append(Record::Journaled { id })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Requests that were begun and not answered: after a restart, nobody knows.
    pub fn unanswered(&self) -> Vec<(Uuid, Ns)> {
        let open = self.kept.iter().filter(|(_, it)| it.answer.is_none());
        open.map(|(id, it)| (*id, it.expires_at)).collect()
    }

    /// Answers that are not yet known to stand in the chain.
    pub fn unjournaled(&self) -> impl Iterator<Item = (Uuid, &Base64)> {
        let open = self.kept.iter().filter(|(_, it)| !it.is_journaled);
        open.filter_map(|(id, it)| Some((*id, it.answer.as_ref()?)))
    }

    /// Forgets receipts whose request has expired and whose answer stands in the chain, when
    /// there are enough of them. The file is replaced whole: a crash leaves the old or the new.
    ///
    /// # Errors
    /// As [`Receipts::start`].
    pub fn prune(&mut self, now: Ns) -> Result<(), Error> {
        let is_over = |it: &Receipt| it.is_journaled && it.expires_at < now;
        if self.kept.values().filter(|it| is_over(it)).count() < N_PRUNED_MIN {
            return Ok(());
        }
        let over = self.kept.values().filter(|it| is_over(it)).map(|it| it.expires_at);
        let until = over.max().unwrap_or_default().max(self.expired_until);
        let mut bytes = encode(&Record::ExpiredUntil { until })?;
        for (id, it) in self.kept.iter().filter(|(_, it)| !is_over(it)) {
            for record in it.records(*id) {
                bytes.extend(encode(&record)?);
            }
        }
        durable::replace(&self.path, &bytes, &Steps::default())?;
        self.file = open_for_append(&self.path)?;
        self.file.seek(SeekFrom::End(0)).map_err(Error::io("read", &self.path))?;
        self.kept.retain(|_, it| !is_over(it));
        self.expired_until = until;
        Ok(())
    }

    fn append(&mut self, record: Record) -> Result<(), Error> {
        let bytes = encode(&record)?;
        self.file.write_all(&bytes).map_err(Error::io("write", &self.path))?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))?;
        self.fold(record);
        Ok(())
    }

    fn fold(&mut self, record: Record) {
        match record {
            Record::Started { id, expires_at } => {
                let begun = Receipt { expires_at, answer: None, ran: false, is_journaled: false };
                self.kept.entry(id).or_insert(begun);
            }
            Record::Answered { id, expires_at, ran, answer } => {
                let answer = Some(answer);
                self.kept.insert(id, Receipt { expires_at, answer, ran, is_journaled: false });
            }
            Record::Journaled { id } => {
                if let Some(receipt) = self.kept.get_mut(&id) {
                    receipt.is_journaled = true;
                }
            }
            Record::ExpiredUntil { until } => self.expired_until = until,
        }
    }
}

impl Receipt {
    fn records(&self, id: Uuid) -> Vec<Record> {
        let expires_at = self.expires_at;
        let Some(answer) = &self.answer else { return vec![Record::Started { id, expires_at }] };
        let answer = answer.clone();
        let mut records = vec![Record::Answered { id, expires_at, ran: self.ran, answer }];
        if self.is_journaled {
            records.push(Record::Journaled { id });
        }
        records
    }
}

fn open_for_append(path: &Path) -> Result<File, Error> {
    let is_new = !path.exists();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(Error::io("open", path))?;
    if let Some(folder) = path.parent().filter(|_| is_new) {
        durable::sync_dir(folder)?;
    }
    Ok(file)
}

fn encode(record: &Record) -> Result<Vec<u8>, Error> {
    let json =
        serde_json::to_string(record).map_err(|why| Error::damaged(Path::new("receipts"), why))?;
    Ok(format!("{} {json}\n", checksum(&json)).into_bytes())
}

fn decode(line: &[u8]) -> Option<Record> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, json) = line.split_once(' ')?;
    if sum != checksum(json) {
        return None;
    }
    serde_json::from_str(json).ok()
}

fn checksum(json: &str) -> String {
    let mut digits = Hash::of(&[json.as_bytes()]).to_string();
    digits.truncate(CHECKSUM_DIGITS);
    digits
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use super::*;

    fn id(n: u64) -> Uuid {
        Uuid::named("test", &[&n.to_be_bytes()])
    }

    fn answer(n: u64) -> Base64 {
        Base64(vec![n as u8; 100])
    }

    #[test]
    fn only_the_first_may_start_in_this_life_and_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut receipts = Receipts::open(dir.path()).unwrap();
        assert!(receipts.start(id(1), Ns(9)).unwrap());
        assert!(!receipts.start(id(1), Ns(9)).unwrap());
        let mut receipts = Receipts::open(dir.path()).unwrap();
        assert!(!receipts.start(id(1), Ns(9)).unwrap());
        assert_eq!(receipts.unanswered(), [(id(1), Ns(9))]);
    }

    #[test]
    fn the_first_answer_is_final() {
        let dir = tempfile::tempdir().unwrap();
        let mut receipts = Receipts::open(dir.path()).unwrap();
        receipts.start(id(1), Ns(9)).unwrap();
        receipts.answer(id(1), Ns(9), true, answer(1)).unwrap();
        receipts.answer(id(1), Ns(9), true, answer(2)).unwrap();
        for receipts in [receipts, Receipts::open(dir.path()).unwrap()] {
            assert_eq!(receipts.get(&id(1)).unwrap().answer, Some(answer(1)));
            assert_eq!(receipts.unjournaled().count(), 1);
        }
        let mut receipts = Receipts::open(dir.path()).unwrap();
        receipts.journaled(id(1)).unwrap();
        assert_eq!(Receipts::open(dir.path()).unwrap().unjournaled().count(), 0);
    }

    #[test]
    fn a_file_cut_at_any_byte_opens_with_the_whole_lines_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut receipts = Receipts::open(dir.path()).unwrap();
        receipts.start(id(1), Ns(9)).unwrap();
        receipts.answer(id(1), Ns(9), true, answer(1)).unwrap();
        receipts.journaled(id(1)).unwrap();
        receipts.start(id(2), Ns(9)).unwrap();
        let bytes = fs::read(dir.path().join("receipts")).unwrap();
        for cut in 0..=bytes.len() {
            fs::write(dir.path().join("receipts"), &bytes[..cut]).unwrap();
            let n_lines = bytes[..cut].iter().filter(|it| **it == b'\n').count();
            let receipts = Receipts::open(dir.path()).unwrap();
            let one = receipts.get(&id(1));
            assert_eq!(one.is_some(), 1 <= n_lines, "cut at {cut}");
            assert_eq!(one.is_some_and(|it| it.answer.is_some()), 2 <= n_lines);
            assert_eq!(one.is_some_and(|it| it.is_journaled), 3 <= n_lines);
            assert_eq!(receipts.get(&id(2)).is_some(), 4 <= n_lines);
        }
    }

    #[test]
    fn a_flipped_bit_stops_the_runner_and_the_line_is_named() {
        // Opened some thousand times: in memory where that can be.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut receipts = Receipts::open(dir.path()).unwrap();
        receipts.start(id(1), Ns(9)).unwrap();
        receipts.start(id(2), Ns(9)).unwrap();
        let path = dir.path().join("receipts");
        let bytes = fs::read(&path).unwrap();
        // The last line feed is left alone: without it the line is one that a crash cut off.
        for at in 0..(bytes.len() - 1) * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            fs::write(&path, &damaged).unwrap();
            let error = Receipts::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("receipts is damaged: line "), "bit {at}: {error}");
        }
    }

    #[test]
    fn a_receipt_outlives_its_answer_until_it_expires_and_no_clock_brings_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut receipts = Receipts::open(dir.path()).unwrap();
        let n_old = N_PRUNED_MIN as u64;
        for n in 0..=n_old {
            let expires_at = Ns(if n == n_old { 1_000_000 } else { n + 1 });
            receipts.start(id(n), expires_at).unwrap();
            receipts.answer(id(n), expires_at, true, answer(n)).unwrap();
            receipts.journaled(id(n)).unwrap();
        }
        receipts.prune(Ns(n_old)).unwrap();
        assert!(receipts.get(&id(0)).is_some(), "too few have expired");
        receipts.prune(Ns(n_old + 1)).unwrap();
        for mut receipts in [receipts, Receipts::open(dir.path()).unwrap()] {
            assert!(receipts.get(&id(0)).is_none());
            assert!(!receipts.start(id(0), Ns(1)).unwrap(), "it would run twice");
            assert!(!receipts.start(id(7), Ns(n_old)).unwrap(), "it would run twice");
            assert!(receipts.get(&id(n_old)).is_some());
            assert!(!receipts.start(id(n_old), Ns(1_000_000)).unwrap());
        }
    }
}
