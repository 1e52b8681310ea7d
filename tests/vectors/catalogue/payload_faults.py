"""Steps 15 to 22: the wrapped key, the ciphertext, and what lies inside it."""

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography import cobblestone
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from federation.blueprint import envelope, limits, weights
from kit import canonical
from pki import kem
from tests.fakes.federation import ARCHITECTURE, EMBEDDING
from tests.fakes.forge import TABLE, Case, Forge
from tests.vectors.catalogue.changes import byte_faults, setting
from tests.vectors.catalogue.envelope_faults import PICKLE
from tests.vectors.hostile import Vector

SEALED = "sealed again"
Make = Callable[[Forge], Case]


def flip(at: int) -> Callable[[bytes], bytes]:
    """Return a fault of one bit."""

    def alter(data: bytes) -> bytes:
        altered = bytearray(data)
        altered[at] ^= 1
        return bytes(altered)

    return alter


STEP_15 = {
    "no wrapped key": lambda data: b"",
    "a wrapped key cut by a byte": lambda data: data[:-1],
    "a byte after the wrapped key": lambda data: data + b"\0",
    "a wrapped key of zeros": lambda data: bytes(len(data)),
    "one bit of the encapsulation": flip(0),
    "one bit of the tag": flip(-1),
    "32 bytes that could be a plain key": lambda data: data[-48:-16],
}
STEP_16 = {
    "no ciphertext": lambda data: b"",
    "a ciphertext cut by a byte": lambda data: data[:-1],
    "a byte after the ciphertext": lambda data: data + b"\0",
    "one bit of the salt": flip(0),
    "one bit of the commitment": flip(30),
    "one bit of the last tag": flip(-1),
    "an empty archive of the same length": lambda data: (b"PK\x05\x06" + bytes(len(data)))[
        : len(data)
    ],
}


def _rewrapped(forge: Forge) -> Case:
    binding = forge.world.context(forge.world.a).binding
    return replace(forge.honest, wrapped_key=forge.wrap(forge.content_key, binding))


def _resealed(forge: Forge) -> Case:
    return replace(forge.honest, ciphertext=forge.seal().ciphertext)


def _wrapped(change: Callable[[Forge, bytes, bytes], bytes]) -> Make:
    """Return a maker whose wrapped key is off, and vouched for by the signature."""
    return lambda forge: forge.seal(wrap=lambda key, binding: change(forge, key, binding))


def _taken_over(forge: Forge) -> Case:
    """Return a's blueprint with b named as its sender and signed by b, channel and all."""
    b = forge.world.b

    def take_over(table: dict[str, Any]) -> None:
        table["predicate"]["context"] |= {"sender": b.identity.uri, "sender_cert": b.keyid}

    changed = forge.seal(change=take_over)
    payload = canonical.b64decode(canonical.decode(changed.envelope)["payload"])
    return replace(
        changed,
        envelope=forge.sign(payload, by=b),
        chain=b.signing_chain,
        verifier={"channel": b.identity.uri},
    )


def _low_order(forge: Forge, key: bytes, binding: bytes) -> bytes:
    wrapped = forge.wrap(key, binding)
    return wrapped[:1088] + bytes(32) + wrapped[1120:]  # X25519's neutral element as a share


STEP_17: dict[str, Make] = {
    "a flipped bit that is signed": _wrapped(lambda f, k, b: flip(5)(f.wrap(k, b))),
    "zeros that are signed": _wrapped(lambda f, k, b: bytes(kem.WRAPPED_BYTES)),
    "wrapped to another key": _wrapped(
        lambda f, k, b: kem.wrap(k, kem.public_key(kem.new_seed()), info=b)
    ),
    "wrapped for no context": _wrapped(lambda f, k, b: kem.wrap(k, f.world.recipient, info=b"")),
    "wrapped for the next sequence": _wrapped(
        lambda f, k, b: f.wrap(k, f.world.context(f.world.a, seq=8).binding)
    ),
    "the halves of two wrapped keys": _wrapped(
        lambda f, k, b: f.wrap(k, b)[:1120] + f.wrap(k, b)[1120:]
    ),
    "a share of low order": _wrapped(_low_order),
    "the plain key and padding": _wrapped(lambda f, k, b: k + bytes(kem.WRAPPED_BYTES - len(k))),
    "a sequence changed in the statement only": lambda f: f.signed(
        setting("predicate.context.seq", 8)
    ),
    "an id changed in the statement only": lambda f: f.signed(
        setting("predicate.context.id", "b-2")
    ),
    "taken over by another site": _taken_over,
}


