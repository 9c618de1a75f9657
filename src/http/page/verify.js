// Checks the proof of one entry in the reader's browser: from the stored bytes to the signed
// root, and from its signature to the deployment's id. It takes no hash from the server on trust;
// what it cannot check it names.
//
// Ed25519 verifiers disagree. The rule here is the ledger's: keys canonical and in the prime-order
// subgroup, R canonical and not of low order, S < L, and then the browser's cofactorless equation.
"use strict";
(() => {
  const P = 2n ** 255n - 19n;
  const L = 2n ** 252n + 27742317777372353535851937790883648493n;
  const mod = (a) => ((a % P) + P) % P;
  const power = (base, exponent) => {
    let [result, square] = [1n, mod(base)];
    for (let e = exponent; e > 0n; e >>= 1n) {
      if (e & 1n) result = mod(result * square);
      square = mod(square * square);
    }
    return result;
  };
  const D = mod(-121665n * power(121666n, P - 2n));
  const ZERO = [0n, 1n, 1n, 0n];
  const add = ([x1, y1, z1, t1], [x2, y2, z2, t2]) => {
    const a = mod((y1 - x1) * (y2 - x2)), b = mod((y1 + x1) * (y2 + x2));
    const c = mod(2n * t1 * t2 * D), d = mod(2n * z1 * z2);
    const [e, f, g, h] = [b - a, d - c, d + c, b + a];
    return [mod(e * f), mod(g * h), mod(f * g), mod(e * h)];
  };
  const times = (point, n) => {
    let [sum, double] = [ZERO, point];
    for (let e = n; e > 0n; e >>= 1n) {
      if (e & 1n) sum = add(sum, double);
      double = add(double, double);
    }
    return sum;
  };
  const isZero = ([x, y, z]) => x === 0n && mod(y - z) === 0n;
  const little = (bytes) => bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);

  // The point of 32 bytes; null for an encoding that is not the canonical one of a point.
  function point(bytes) {
    const all = little(bytes), sign = all >> 255n, y = all & (2n ** 255n - 1n);
    if (y >= P) return null;
    const square = mod((y * y - 1n) * power(D * y * y + 1n, P - 2n));
    let x = power(square, (P + 3n) / 8n);
    if (mod(x * x) !== square) x = mod(x * power(2n, (P - 1n) / 4n));
    if (mod(x * x) !== square || (x === 0n && sign === 1n)) return null;
    if ((x & 1n) !== sign) x = P - x;
    return [x, y, 1n, mod(x * y)];
  }

  const bytes = (hex) => {
    if (!/^([0-9a-f]{2})*$/.test(hex)) throw new Error("not hexadecimal digits");
    return Uint8Array.from(hex.match(/../g) || [], (it) => parseInt(it, 16));
  };
  const text = (it) => new TextEncoder().encode(it);
  const join = (...parts) => {
    const all = new Uint8Array(parts.reduce((n, it) => n + it.length, 0));
    parts.reduce((at, it) => (all.set(it, at), at + it.length), 0);
    return all;
  };
  const big = (n, width) => {
    const out = new Uint8Array(width);
    for (let i = width - 1, v = BigInt(n); i >= 0; i--, v >>= 8n) out[i] = Number(v & 255n);
    return out;
  };
  const prefixed = (it) => join(big(it.length, 4), it);
  const same = (a, b) => a.length === b.length && a.every((it, i) => it === b[i]);
  const hash = async (...parts) =>
    new Uint8Array(await crypto.subtle.digest("SHA-256", join(...parts)));
  const base64 = (it) => Uint8Array.from(atob(it), (c) => c.charCodeAt(0));

  // What the envelope itself says of its place.
  function place(envelope) {
    const view = new DataView(envelope.buffer, envelope.byteOffset, envelope.length);
    if (!same(envelope.slice(0, 4), join(text("HWE"), [1]))) throw new Error("no envelope");
    const at = 24 + view.getUint32(20) + 2;
    return { partition: view.getUint32(at), seq: view.getBigUint64(at + 4) };
  }

  // RFC 9162, 2.1.3.2. A proof must use up exactly its hashes.
  async function root(leaf, index, size, path) {
    let [fn, sn, r] = [index, size - 1n, leaf];
    for (const it of path) {
      if (sn === 0n) throw new Error("the path is too long");
      if ((fn & 1n) === 1n || fn === sn) {
        r = await hash([1], it, r);
        while ((fn & 1n) === 0n && fn !== 0n) { fn >>= 1n; sn >>= 1n; }
      } else r = await hash([1], r, it);
      fn >>= 1n; sn >>= 1n;
    }
    if (sn !== 0n) throw new Error("the path is too short");
    return r;
  }

  const isGoodKey = (key) => {
    const it = key.length === 32 && point(key);
    return Boolean(it) && !isZero(it) && isZero(times(it, L));
  };
  const isGoodSignature = (signature) => {
    const r = signature.length === 64 && point(signature.slice(0, 32));
    return Boolean(r) && !isZero(times(r, 8n)) && little(signature.slice(32)) < L;
  };
  async function signed(key, message, signature) {
    if (!isGoodKey(key) || !isGoodSignature(signature)) return false;
    const usable = await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]);
    return crypto.subtle.verify("Ed25519", usable, signature, message);
  }
  async function hasEd25519() {
    const key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    try {
      await crypto.subtle.importKey("raw", bytes(key), "Ed25519", false, ["verify"]);
      return true;
    } catch { return false; }
  }

  // The head: a C2SP signed note, its text and the signature of the epoch's key.
  async function head(proof) {
    const end = proof.note.lastIndexOf("\n\n");
    if (end < 0) throw new Error("no signed note");
    const body = proof.note.slice(0, end + 1), lines = body.split("\n");
    const name = `${proof.deployment}/${proof.partition}/${proof.epoch}`;
    const key = bytes(proof.epoch_key);
    const id = (await hash(text(name), [10, 1], key)).slice(0, 4);
    const found = proof.note.slice(end + 2).split("\n").map((it) => it.split(" "))
      .filter(([dash, of]) => dash === "—" && of === name)
      .map(([, , it]) => base64(it)).find((it) => same(it.slice(0, 4), id));
    return { origin: lines[0], size: lines[1], root: base64(lines[2]), body, key,
      signature: found && found.slice(4) };
  }

  const NOT_CHECKED = null;

  // Every check as [what, holds]; `null` where this browser cannot say.
  async function check(proof) {
    const done = [];
    const envelope = bytes(proof.envelope), index = BigInt(proof.index), size = BigInt(proof.size);
    const domain = text("healwright/payload/v1\0");
    const commitment = await hash(domain, bytes(proof.salt), bytes(proof.payload));
    done.push(["the payload is the one that the envelope commits to",
      same(commitment, envelope.slice(-32))]);
    const at = place(envelope);
    done.push([`the envelope names this place: partition ${at.partition}, entry ${at.seq}`,
      at.seq === index && at.partition === proof.partition && index < size]);
    const signedHead = await head(proof);
    done.push([`the head is of this log and of ${size} entries`, signedHead.size === proof.size
      && signedHead.origin === `${proof.deployment}/${proof.partition}`]);
    const leaf = await hash([0], envelope);
    let reached = null;
    try { reached = await root(leaf, index, size, proof.path.map(bytes)); } catch { /* told below */ }
    done.push([`${proof.path.length} hashes lead from the stored bytes to the head's root`,
      Boolean(reached) && same(reached, signedHead.root)]);
    const rootKey = bytes(proof.root_key), nodeKey = bytes(proof.node_key);
    const short = (await hash(text("healwright/root/v1\0"), rootKey)).slice(0, 16);
    const digits = Array.from(short, (it) => it.toString(16).padStart(2, "0")).join("");
    done.push(["the deployment's id names the root key",
      proof.deployment.slice(proof.deployment.lastIndexOf("-") + 1) === digits]);
    const id = text(proof.deployment);
    const claim = join(prefixed(id), big(proof.partition, 4), big(proof.epoch, 8), signedHead.key);
    const domained = (of, message) => join(prefixed(text(of)), prefixed(message));
    const node = domained("healwright/node-certificate/v1", join(prefixed(id), nodeKey));
    const epoch = domained("healwright/epoch-certificate/v1", claim);
    const can = await hasEd25519();
    const holds = async (...it) => (can ? signed(...it) : NOT_CHECKED);
    done.push(["the root key signed the node's key",
      await holds(rootKey, node, bytes(proof.node_signature))]);
    done.push(["the node's key signed the epoch's key",
      await holds(nodeKey, epoch, bytes(proof.epoch_signature))]);
    done.push(["the epoch's key signed the head", signedHead.signature
      ? await holds(signedHead.key, text(signedHead.body), signedHead.signature) : false]);
    return done;
  }

  if (typeof document === "undefined") {
    module.exports = { check, isGoodKey, isGoodSignature };
    return;
  }
  function say(list, mark, words) {
    const item = document.createElement("li");
    item.className = { "●": "ok", "■": "red", "?": "unknown" }[mark];
    item.textContent = `${mark} ${words}`;
    list.append(item);
  }
  async function run(button) {
    const list = document.createElement("ol");
    list.id = "checks";
    list.setAttribute("aria-live", "polite");
    document.getElementById("checks").replaceWith(list);
    if (!globalThis.crypto || !crypto.subtle) {
      say(list, "?", "nothing was checked: a browser computes hashes only for pages from this "
        + "machine or over HTTPS; `healwright verify` checks without one");
      return;
    }
    try {
      const answer = await fetch(button.dataset.proof);
      if (!answer.ok) throw new Error("the proof cannot be loaded");
      const proof = await answer.json();
      const done = await check(proof);
      for (const [what, holds] of done) {
        if (holds === NOT_CHECKED) say(list, "?", `not checked, this browser has no Ed25519: ${what}`);
        else say(list, holds ? "●" : "■", holds ? what : `does NOT hold: ${what}`);
      }
      const bad = done.some(([, holds]) => holds === false);
      const open = done.some(([, holds]) => holds === NOT_CHECKED);
      say(list, bad ? "■" : open ? "?" : "●", bad ? "this entry is not proven"
        : open ? "it stands under this root; who signed the root was not checked"
          : `proven under deployment ${proof.deployment}`);
      say(list, "?", "not checked here: that this id is the one you wrote down, that the node "
        + "shows you the same history as others (a witness's head shows it), and that this script "
        + "is honest, for it came from the same node; `healwright verify --witness` needs none of "
        + "the three on trust");
    } catch (error) {
      say(list, "■", `the proof cannot be read: ${error.message}`);
    }
  }
  document.addEventListener("click", (event) => {
    if (event.target.id === "verify") run(event.target);
  });
  function ready() {
    const button = document.getElementById("verify");
    if (button) button.hidden = false;
    if (button && location.hash === "#verify") run(button);
  }
  ready();
  document.addEventListener("refreshed", ready);
})();
