//! Verifying an export. Order: the manifest says which history it should be, the chain proves
//! itself from the root, heads and tiles are compared with the chain, and what no signature
//! reaches is compared with the manifest last. So a fault is named where it is, and not where
//! it was first noticed.

use std::collections::BTreeSet;

use super::*;
use crate::Error;
use crate::chain::{Chain, Mark};
use crate::checkpoint::{Checkpoint, SignedHead};
use crate::note::{Attestation, Note};

/// Verifies an export: every byte of every file, and what `policy` demands beyond them.
pub fn verify(files: &Files, policy: &Policy) -> Report {
    let mut run = Run { files, policy, runners: Vec::new(), report: empty_report() };
    let manifest = run.manifest();
    run.identity(manifest.as_ref());
    let leaves = tile_leaves(files);
    let lookup = |seq: u64| leaves.get(usize::try_from(seq).ok()?).copied();
    let (chain, seals) = run.chain(&lookup);
    if let Some(chain) = &chain {
        run.heads(chain);
        run.tiles(chain);
        run.telemetry(&seals);
    }
    if let Some(manifest) = manifest {
        run.listed(&manifest);
    }
    run.report
}

struct Run<'a> {
    files: &'a Files,
    policy: &'a Policy,
    /// Witnesses of the deployment's own, and the entries that registered them.
    runners: Vec<(u64, NoteKey)>,
    report: Report,
}