def _encrypted(change: Callable[[bytes, bytes, bytes], bytes]) -> Make:
    """Return a maker whose ciphertext is off, and vouched for by the signature."""
    return lambda forge: forge.seal(encrypt=change)


def _small_suite(plaintext: bytes, key: bytes, binding: bytes) -> bytes:
    encryptor = cobblestone.Cobblestone128Encryptor(key[:16], binding)
    return encryptor.update(plaintext) + encryptor.finalize()


def _counter_mode(plaintext: bytes, key: bytes, _binding: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return encryptor.update(plaintext) + encryptor.finalize()


def _two_chunks(cut: slice) -> Make:
    """Return a maker with a payload of two chunks, of which a part is sent."""

    def make(forge: Forge) -> Case:
        whole = forge.weights + bytes(20_000)

        def encrypt(plaintext: bytes, key: bytes, binding: bytes) -> bytes:
            return envelope.encrypt(plaintext, key, binding)[cut]

        return forge.seal(data=whole, encrypt=encrypt)

    return make


STEP_18: dict[str, Make] = {
    "the payload in plain": _encrypted(lambda p, k, b: p),
    "encrypted under another key": _encrypted(
        lambda p, k, b: envelope.encrypt(p, os.urandom(32), b)
    ),
    "encrypted for no context": _encrypted(lambda p, k, b: envelope.encrypt(p, k, b"")),
    "a flipped bit of the salt": _encrypted(lambda p, k, b: flip(0)(envelope.encrypt(p, k, b))),
    "a flipped bit of the commitment": _encrypted(
        lambda p, k, b: flip(24)(envelope.encrypt(p, k, b))
    ),
    "a flipped bit of the text": _encrypted(lambda p, k, b: flip(60)(envelope.encrypt(p, k, b))),
    "the tag cut off": _encrypted(lambda p, k, b: envelope.encrypt(p, k, b)[:-16]),
    "a chunk of zeros after the last": _encrypted(
        lambda p, k, b: envelope.encrypt(p, k, b) + bytes(16)
    ),
    "nothing but salt and commitment": _encrypted(lambda p, k, b: envelope.encrypt(p, k, b)[:56]),
    "an empty ciphertext": _encrypted(lambda p, k, b: b""),
    "a smaller suite": _encrypted(_small_suite),
    "counter mode without a tag": _encrypted(_counter_mode),
    "the last chunk left out": _two_chunks(slice(0, 56 + 16384 + 16)),
    "the first chunk left out": _two_chunks(slice(56 + 16384 + 16, None)),
}


def _plain(change: Callable[[bytes, bytes], bytes]) -> Make:
    """Return a maker that encrypts something else than the two signed files."""
    return lambda forge: forge.seal(plaintext=change(forge.weights, forge.architecture))


def _shift(table: dict[str, Any]) -> None:
    first, second = table["subject"][1]["annotations"], table["subject"][2]["annotations"]
    first["length"] -= 1
    second["offset"] -= 1
    second["length"] += 1


STEP_19: dict[str, Make] = {
    "another digest of the weights": lambda f: f.signed(
        setting("subject.1.digest.sha256", "0" * 64)
    ),
    "another digest of the architecture": lambda f: f.signed(
        setting("subject.2.digest.sha256", "0" * 64)
    ),
    "an architecture a byte shorter": lambda f: f.signed(
        setting("subject.2.annotations.length", len(f.architecture) - 1)
    ),
    "an architecture a byte longer": lambda f: f.signed(
        setting("subject.2.annotations.length", len(f.architecture) + 1)
    ),
    "a boundary moved by a byte": lambda f: f.signed(_shift),
    "the files in the other order": _plain(lambda w, a: a + w),
    "a file that was left out": _plain(lambda w, a: w),
    "a byte after the files": _plain(lambda w, a: w + a + b"\0"),
    "an empty plaintext": _plain(lambda w, a: b""),
    "one bit of a weight": _plain(lambda w, a: flip(-1)(w) + a),
}


def _file(data: bytes) -> Make:
    return lambda forge: forge.seal(file=data)


STEP_20: dict[str, Make] = {
    "another preset in the file": _file(canonical.encode(ARCHITECTURE | {"preset": "other"})),
    "a field more in the file": _file(canonical.encode(ARCHITECTURE | {"code": "import os"})),
    "a line end after the architecture": _file(canonical.encode(ARCHITECTURE) + b"\n"),
    "keys of the file in another order": _file(b'{"version":1,"kind":"hand-made","preset":"tiny"}'),
    "a number for a text": _file(b'{"kind":"hand-made","preset":"tiny","version":"1"}'),
    "a file that is a pickle": _file(PICKLE),
    "a file that is a zero byte": _file(b"\0"),
    "an architecture of nested lists": _file(b"[" * limits.MAX_ARCHITECTURE_BYTES),
}


def _archive(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), PICKLE)
    return data.getvalue()


