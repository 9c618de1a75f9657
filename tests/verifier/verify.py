#!/usr/bin/env python3
"""Verifies exports of Healwright without any code of Healwright.

    verify.py [--deployment ID] EXPORT...
Needs the package `cryptography` for Ed25519 and nothing else. Prints one line an export: the
number of entries and the root, or the first place that is wrong. Exit: 0 it holds, 1 it does
not, 2 it is no export (the worst of several). Of witnesses, it checks the registered runners.
"""

import base64, hashlib, json, pathlib, re, struct, sys
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
# The y coordinates of the eight points of low order.
Y8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
LOW_ORDER_Y = {0, 1, P - 1, Y8, P - Y8}

class Wrong(Exception):
    """The place, an entry's reference or the name of a file, and what is wrong there."""

def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

def verify_bare(key, message, signature):
    """The one acceptance rule: what the library checks, and before that what it leaves out."""
    points = [int.from_bytes(it, "little") % 2**255 for it in (key, signature[:32])]
    s_ok = len(signature) == 64 and int.from_bytes(signature[32:], "little") < L
    if not s_ok or any(y >= P or y in LOW_ORDER_Y for y in points):
        return False
    try:
        return Ed25519PublicKey.from_public_bytes(key).verify(signature, message) is None
    except (InvalidSignature, ValueError):
        return False

def prefixed(data):
    return struct.pack(">I", len(data)) + data

def verify_domain(key, domain, message, signature):
    return verify_bare(key, prefixed(domain.encode()) + prefixed(message), signature)