impl Run<'_> {
    fn find(&mut self, file: &str, why: impl Into<String>) {
        self.report.findings.push(Finding::in_file(file, why));
    }

    fn manifest(&mut self) -> Option<Manifest> {
        let parsed = match self.files.get(MANIFEST) {
            Some(bytes) => Manifest::parse(bytes),
            None => Err("it is missing"),
        };
        parsed.map_err(|why| self.find(MANIFEST, why)).ok()
    }

    /// Which history this should be. The manifest has a checksum, so where it holds, it and not
    /// a journal header or an origin line says so.
    fn identity(&mut self, manifest: Option<&Manifest>) {
        let first = self.files.get(&journal_name(0)).and_then(|bytes| first_header(bytes));
        let (deployment, partition) = match (manifest, first) {
            (Some(it), _) => (it.deployment.clone(), it.partition),
            (None, Some(header)) => (header.deployment, header.partition),
            (None, None) => (String::new(), 0),
        };
        if let Some(expected) = &self.policy.deployment
            && *expected != deployment
        {
            self.find(MANIFEST, format!("it is of deployment {deployment}, not {expected}"));
        }
        self.report.deployment = deployment;
        self.report.partition = partition;
    }

    /// Walks the journal files. `None` when the chain is broken: what follows proves nothing.
    fn chain(&mut self, leaves: Leaves<'_>) -> (Option<Chain>, BTreeMap<u64, Seal>) {
        let (deployment, partition) = (self.report.deployment.clone(), self.report.partition);
        let mut chain = ChainVerifier::new(&deployment, partition).with_leaves(leaves);
        let known = self.policy.heads.iter().map(|head| head.size);
        let signed = [CHECKPOINT, WITNESSED].map(|name| self.claimed_size(name));
        known.chain(signed.into_iter().flatten()).for_each(|size| chain.mark(size));
        let mut seals = BTreeMap::new();
        let starts: BTreeSet<u64> =
            self.files.keys().filter_map(|name| journal_start(name)).collect();
        let mut whole = true;
        for start in starts {
            if let Err(finding) = self.journal_file(start, &mut chain, &mut seals) {
                self.report.findings.push(finding);
                whole = false;
                break;
            }
        }
        let chain = chain.finish();
        self.report.n_entries = chain.head.next_seq;
        self.report.epoch = chain.head.epoch;
        self.report.root = chain.root;
        if whole && chain.head.next_seq == 0 {
            self.find(&journal_name(0), "it is missing or empty");
            whole = false;
        }
        (whole.then_some(chain), seals)
    }

    fn journal_file(
        &mut self,
        start: u64,
        chain: &mut ChainVerifier<'_>,
        seals: &mut BTreeMap<u64, Seal>,
    ) -> Result<(), Finding> {
        let name = journal_name(start);
        let next = chain.head().next_seq;
        if start != next {
            let why = format!("the file that begins at {next} is missing before it");
            return Err(Finding::in_file(&name, why));
        }
        let in_file = |finding| Finding { file: Some(name.clone()), ..finding };
        let mut rest = self.files.get(&name).map_or(&[][..], Vec::as_slice);
        if rest.is_empty() {
            return Err(Finding::in_file(&name, "it is empty"));
        }
        while !rest.is_empty() {
            let (batch, after) = chain.next(rest).map_err(in_file)?;
            rest = after;
            self.report.n_batches += 1;
            for entry in &batch.entries {
                let (seq, kind) = (entry.envelope.seq, entry.envelope.kind);
                if kind == Kind::ConfigActivated {
                    self.runners.extend(runner(entry).map(|it| (seq, it)));
                } else if kind == Kind::TelemetrySealed
                    && let Ok(Event::TelemetrySealed(sealed)) = entry.event()
                {
                    seals.insert(sealed.from, Seal { seq, sealed });
                }
            }
        }
        Ok(())
    }

    fn claimed_size(&self, name: &str) -> Option<u64> {
        let note = Note::parse(self.files.get(name)?).ok()?;
        Checkpoint::parse(note.text()).ok().map(|it| it.size)
    }

    /// Compares signed and known heads with the chain, and counts witnesses.
    fn heads(&mut self, chain: &Chain) {
        match self.files.get(CHECKPOINT) {
            Some(bytes) => match self.signed_head(CHECKPOINT, bytes, chain) {
                Ok(head) => {
                    self.report.signed_size = head.checkpoint.size;
                    self.count_witnesses(CHECKPOINT, &head);
                }
                Err(finding) => self.report.findings.push(finding),
            },
            None => self.find(CHECKPOINT, "it is missing"),
        }
        if let Some(bytes) = self.files.get(WITNESSED) {
            match self.signed_head(WITNESSED, bytes, chain) {
                Ok(head) => self.count_witnesses(WITNESSED, &head),
                Err(finding) => self.report.findings.push(finding),
            }
        }
        for known in &self.policy.heads {
            match self.known_head(known, chain) {
                Ok(()) => {
                    self.report.witnessed_size = self.report.witnessed_size.max(known.size);
                }
                Err(finding) => self.report.findings.push(finding),
            }
        }
    }

    fn signed_head(&self, name: &str, bytes: &[u8], chain: &Chain) -> Result<SignedHead, Finding> {
        let in_file = |error: Error| Finding::in_file(name, error.to_string());
        let note = Note::parse(bytes).map_err(in_file)?;
        let claimed = Checkpoint::parse(note.text()).map_err(in_file)?;
        let Some(mark) = chain.marks.get(&claimed.size) else {
            // A head beyond the chain is signed by an epoch of the chain, or it says nothing.
            let epochs = chain.epochs.iter().rev();
            let signed = epochs.map(|key| SignedHead::open(bytes, key)).find_map(Result::ok);
            return Err(match signed {
                Some(head) => missing(chain, head.checkpoint.size, "the signed head"),
                None => Finding::in_file(name, "no epoch of the chain signed it"),
            });
        };
        let head = SignedHead::open(bytes, &mark.epoch).map_err(in_file)?;
        if head.checkpoint.root != mark.root {
            return Err(Finding::in_file(name, Error::Proof("tree head").to_string()));
        }
        Ok(head)
    }

    fn known_head(&self, known: &KnownHead, chain: &Chain) -> Result<(), Finding> {
        let KnownHead { source, size, root } = known;
        match chain.marks.get(size) {
            _ if *size == 0 => Ok(()),
            Some(Mark { root: own, .. }) if own == root => Ok(()),
            Some(_) => {
                let why = format!("{source} knows another history of {size} entries");
                Err(Finding::in_file(CHECKPOINT, why))
            }
            None => Err(missing(chain, *size, source)),
        }
    }

    /// The runners that were registered under `size` entries, each with its newest key.
    fn runners_at(&self, size: u64) -> BTreeMap<&str, &NoteKey> {
        let registered = self.runners.iter().filter(|(seq, _)| *seq < size);
        registered.map(|(_, key)| (key.name(), key)).collect()
    }

    fn count_witnesses(&mut self, name: &str, head: &SignedHead) {
        let own: Vec<&NoteKey> = self.runners_at(head.checkpoint.size).into_values().collect();
        let others = self.policy.witnesses.iter();
        let known = others.map(|it| (it.organisation.as_str(), &it.key));
        let known =
            known.chain(own.iter().map(|key| (self.policy.own_organisation.as_str(), *key)));
        let (mut organisations, mut names, mut wrong) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (organisation, key) in known {
            match head.note.attestation(key) {
                Ok(Attestation::Cosigned { .. }) => {
                    names.push(key.name().to_owned());
                    // Whatever a policy says of a runner's key, the deployment holds it (A25).
                    if !own.iter().any(|it| it.public() == key.public()) {
                        organisations.insert(organisation);
                    }
                }
                Ok(Attestation::Absent | Attestation::Signed) => {}
                Err(error) => wrong.push(Finding::in_file(name, error.to_string())),
            }
        }
        organisations.remove(self.policy.own_organisation.as_str());
        let enough = organisations.len() >= self.policy.n_organisations.max(1);
        let report = &mut self.report;
        report.findings.extend(wrong);
        if names.is_empty() {
            return;
        }
        let verdict = if enough { Verdict::Witnessed } else { Verdict::SelfWitnessed };
        report.witnessed_size = report.witnessed_size.max(head.checkpoint.size);
        report.verdict = report.verdict.max(verdict);
        report.witnesses.extend(names);
        report.witnesses.sort();
        report.witnesses.dedup();
    }

    /// Compares the leaf tiles with the chain, to the last byte.
    fn tiles(&mut self, chain: &Chain) {
        let size = chain.head.next_seq;
        let mut expected = BTreeSet::new();
        for first in (0..size).step_by(256) {
            let name = tile_name(first, size);
            let n_bytes = (size - first).min(256) * 32;
            let stray = chain.stray_leaf.filter(|seq| seq / 256 == first / 256);
            if let Some(seq) = stray {
                self.find(&name, format!("it holds another leaf at place {}", seq % 256));
            } else if self.files.get(&name).map(|bytes| bytes.len() as u64) != Some(n_bytes) {
                self.find(&name, "it is missing or not of the width that its name says");
            }
            expected.insert(name);
        }
        for name in self.files.keys().filter(|name| name.starts_with("tile/")) {
            if !expected.contains(name) {
                let why = format!("a tree of {size} entries has no such tile");
                self.report.findings.push(Finding::in_file(name, why));
            }
        }
    }

    /// Compares telemetry files with the seals in the chain.
    fn telemetry(&mut self, seals: &BTreeMap<u64, Seal>) {
        for (name, bytes) in self.files {
            let Some(from) = telemetry_start(name) else { continue };
            self.report.n_ranges += 1;
            match seals.get(&from) {
                None => self.find(name, format!("no entry seals a range that begins at {from}")),
                Some(Seal { seq, sealed }) => {
                    if Hash::of(&[bytes]).to_digest() != sealed.digest {
                        let why = "its telemetry is not what it sealed";
                        let finding = Finding::at_entry(self.report.partition, *seq, why);
                        let file = Some(name.clone());
                        self.report.findings.push(Finding { file, ..finding });
                    }
                }
            }
        }
    }

    /// Compares the files with the manifest. A file that already has a finding is not named
    /// again.
    fn listed(&mut self, manifest: &Manifest) {
        for (name, (size, hash)) in &manifest.files {
            let named =
                self.report.findings.iter().any(|it| it.file.as_deref() == Some(name.as_str()));
            match self.files.get(name) {
                None => self.find(name, "the manifest lists it, and it is missing"),
                Some(_) if named => {}
                Some(bytes) if bytes.len() as u64 != *size => {
                    self.find(name, format!("it has {} bytes, and not {size}", bytes.len()));
                }
                Some(bytes) if Hash::of(&[bytes]) != *hash => {
                    self.find(name, "its bytes are not those that the manifest lists");
                }
                Some(_) => {}
            }
        }
        for name in self.files.keys().filter(|name| *name != MANIFEST) {
            let known = [CHECKPOINT, WITNESSED].contains(&name.as_str())
                || journal_start(name).is_some()
                || telemetry_start(name).is_some()
                || name.starts_with("tile/");
            if !manifest.files.contains_key(name) {
                self.report.findings.push(Finding::in_file(name, "the manifest does not list it"));
            } else if !known {
                let why = "an export holds no file of this name";
                self.report.findings.push(Finding::in_file(name, why));
            }
        }
    }
}