def _data(change: Callable[[bytes], bytes]) -> Make:
    def make(forge: Forge) -> Case:
        altered = change(forge.weights)
        assert altered != forge.weights
        return forge.seal(data=altered)

    return make


def _with_metadata(data: bytes) -> bytes:
    text = data[8 : len(weights.header(TABLE))].rstrip(b" ")
    text = text.replace(b'{"head.bias"', b'{"__metadata__":{"a":"b"},"head.bias"')
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[len(weights.header(TABLE)) :]


def _header_length(length: int) -> Callable[[bytes], bytes]:
    return lambda data: length.to_bytes(8, "little") + data[8:]


def _rewritten(table: weights.Table) -> Callable[[bytes], bytes]:
    return lambda data: weights.header(table) + bytes(weights.payload_bytes(table))


ROW = TABLE[EMBEDDING][1]
STEP_21: dict[str, Make] = {
    "weights a byte shorter": _data(lambda d: d[:-1]),
    "weights a byte longer": _data(lambda d: d + b"\0"),
    "weights a value longer": _data(lambda d: d + bytes(2)),
    "a header and no data": _data(lambda d: d[: len(weights.header(TABLE))]),
    "weights of one byte": _data(lambda d: b"\0"),
    "metadata in the header": _data(_with_metadata),
    "a header eight bytes longer": _data(_header_length(len(weights.header(TABLE)))),
    "a header of 2 to the 63": _data(_header_length(1 << 63)),
    "a header of all the bytes there are": _data(_header_length((1 << 64) - 1)),
    "a header of no bytes": _data(_header_length(0)),
    "another type": _data(lambda d: d.replace(b"BF16", b"F16 ", 1)),
    "a shape turned round": _data(lambda d: d.replace(b"[3,64]", b"[64,3]")),
    "another name": _data(lambda d: d.replace(b'"head.bias"', b'"head.bios"')),
    "a name twice": _data(lambda d: d.replace(b'"label.weight"', b'"head.bias"   ')),
    "a blank at the front of the padding": _data(lambda d: d.replace(b"}}", b"} }", 1)),
    "data that overlap": _data(lambda d: d.replace(b"[6,390]", b"[0,384]")),
    "a hole in the data": _data(lambda d: d.replace(b"[6,390]", b"[8,392]")),
    "a tensor less": _data(_rewritten({EMBEDDING: TABLE[EMBEDDING]})),
    "a tensor more": _data(_rewritten({**TABLE, "hidden": ("BF16", (4,))})),
    "an empty tensor more": _data(_rewritten({**TABLE, "hidden": ("BF16", (0,))})),
    "a pickle for weights": _data(lambda d: PICKLE),
    "an archive with a pickle": _data(lambda d: _archive("archive/data.pkl")),
    "an archive with a path": _data(lambda d: _archive("../../etc/cron.d/x")),
}


def _bits(name: str, at: int, bits: int) -> Make:
    def change(values: dict[str, Any]) -> None:
        values[name].flat[at] = bits

    return lambda forge: forge.seal(data=forge.raw_weights(change))