class Reader:
    """Takes length-prefixed big-endian fields, and Avro ones, from bytes."""
    def __init__(self, data, at=0):
        self.data, self.at = data, at
    def raw(self, n):
        if n < 0 or self.at + n > len(self.data):
            raise ValueError(f"it is cut short at byte {len(self.data)}")
        self.at += n
        return self.data[self.at - n : self.at]
    def number(self, n):
        return int.from_bytes(self.raw(n), "big")
    def bytes(self):
        return self.raw(self.number(4))
    def avro_int(self):
        value, shift, byte = 0, 0, 0x80
        while byte >= 0x80:
            byte = self.raw(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
        return (value >> 1) ^ -(value & 1)
    def avro(self, form):
        """A number for each `n` and a text for each `t`."""
        return [n if it == "n" else self.raw(n).decode() for it in form for n in [self.avro_int()]]

def read_header(data):
    mark, deployment = data[:4], Reader(data, 4).bytes()
    if mark != b"HWB\x01" or len(data) != 8 + len(deployment) + 120:
        raise ValueError("its header is malformed")
    fields = struct.unpack(">IQ32sQIQQQQ32s", data[8 + len(deployment) :])
    partition, epoch, prev, first, count, *positions, _wall, body = fields
    if count == 0:
        raise ValueError("its header counts no entries")
    place = (deployment, partition, first, prev)
    return {"place": place, "epoch": epoch, "count": count, "positions": positions, "body": body}

def read_entry(reader, partition, seq):
    """One entry, with its payload checked against its commitment and its place."""
    envelope, salt, payload = reader.bytes(), reader.raw(32), reader.bytes()
    fields = Reader(envelope)
    mark, _ = fields.raw(4), fields.raw(16)
    kind, place = (fields.bytes(), fields.number(2)), (fields.number(4), fields.number(8))
    # The commitment is the last field of an envelope; the leaf vouches for those between.
    if mark != b"HWE\x01" or sha256(b"healwright/payload/v1\0", salt, payload) != envelope[-32:]:
        raise ValueError("payload does not match its commitment")
    if place != (partition, seq):
        raise ValueError("another entry stands in its place")
    return sha256(b"\0", envelope), kind, payload

def elected_key(kind, payload, deployment, partition, epoch):
    """The key that an election introduces, once its certificate chains to the root."""
    if kind != (b"owner.elected", 1):
        raise ValueError("its epoch changes without an election")
    elected, _, _, *certificate = Reader(payload, 10).avro("ntt" + "ttttt")
    key, root, node, by_root, by_node = map(bytes.fromhex, certificate)
    about = prefixed(deployment.encode())
    claim = about + struct.pack(">IQ", partition, epoch) + key
    root_hash = sha256(b"healwright/root/v1\0", root)[:16].hex()
    if elected != epoch or f"{deployment.rpartition('-')[0]}-{root_hash}" != deployment:
        raise ValueError("its election is of another epoch or root")
    by_root = verify_domain(root, "healwright/node-certificate/v1", about + node, by_root)
    if not by_root or not verify_domain(node, "healwright/epoch-certificate/v1", claim, by_node):
        raise ValueError("its epoch key is not certified by node and root")
    return key

def read_runner(payload):
    """Name and key of the runner that an activation registers, if it registers one."""
    reader = Reader(payload, 10)
    _, name, _, digest, _ = reader.avro("ntntt")
    _, body = [reader.avro("t")[0] if reader.avro_int() else "" for _ in range(2)]
    if body and name.startswith("runner/") and f"sha256:{sha256(body.encode()).hex()}" == digest:
        yield name, bytes.fromhex(json.loads(body)["key"])

def tree_root(leaves):
    """RFC 6962, row by row; the odd one is promoted."""
    row = list(leaves) or [sha256()]
    while len(row) > 1:
        pairs = [sha256(b"\1", row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
        row = pairs + row[len(pairs) * 2 :]
    return row[0]

class Chain:
    """Walks batches from genesis on and stops at the first that is wrong."""
    def __init__(self, deployment, partition, tile_leaves):
        self.deployment, self.partition, self.tile_leaves = deployment, partition, tile_leaves
        self.head = sha256(f"healwright-genesis:{deployment}/{partition}".encode())
        self.epoch, self.key, self.positions = 0, None, [0, 0, 0]
        self.leaves, self.epochs, self.seals, self.runners = [], [], {}, []
    def reference(self, seq):
        return f"immutable:log:{self.partition}/{seq}"
    def header_key(self, header, entries):
        """The key that has to have signed a header; none when its election is damaged."""
        here = (self.deployment.encode(), self.partition, len(self.leaves), self.head)
        backwards = any(old > new for old, new in zip(self.positions, header["positions"]))
        own = header["epoch"] == self.epoch and self.key
        if header["place"] != here or backwards or not own and header["epoch"] != self.epoch + 1:
            raise ValueError("its header does not follow the batch before it")
        who = (self.deployment, self.partition, header["epoch"])
        return own or (elected_key(*entries[0][1:], *who) if entries else None)
    def batch(self, data, at, name):
        """Takes the record at `at`; returns where it ends."""
        reader, expected = Reader(data, at), len(self.leaves)
        try:
            stored = reader.bytes()
            header, signature = read_header(stored), reader.raw(64)
            entries, fault = self.entries(reader, header, name)
            body = sha256(b"healwright/body/v1\0", *(leaf for leaf, _, _ in entries))
            if not fault and body != header["body"]:
                # The body hash covers all envelopes at once; the tiles tell which one it is.
                why = f"its envelope is not what was signed ({name})"
                for seq, (leaf, _, _) in reversed([*enumerate(entries, expected)]):
                    if self.tile_leaves.get(seq, leaf) != leaf:
                        fault, entries = Wrong(self.reference(seq), why), entries[: seq - expected]
            key = self.header_key(header, entries)
            if key and not verify_domain(key, "healwright/header/v1", stored, signature):
                raise ValueError("its header is not what its epoch signed")
            if fault:
                raise fault
            if body != header["body"]:
                raise ValueError("its entries are not the ones that were signed")
        except ValueError as error:
            raise Wrong(f"{name}: batch at {self.reference(expected)}", error) from error
        self.link(header, key, entries)
        self.head = sha256(b"healwright/batch/v1\0", stored, signature)
        return reader.at
    def entries(self, reader, header, name):
        """The sound entries at the front of a batch, and the first fault."""
        entries, first = [], len(self.leaves)
        try:
            for seq in range(first, first + header["count"]):
                entries.append(read_entry(reader, self.partition, seq))
        except ValueError as error:
            return entries, Wrong(self.reference(first + len(entries)), f"{error} ({name})")
        return entries, None
    def link(self, header, key, entries):
        if header["epoch"] != self.epoch:
            self.epochs.append((len(self.leaves), header["epoch"], key))
        self.epoch, self.key, self.positions = header["epoch"], key, header["positions"]
        for leaf, kind, payload in entries:
            if kind == (b"telemetry.sealed", 1):
                start, _, digest = Reader(payload, 10).avro("nnt")
                self.seals[f"telemetry/{start:012}.samples"] = (len(self.leaves), digest)
            elif kind == (b"config.activated", 1):
                self.runners += [(len(self.leaves), *it) for it in read_runner(payload)]
            self.leaves.append(leaf)

def read_note(name, data):
    """Text and signature lines of a C2SP signed note, canonical or not at all."""
    form = r"((?:[^\x00-\x1f]*\n)+)\n((?:— [^\s+]+ (?:B{4})+(?:B{4}|B{3}=|BB==)\n)+)"
    match = re.fullmatch(form.replace("B", "[A-Za-z0-9+/]"), data.decode("utf-8", "replace"))
    lines = [line.split(" ")[1:] for line in match[2].splitlines()] if match else []
    signatures = [(signer, base64.b64decode(encoded)) for signer, encoded in lines]
    again = [[signer, base64.b64encode(decoded).decode()] for signer, decoded in signatures]
    if not match or again != lines or match[0].encode() != data:
        raise Wrong(name, "it is no canonical signed note")
    return match[1], signatures

def check_head(name, data, chain):
    """A signed head: its log, its root, and the epoch that had to sign it."""
    text, signatures = read_note(name, data)
    own, n_entries = f"{chain.deployment}/{chain.partition}", len(chain.leaves)
    form = re.escape(own) + r"\n([1-9][0-9]*)\n([^\n]{44})\n(?:[^\n]+\n)*"
    match = re.fullmatch(form, text)
    if not match:
        raise Wrong(name, "it is no head of this log")
    size, root = int(match[1]), match[2]
    _, epoch, key = [it for it in chain.epochs if it[0] < size][-1]
    signer = f"{own}/{epoch}"
    key_id = sha256(signer.encode(), b"\n\1", key)[:4]
    by_epoch = [it[4:] for who, it in signatures if (who, it[:4]) == (signer, key_id)]
    if not by_epoch or not all(verify_bare(key, text.encode(), it) for it in by_epoch):
        raise Wrong(name, f"{signer} did not sign it")
    if size > n_entries:
        raise Wrong(chain.reference(n_entries), f"{size - n_entries} entries are missing from here")
    if root != base64.b64encode(tree_root(chain.leaves[:size])).decode():
        raise Wrong(name, "its root is not that of the entries")
    for witness, key in {who: key for at, who, key in chain.runners if at < size}.items():
        key_id = sha256(witness.encode(), b"\n\4", key)[:4]
        for line in [it[4:] for who, it in signatures if (who, it[:4]) == (witness, key_id)]:
            seen = f"cosignature/v1\ntime {int.from_bytes(line[:8], 'big')}\n{text}"
            if not verify_bare(key, seen.encode(), line[8:]):
                raise Wrong(name, f"{witness} did not cosign it")

def tile_name(index, size):
    name, rest = f"{index % 1000:03}", index // 1000
    while rest:
        name, rest = f"x{rest % 1000:03}/{name}", rest // 1000
    return f"tile/0/{name}" + (f".p/{size % 256}" if size // 256 == index else "")

def read_tiles(files):
    """The leaf hashes that the tiles claim, by sequence."""
    names = [it for it in files if it.startswith("tile/0/")]
    names.sort(key=lambda it: (".p/" in it, len(it), it))
    return dict(enumerate(re.findall(rb"(?s).{32}", b"".join(files[it] for it in names))))

def read_manifest(files):
    """Deployment, partition and the listed files: one form only, with its checksum."""
    text = files.get("manifest", b"").decode("ascii", "replace")
    form = r"healwright-bundle v1\n(\S+)/(N)\n((?:[0-9a-f]{64} N \S+\n)*)end ([0-9a-f]{64})\n"
    match = re.fullmatch(form.replace("N", "(?:0|[1-9][0-9]*)"), text)
    listed = [line.split(" ") for line in match[3].splitlines()] if match else []
    names = [name for _, _, name in listed]
    if not match or sha256(text[:-69].encode()).hex() != match[4] or names != sorted(set(names)):
        raise Wrong("manifest", "it is missing, or its checksum does not hold")
    return match[1], int(match[2]), {name: (digest, size) for digest, size, name in listed}

def verify(files, deployment=None):
    own, partition, listed = read_manifest(files)
    if deployment not in (None, own):
        raise Wrong("manifest", f"it is of deployment {own}")
    chain = Chain(own, partition, read_tiles(files))
    journal = sorted(it for it in files if it.startswith("journal/"))
    for name in journal or ["journal/000000000000.batches"]:
        if name != f"journal/{len(chain.leaves):012}.batches" or not files.get(name):
            raise Wrong(name, "it is missing or empty, or a file is missing before it")
        at = 0
        while at < len(files[name]):
            at = chain.batch(files[name], at, name)
    heads = [name for name in ("checkpoint", "witnessed") if name in files or name < "d"]
    for name in heads:
        check_head(name, files.get(name, b""), chain)
    size, tiles = len(chain.leaves), []
    for first in range(0, size, 256):
        tiles.append(tile_name(first // 256, size))
        if files.get(tiles[-1]) != b"".join(chain.leaves[first : first + 256]):
            raise Wrong(tiles[-1], "it does not hold the leaves of the chain")
    for name, (seq, digest) in chain.seals.items():
        if name in files and f"sha256:{sha256(files[name]).hex()}" != digest:
            raise Wrong(chain.reference(seq), f"its telemetry is not what it sealed ({name})")
    known = {*journal, *heads, *tiles, *chain.seals}
    for name in sorted((files.keys() | listed.keys()) - {"manifest"}):
        data = files.get(name, b"")
        if name not in known or listed.get(name) != (sha256(data).hex(), str(len(data))):
            raise Wrong(name, "it is not what the manifest lists, or of no kind that belongs here")
    return f"{size} entries hold, root {tree_root(chain.leaves).hex()}"

def read_export(path):
    found = [it for it in pathlib.Path(path).rglob("*") if it.is_file()]
    files = {it.relative_to(path).as_posix(): it.read_bytes() for it in found}
    if len({it.split("/")[0] for it in files} & {"manifest", "checkpoint", "journal"}) < 2:
        raise FileNotFoundError(f"{path} is no export: it lacks manifest, checkpoint or journal")
    return files

def main(arguments):
    deployment, worst = None, 0
    if arguments[:1] == ["--deployment"]:
        deployment, arguments = arguments[1], arguments[2:]
    for path in arguments:
        try:
            print(f"ok {verify(read_export(path), deployment)}")
        except Wrong as wrong:
            print("wrong", *wrong.args)
            worst = max(worst, 1)
        except OSError as error:
            print(error)
            worst = 2
    return worst if arguments else 2

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