/// A seal of telemetry, and where it stands.
struct Seal {
    seq: u64,
    sealed: TelemetrySealed,
}

/// The key under which a registered runner cosigns, if `entry` registers one.
fn runner(entry: &Entry) -> Option<NoteKey> {
    let Ok(Event::ConfigActivated(config)) = entry.event() else { return None };
    NoteKey::new(&config.name, Algorithm::Cosignature, config.runner_key()?).ok()
}

fn missing(chain: &Chain, size: u64, source: &str) -> Finding {
    let n = size.saturating_sub(chain.head.next_seq);
    let why = format!("{n} entries are missing from here on: {source} counts {size}");
    Finding::at_entry(chain.head.partition, chain.head.next_seq, why)
}

/// The leaves that the tiles hold, up to the first tile that is missing or not full.
fn tile_leaves(files: &Files) -> Vec<Hash> {
    let mut leaves = Vec::new();
    for index in 0.. {
        let id = TileId { level: 0, index };
        let partial = format!("{}.p/", id.path(crate::tree::TILE_HASHES));
        let full = files.get(&id.path(crate::tree::TILE_HASHES));
        let found = full.or_else(|| {
            let mut from = files.range(partial.clone()..);
            from.next().filter(|(name, _)| name.starts_with(&partial)).map(|(_, bytes)| bytes)
        });
        let Some(bytes) = found else { break };
        leaves.extend(hashes(bytes));
        if bytes.len() != TILE_BYTES {
            break;
        }
    }
    leaves
}

/// The name of the tile that holds the leaf of `seq` in a tree of `size`.
fn tile_name(seq: u64, size: u64) -> String {
    let index = seq / 256;
    let width = (size - (index * 256).min(size)).min(256);
    TileId { level: 0, index }.path(width as usize)
}

fn first_header(bytes: &[u8]) -> Option<Header> {
    let mut reader = schemas::wire::Reader::new("batch", bytes);
    Header::decode(reader.bytes().ok()?).ok()
}

fn empty_report() -> Report {
    Report {
        deployment: String::new(),
        partition: 0,
        n_entries: 0,
        n_batches: 0,
        root: crate::tree::empty_root(),
        epoch: 0,
        signed_size: 0,
        witnessed_size: 0,
        n_ranges: 0,
        verdict: Verdict::Unanchored,
        witnesses: Vec::new(),
        findings: Vec::new(),
    }
}