def _bf16(value: float) -> int:
    return int(np.float32(value).view(np.uint32)) >> 16


def _everywhere(bits: int) -> Make:
    """Return a maker whose declared rows all hold one value."""

    def change(values: dict[str, Any]) -> None:
        values[EMBEDDING][:2] = bits

    return lambda forge: forge.seal(data=forge.raw_weights(change))


HIDDEN = 2 * ROW[1]  # the first value of the undeclared class
STEP_22: dict[str, Make] = {
    "a value that is no number": _bits("head.bias", 0, 0x7FC0),
    "a value that is no number with a sign": _bits(EMBEDDING, 0, 0xFFC0),
    "a signalling value": _bits(EMBEDDING, 7, 0x7F81),
    "an infinite value": _bits("head.bias", 2, 0x7F80),
    "minus infinity": _bits(EMBEDDING, 1, 0xFF80),
    "the largest value there is": _bits("head.bias", 0, 0x7F7F),
    "a value over the limit": _bits(EMBEDDING, 0, _bf16(2 * limits.MAX_ABS_WEIGHT)),
    "a negative value over the limit": _bits("head.bias", 1, _bf16(-2 * limits.MAX_ABS_WEIGHT)),
    "a norm over the limit": _everywhere(_bf16(9984.0)),
    "an undeclared row that is not zero": _bits(EMBEDDING, HIDDEN, _bf16(2.0**-20)),
    "the smallest number in an undeclared row": _bits(EMBEDDING, HIDDEN + 63, 1),
    "a sign in an undeclared row": _bits(EMBEDDING, HIDDEN + 1, 0x8000),
    "no number in an undeclared row": _bits(EMBEDDING, HIDDEN, 0x7FC0),
}
PEERS = {
    "32 bytes that could be a plain key": "GHSA-rjmv-52mp-gjrr: input in plain was accepted",
    "the payload in plain": "GHSA-rjmv-52mp-gjrr: input in plain was accepted",
    "counter mode without a tag": "vantage6: streamed blobs in a mode without authentication",
    "an empty archive of the same length": "NVFlare PR 5091: an empty archive replaced a good one",
    "a file that is a pickle": "GHSA-89gg-p5r5-q6r4: a description was unpickled",
    "a pickle for weights": "CVE-2025-58756, CVE-2022-31604, CVE-2022-31605: weights unpickled",
    "an archive with a pickle": "CVE-2025-58756: torch.load of a stranger's archive",
    "an archive with a path": "CVE-2026-21851: an archive wrote outside its folder",
    "data that overlap": "CVE-2025-23319, CVE-2025-23320, CVE-2025-23334: regions believed",
    "a value that is no number": "NVFlare PR 4422: NaN weights were accepted",
    "an infinite value": "NVFlare PR 4422: infinite weights were accepted",
}


def _widest(forge: Forge) -> Case:
    """Return a blueprint whose values lie at the limits and within."""

    def change(values: dict[str, Any]) -> None:
        values["head.bias"][:] = [_bf16(9984.0), 0x8000, 1]  # also minus zero and a subnormal

    return forge.seal(data=forge.raw_weights(change))


def catalogue() -> list[Vector]:
    """Return the vectors of steps 15 to 22."""
    made = {17: STEP_17, 18: STEP_18, 19: STEP_19, 20: STEP_20, 21: STEP_21, 22: STEP_22}
    bytes_family = "altered bytes"
    return [
        Vector(step=0, fault=SEALED, family=SEALED, make=lambda f: f.seal()),
        Vector(step=0, fault="values at their limits", family=SEALED, make=_widest),
        *byte_faults(15, "wrapped_key", STEP_15, peers=PEERS),
        Vector(step=15, fault="another wrapping of the key", family=bytes_family, make=_rewrapped),
        *byte_faults(16, "ciphertext", STEP_16, peers=PEERS),
        Vector(step=16, fault="the payload sealed again", family=bytes_family, make=_resealed),
        *(
            Vector(step=step, fault=fault, family=SEALED, make=make, peer=PEERS.get(fault, ""))
            for step, faults in made.items()
            for fault, make in faults.items()
        ),
    ]
