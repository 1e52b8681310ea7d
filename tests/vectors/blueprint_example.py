"""The committed blueprint of format version 1, and the worked example of its specification.

`python tests/vectors/blueprint_example.py` prints section 7 of `docs/blueprint-format.md` from the
committed files: the same text at every run. `--make DIR` seals a new blueprint for a new version;
sealing draws fresh keys, so its bytes differ every time, and a committed one is never replaced.
"""

import argparse
import base64
import json
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

from federation import dsse
from federation.blueprint import envelope, weights
from federation.blueprint.statement import PAYLOAD_TYPE, WEIGHTS, Statement
from kit import canonical
from pki import certificates, kem

V1 = Path(__file__).parent / "blueprint-v1"
SEALED_AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
TABLE: weights.Table = {"head.bias": ("BF16", (3,)), "label.weight": ("BF16", (3, 4))}
EMBEDDING = "label.weight"


def main() -> None:
    """Print the worked example, or make another blueprint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", type=Path, metavar="DIR")
    folder = parser.parse_args().make
    if folder is None:
        sys.stdout.write(worked_example(V1))
    else:
        make(folder)


def make(folder: Path) -> None:
    """Seal a blueprint of a fresh federation into `folder`, which must not exist."""
    from tests.fakes import federation

    world = federation.found()
    sealed = world.seal(world.a)
    folder.mkdir()
    (folder / "root.der").write_bytes(certificates.der(world.root.certificate))
    (folder / "signing-chain.pem").write_bytes(certificates.pem(*world.a.signing_chain))
    (folder / "study.json").write_bytes(world.study.to_bytes())
    (folder / "recipient-seed.hex").write_text(world.recipient_seed.hex() + "\n")
    (folder / "statement.dsse.json").write_bytes(sealed.envelope)
    (folder / "wrapped-key").write_bytes(sealed.wrapped_key)
    (folder / "payload.c2sp").write_bytes(sealed.ciphertext)


def worked_example(folder: Path) -> str:
    """Return the worked example as Markdown."""
    raw = (folder / "statement.dsse.json").read_bytes()
    parsed = dsse.parse(raw, PAYLOAD_TYPE)
    statement = Statement.from_bytes(parsed.payload)
    wrapped = (folder / "wrapped-key").read_bytes()
    ciphertext = (folder / "payload.c2sp").read_bytes()
    seed = bytes.fromhex((folder / "recipient-seed.hex").read_text())
    key = envelope.unwrap_key(wrapped, seed, statement)
    plaintext = envelope.open_payload(ciphertext, key, statement)
    tensors = envelope.part(plaintext, statement, WEIGHTS)
    context = canonical.encode(json.loads(parsed.payload)["predicate"]["context"])
    head = weights.header(TABLE)
    parts = [
        _prose(
            f"The tensor table has {len(TABLE)} entries; `{EMBEDDING}` has one row per class"
            " (`cat`, `dog`, `eel`), and the site declared `cat` and `dog`. The safetensors"
            f" header is 8 length bytes, `{head[:8].hex()}`, and"
        ),
        _block(head[8:].decode().rstrip(" ")),
        _prose(
            f"padded with blanks to {len(head)} bytes; the data are"
            f" {len(tensors) - len(head)} bytes:"
        ),
        _block(tensors[len(head) :].hex()),
        _prose(
            f"The plaintext is `weights.safetensors` ({len(tensors)} bytes) and then"
            f" `architecture.json` ({len(plaintext) - len(tensors)} bytes):"
        ),
        _block(plaintext[len(tensors) :].decode()),
        "The context, canonical:",
        _block(context.decode()),
        _prose(
            "Its binding, the eight bytes `FFBP v1 ` and the SHA-256 of the context,"
            f" {len(statement.context.binding)} bytes:"
        ),
        _block(statement.context.binding.hex()),
        _prose(
            f"The recipient's seed is `{seed.hex()}`, and `kid` the SHA-256 of its"
            f" {kem.PUBLIC_BYTES}-byte public key. The wrapped key, {len(wrapped)} bytes with"
            f" SHA-256 `{canonical.digest(wrapped)}`, opens with that binding to the content key"
        ),
        _block(key.hex()),
        _prose(
            f"which opens the ciphertext, {len(ciphertext)} bytes (salt 24, commitment 32,"
            f" plaintext {len(plaintext)}, tag 16):"
        ),
        _block(base64.b64encode(ciphertext).decode()),
        _prose(
            f"The statement, {len(parsed.payload)} bytes, names the blueprint `{statement.digest}`:"
        ),
        _block(parsed.payload.decode()),
        _prose(
            "The envelope around it carries the fingerprint of the signing certificate and an"
            " Ed25519 signature:"
        ),
        _block(f"keyid {parsed.keyid}\nsig   {canonical.b64encode(parsed.signature)}"),
    ]
    return "\n\n".join(parts) + "\n"


def _prose(text: str) -> str:
    return textwrap.fill(text, 100, break_on_hyphens=False, break_long_words=False)


def _block(text: str) -> str:
    lines = [line[i : i + 96] for line in text.split("\n") for i in range(0, len(line), 96)]
    return "```\n" + "\n".join(lines) + "\n```"


if __name__ == "__main__":
    main()
