#!/usr/bin/env python3
"""Verifies exports of Healwright without any code of Healwright.

    verify.py [--deployment ID] EXPORT...

Written from the descriptions in ledger/src and schemas/src, so that a mistake there is not
repeated here. Needs the package `cryptography` for Ed25519 and nothing else. Prints one line an
export: the number of entries and the root, or the first place that is wrong.
Exit: 0 it holds, 1 it does not, 2 it is no export (the worst of several).
It does not count witnesses: that is the policy of whoever verifies.
"""

import base64
import hashlib
import os
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
# The y coordinates of the eight points of low order.
Y8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
LOW_ORDER_Y = {0, 1, P - 1, Y8, P - Y8}


class Wrong(Exception):
    """Something is wrong at a place: an entry's reference, or the name of a file."""

    def __init__(self, place, why):
        super().__init__(f"{place}: {why}")


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def point_ok(point):
    """Canonical, and none of the points of low order."""
    y = int.from_bytes(point, "little") & (2**255 - 1)
    return y < P and y not in LOW_ORDER_Y


def verify_bare(key, message, signature):
    """The one acceptance rule: what the library checks, and what it leaves out."""
    if len(signature) != 64 or int.from_bytes(signature[32:], "little") >= L:
        return False
    if not point_ok(key) or not point_ok(signature[:32]):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
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

    def avro_long(self):
        value, shift, byte = 0, 0, 0x80
        while byte >= 0x80:
            byte = self.raw(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
        return (value >> 1) ^ -(value & 1)

    def avro_text(self):
        return self.raw(self.avro_long()).decode("utf-8")


def read_header(data):
    reader = Reader(data)
    header = {"mark": reader.raw(4), "deployment": reader.bytes(), "partition": reader.number(4)}
    header.update(epoch=reader.number(8), prev=reader.raw(32), first=reader.number(8))
    header.update(count=reader.number(4), positions=[reader.number(8) for _ in range(3)])
    header.update(wall=reader.number(8), body=reader.raw(32))
    if header["mark"] != b"HWB\x01" or header["count"] == 0 or reader.at != len(data):
        raise ValueError("its header is malformed")
    return header


def read_entry(reader, partition, seq):
    """One entry, with its payload checked against its commitment and its place."""
    envelope, salt, payload = reader.bytes(), reader.raw(32), reader.bytes()
    fields = Reader(envelope)
    mark, _ = fields.raw(4), fields.raw(16)
    kind = (fields.bytes(), fields.number(2))
    place = (fields.number(4), fields.number(8))
    # The commitment is the last field of an envelope; the leaf vouches for those between.
    if mark != b"HWE\x01" or sha256(b"healwright/payload/v1\0", salt, payload) != envelope[-32:]:
        raise ValueError("payload does not match its commitment")
    if place != (partition, seq):
        raise ValueError("another entry stands in its place")
    return {"kind": kind, "leaf": sha256(b"\0", envelope), "payload": payload}


def elected_key(entry, deployment, partition, epoch):
    """The key that an election introduces, once its certificate chains to the root."""
    if entry["kind"] != (b"owner.elected", 1):
        raise ValueError("its epoch changes without an election")
    reader = Reader(entry["payload"], 10)
    elected, _, _ = reader.avro_long(), reader.avro_text(), reader.avro_text()
    key, root, node, by_root, by_node = (bytes.fromhex(reader.avro_text()) for _ in range(5))
    about = prefixed(deployment.encode())
    claim = about + struct.pack(">IQ", partition, epoch) + key
    root_hash = sha256(b"healwright/root/v1\0", root)[:16].hex()
    if elected != epoch or f"{deployment.rpartition('-')[0]}-{root_hash}" != deployment:
        raise ValueError("its election is of another epoch or root")
    if not verify_domain(root, "healwright/node-certificate/v1", about + node, by_root):
        raise ValueError("its node is not certified by the root")
    if not verify_domain(node, "healwright/epoch-certificate/v1", claim, by_node):
        raise ValueError("its epoch key is not certified by the node")
    return key


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
        self.leaves, self.epochs, self.seals = [], [], {}

    def reference(self, seq):
        return f"immutable:log:{self.partition}/{seq}"

    def header_key(self, header, entries):
        """The key that has to have signed a header; none when its election is damaged."""
        if header["epoch"] == self.epoch and self.key:
            return self.key
        if header["epoch"] != self.epoch + 1:
            raise ValueError("its epoch is not the next one")
        who = (self.deployment, self.partition, header["epoch"])
        return elected_key(entries[0], *who) if entries else None

    def follows(self, header):
        here = (self.deployment.encode(), self.partition, len(self.leaves), self.head)
        names = ("deployment", "partition", "first", "prev")
        forward = all(old <= new for old, new in zip(self.positions, header["positions"]))
        return here == tuple(header[name] for name in names) and forward

    def batch(self, data, at, name):
        """Takes the record at `at`; returns where it ends."""
        reader, expected = Reader(data, at), len(self.leaves)
        try:
            stored = reader.bytes()
            header, signature = read_header(stored), reader.raw(64)
            if not self.follows(header):
                raise ValueError("its header does not follow the batch before it")
            entries, fault = self.entries(reader, header, name)
            # An envelope that the body hash does not cover is told by the tile.
            body = sha256(b"healwright/body/v1\0", *(entry["leaf"] for entry in entries))
            if not fault and body != header["body"]:
                differ = [seq for seq, entry in enumerate(entries, expected)
                          if self.tile_leaves.get(seq, entry["leaf"]) != entry["leaf"]]
                for seq in differ[:1]:
                    why = f"its envelope is not what was signed ({name})"
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
        entries, expected = [], len(self.leaves)
        try:
            for seq in range(expected, expected + header["count"]):
                entries.append(read_entry(reader, self.partition, seq))
        except ValueError as error:
            return entries, Wrong(self.reference(expected + len(entries)), f"{error} ({name})")
        return entries, None

    def link(self, header, key, entries):
        if header["epoch"] != self.epoch:
            self.epochs.append((len(self.leaves), header["epoch"], key))
        self.epoch, self.key, self.positions = header["epoch"], key, header["positions"]
        for entry in entries:
            if entry["kind"] == (b"telemetry.sealed", 1):
                reader = Reader(entry["payload"], 10)
                start, _, digest = reader.avro_long(), reader.avro_long(), reader.avro_text()
                self.seals[f"telemetry/{start:012}.samples"] = (len(self.leaves), digest)
            self.leaves.append(entry["leaf"])


def read_note(name, data):
    """Text and signature lines of a C2SP signed note, canonical or not at all."""
    text = data.decode("utf-8", "replace")
    lines = r"((?:[^\x00-\x1f]*\n)+)\n((?:— [^\s+]+ [A-Za-z0-9+/]+=*\n)+)"
    match = re.fullmatch(lines, text)
    if not match:
        raise Wrong(name, "it is no signed note")
    signatures = []
    for line in match[2].splitlines():
        _, signer, encoded = line.split(" ")
        try:
            decoded = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise Wrong(name, "a signature line is no base64") from error
        if base64.b64encode(decoded).decode() != encoded or len(decoded) < 5:
            raise Wrong(name, "a signature line is not canonical")
        signatures.append((signer, decoded[:4], decoded[4:]))
    return match[1], signatures


def check_head(name, data, chain):
    """A signed head: its log, its root, and the epoch that had to sign it."""
    text, signatures = read_note(name, data)
    form = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]*)\n([^\n]{44})\n(?:[^\n]+\n)*", text)
    own = f"{chain.deployment}/{chain.partition}"
    if not form or form[1] != own:
        raise Wrong(name, "it is no head of this log")
    size, n_entries = int(form[2]), len(chain.leaves)
    _, epoch, key = [it for it in chain.epochs if it[0] < size][-1] if size else (0, 0, b"")
    signer = f"{own}/{epoch}"
    key_id = sha256(signer.encode(), b"\n\1", key)[:4]
    by_epoch = [it[2] for it in signatures if it[:2] == (signer, key_id)]
    if not by_epoch or not all(verify_bare(key, text.encode(), it) for it in by_epoch):
        raise Wrong(name, f"{signer} did not sign it")
    if size > n_entries:
        raise Wrong(chain.reference(n_entries), f"{size - n_entries} entries are missing from here")
    if form[3] != base64.b64encode(tree_root(chain.leaves[:size])).decode():
        raise Wrong(name, "its root is not that of the entries")


