"""This site's own copies of what it sent, sealed to itself: a lost payload is sent again for free.

One copy per sealed blueprint: the very ciphertext that went out, its statement, and the key that
opens it in a secret of its own, so that destroying the secret is the end of the copy (A2): a
withdrawal, a revocation and a rejection do it. A copy holds what sealing needs, so it serves after
the coordinator's key changed and without the run's weights.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from edge_agent import outbox
from edge_agent.home import Home
from edge_agent.outbox import CIPHERTEXT, ENVELOPE, RUN
from edge_agent.outgoing import Outgoing
from federation.blueprint import envelope, limits
from federation.blueprint.statement import WEIGHTS, Statement
from kit import canonical
from kit.errors import KitError
from kit.files import os_errors, private_folder, read_limited, replacing, write_atomic
from pki import keys

RESTORED = "weights.restored"
_KEY_BYTES = 32  # in the secret, before the digest of the statement that the key is for


def keep(home: Home, run: str, sealed: Path, content_key: bytes) -> None:
    """Keep the blueprint in the folder `sealed`, and its key; earlier copies of the run go."""
    digest = sealed.name
    folder = home.path / "copies" / digest
    private_folder(folder.parent)
    keys.write_secret(_secret_path(home, digest), content_key + bytes.fromhex(digest))
    private_folder(folder)
    _link(sealed / CIPHERTEXT, folder / CIPHERTEXT)
    write_atomic(folder / ENVELOPE, home.read(sealed / ENVELOPE, "statement"), mode=0o600)
    write_atomic(folder / RUN, run.encode(), mode=0o600)  # last: it makes the copy one
    for other in _folders(home):
        if other.name != digest and (other / RUN).read_text() == run:
            destroy(home, other.name)


def _link(source: Path, target: Path) -> None:
    """Give the same bytes a second name; no second writing of them, where the disk knows how."""
    try:
        target.hardlink_to(source)
    except OSError:
        with replacing(target, mode=0o600) as part:
            shutil.copyfile(source, part)


def find(home: Home, run: str) -> Outgoing | None:
    """Return what was sent of a run, with the ledger's head as it is now; None without a copy.

    Its weights lie restored in a file until the end of `put_away`.

    Raises:
        KitError: the copy was altered, or its study is not known here.
    """
    for folder in _folders(home):
        if (folder / RUN).read_text() == run and (folder / ENVELOPE).is_file():
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
        if folder.name in ended or _study_of(folder) in closed:
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
    return [path for path in found if (path / RUN).is_file()]


def _study_of(folder: Path) -> str | None:
    """Return the digest of a copy's study; None for an earlier form, which opens no more."""
    if not (folder / ENVELOPE).is_file():
        return None
    return outbox.statement(folder).context.study_digest


def _open(home: Home, folder: Path) -> Outgoing:
    from edge_agent import runs

    secret = keys.read_secret(_secret_path(home, folder.name))
    statement = outbox.statement(folder)
    if secret[_KEY_BYTES:] != bytes.fromhex(statement.digest):
        raise KitError(f"the statement of copy `{folder.name[:16]}` is not the one that was signed")
    digest = statement.context.study_digest
    study = next((s for s in home.studies() if s.digest == digest), None)
    if study is None:
        raise KitError(f"copy `{folder.name[:16]}` is of a study that is not known here")
    with runs.open_ledger(home) as ledger:
        head, counter = ledger.head()
    return Outgoing(
        study=study,
        weights=_restored(folder, _weights(folder, statement, secret[:_KEY_BYTES])),
        architecture=statement.architecture,
        outputs=statement.outputs,
        base=statement.context.base,
        privacy=replace(statement.privacy, ledger_head=head, ledger_counter=counter),
        gate=statement.gate,
    )


def _weights(folder: Path, statement: Statement, content_key: bytes) -> bytes:
    limit = 2 * limits.MAX_PAYLOAD_BYTES
    ciphertext = read_limited(folder / CIPHERTEXT, limit=limit, what="own copy")
    plaintext = envelope.open_payload(ciphertext, content_key, statement)
    return envelope.part(plaintext, statement, WEIGHTS)


def _secret_path(home: Home, digest: str) -> Path:
    return home.key(f"copy-{canonical.sha256_hex(digest)}.key")
