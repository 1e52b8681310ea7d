"""This site's own copies of what it sent, sealed to itself: a lost payload is sent again for free.

One copy per sealed blueprint, under a secret of its own in the home, so that destroying the secret
is the end of the copy (A2): a withdrawal, a revocation and a rejection do it. A copy holds what
sealing needs, so it serves after the coordinator's key changed and without the run's weights.
"""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography import cobblestone

from edge_agent.home import Home
from edge_agent.outgoing import Outgoing, mechanism_of
from federation.blueprint import envelope, limits
from federation.blueprint.privacy import PrivacyClaim
from federation.blueprint.statement import Gate
from kit import canonical
from kit.errors import KitError
from kit.files import os_errors, private_folder, read_limited, replacing, write_atomic
from pki import keys

COPY, RUN, STUDY, RESTORED = "copy.sealed", "run", "study", "weights.restored"
VERSION = 1
_LENGTH_BYTES = 4
_SECRET_BYTES = 32
_CHUNK_BYTES = 1 << 20


def keep(home: Home, run: str, digest: str, item: Outgoing) -> None:
    """Keep what was sealed into blueprint `digest`; earlier copies of the run go."""
    secret = os.urandom(_SECRET_BYTES)
    head = canonical.encode(_head(item))
    folder = home.path / "copies" / digest
    private_folder(folder.parent)
    keys.write_secret(_secret_path(home, digest), secret)
    write_atomic(folder / RUN, run.encode(), mode=0o600)
    write_atomic(folder / STUDY, item.study.digest.encode(), mode=0o600)
    encryptor = cobblestone.Cobblestone256Encryptor(secret, _context(digest))
    with (
        replacing(folder / COPY, mode=0o600) as part,
        item.weights.open("rb") as source,
        part.open("wb") as sink,
    ):
        sink.write(encryptor.update(len(head).to_bytes(_LENGTH_BYTES, "big") + head))
        while chunk := source.read(_CHUNK_BYTES):
            sink.write(encryptor.update(chunk))
        sink.write(encryptor.finalize())
    for other in _folders(home):  # last: the weights may be the ones restored from there
        if other.name != digest and (other / RUN).read_text() == run:
            destroy(home, other.name)


def find(home: Home, run: str) -> Outgoing | None:
    """Return what was sent of a run, with the ledger's head as it is now; None without a copy.

    Its weights lie restored in a file until the end of `put_away`.

    Raises:
        KitError: the copy was altered, or its study is not known here.
    """
    for folder in _folders(home):
        if (folder / RUN).read_text() == run and (folder / COPY).is_file():
            return _open(home, folder)
    return None


def destroy(home: Home, digest: str) -> None:
    """End one copy: its secret first."""
    path = _secret_path(home, digest)
    with os_errors(path), suppress(FileNotFoundError):
        with path.open("r+b") as stream:
            stream.write(os.urandom(path.stat().st_size))
            stream.flush()
            os.fsync(stream.fileno())
        path.unlink()
    folder = home.path / "copies" / digest
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def purge(home: Home, *, ended: Collection[str], closed: Collection[str]) -> None:
    """Destroy the copies of blueprints that ended, and of studies that take no more."""
    for folder in _folders(home):
        if folder.name in ended or (folder / STUDY).read_text() in closed:
            destroy(home, folder.name)


@contextmanager
def put_away(home: Home) -> Iterator[None]:
    """Delete the weights that `find` restored once the block is done with them."""
    try:
        yield
    finally:
        for path in (home.path / "copies").glob(f"*/{RESTORED}"):
            path.unlink(missing_ok=True)


def _restored(folder: Path, weights: bytes) -> Path:
    """Put the weights where sealing reads them; as readable as the run's own were."""
    write_atomic(folder / RESTORED, weights, mode=0o600)
    return folder / RESTORED


def _folders(home: Home) -> list[Path]:
    """Return the folders that are whole enough to say whose they are."""
    folder = home.path / "copies"
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if (path / RUN).is_file() and (path / STUDY).is_file()]


def _open(home: Home, folder: Path) -> Outgoing:
    from edge_agent import runs

    secret = keys.read_secret(_secret_path(home, folder.name))
    sealed = read_limited(folder / COPY, limit=2 * limits.MAX_PAYLOAD_BYTES, what="own copy")
    plaintext = envelope.decrypt(sealed, secret, _context(folder.name))
    length = int.from_bytes(plaintext[:_LENGTH_BYTES], "big")
    head = canonical.decode(plaintext[_LENGTH_BYTES : _LENGTH_BYTES + length])
    study = next((s for s in home.studies() if s.digest == head["study"]), None)
    if study is None:
        raise KitError(f"the copy of run `{head['run']}` is of a study that is not known here")
    mechanism = json.loads(head["mechanism"])
    with runs.open_ledger(home) as ledger:
        ledger_head, counter = ledger.head()
    return Outgoing(
        study=study,
        weights=_restored(folder, plaintext[_LENGTH_BYTES + length :]),
        architecture=head["architecture"],
        outputs=tuple(head["outputs"]),
        base=head.get("base"),  # copies of before bases were have none
        privacy=PrivacyClaim(
            unit=head["unit"],
            gaussian=None if mechanism is None else mechanism_of(mechanism),
            ledger_head=ledger_head,
            ledger_counter=counter,
        ),
        gate=Gate(**head["gate"]),
    )


def _head(item: Outgoing) -> dict[str, Any]:
    gaussian = item.privacy.gaussian
    return {
        "version": VERSION,
        "study": item.study.digest,
        "architecture": item.architecture,
        "outputs": list(item.outputs),
        "base": item.base,
        "unit": item.privacy.unit,
        # Reals as Python writes them: they read back as the same doubles.
        "mechanism": json.dumps(asdict(gaussian) if gaussian is not None else None),
        "gate": asdict(item.gate),
    }


def _secret_path(home: Home, digest: str) -> Path:
    return home.key(f"copy-{canonical.sha256_hex(digest)}.key")


def _context(digest: str) -> bytes:
    return b"own copy v1 " + bytes.fromhex(digest)