def tile_name(index, size):
    name, rest = f"{index % 1000:03}", index // 1000
    while rest:
        name, rest = f"x{rest % 1000:03}/{name}", rest // 1000
    width = min(size - index * 256, 256)
    return f"tile/0/{name}" + (f".p/{width}" if width < 256 else "")


def read_tiles(files):
    """The leaf hashes that the tiles claim, by sequence."""
    leaves = {}
    for name in (it for it in files if it.startswith("tile/0/")):
        first = int("0" + re.sub(r"[^0-9]", "", name[7:].split(".")[0])) * 256
        chunks = re.findall(rb"(?s).{32}", files[name])
        leaves.update((first + place, leaf) for place, leaf in enumerate(chunks))
    return leaves


def read_manifest(files):
    """Deployment, partition and the listed files: one form only, with its checksum."""
    text = files.get("manifest", b"").decode("ascii", "replace")
    lines = r"healwright-bundle v1\n(\S+)/(\d+)\n((?:[0-9a-f]{64} \d+ \S+\n)*)end ([0-9a-f]{64})\n"
    match = re.fullmatch(lines, text)
    if not match or sha256(text[: match.end(3)].encode()).hex() != match[4]:
        raise Wrong("manifest", "it is missing, or its checksum does not hold")
    listed = [line.split(" ") for line in match[3].splitlines()]
    return match[1], int(match[2]), {name: (digest, size) for digest, size, name in listed}


def verify(files, deployment=None):
    """Returns a line about the export, or raises what is wrong."""
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
        if name not in known or name not in files:
            raise Wrong(name, "it is missing, or an export holds no file of this name")
        if listed.get(name) != (sha256(files[name]).hex(), str(len(files[name]))):
            raise Wrong(name, "it is not what the manifest lists")
    return f"{size} entries hold, root {tree_root(chain.leaves).hex()}"


def read_export(path):
    files = {}
    for folder, _, names in os.walk(path):
        for full in (os.path.join(folder, name) for name in names):
            with open(full, "rb") as file:
                files[os.path.relpath(full, path).replace(os.sep, "/")] = file.read()
    journal = any(name.startswith("journal/") for name in files)
    if ("manifest" in files) + ("checkpoint" in files) + journal < 2:
        raise FileNotFoundError(f"{path} is no export: it lacks manifest, checkpoint or journal")
    return files


def main(arguments):
    deployment, worst = None, 0 if arguments else 2
    if arguments[:1] == ["--deployment"]:
        _, deployment, *arguments = arguments
    for path in arguments:
        try:
            print(f"ok {verify(read_export(path), deployment)}")
        except Wrong as wrong:
            print(f"wrong {wrong}")
            worst = max(worst, 1)
        except OSError as error:
            print(error)
            worst = 2
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
