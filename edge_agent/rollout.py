"""Which release a site answers with: fetched, tried as a shadow, accepted by a person, rolled back.

A release that was fetched answers nobody until a person here accepts it; beside an accepted one it
runs as its *shadow*, and its answers are compared and dropped. Acts are kept in order: the accepted
releases form a stack, and a rollback takes its top away. Who may write the home may accept.
"""

import os
import pwd
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent import contact, installed
from edge_agent.home import Home
from edge_agent.installed import Installed
from federation.study import Study
from kit import canonical, clock
from kit.errors import KitError
from kit.files import exclusive, write_atomic

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from edge_agent.inference import InstalledModel

VERSION = 1
ACCEPT, ROLLBACK = "accept", "rollback"
MIN_PREFIX = 8  # digits of the digest that a person has to give
MAX_ACTS = 1000
_ACCEPT_HINT = "`edge-agent evaluate`, then `edge-agent releases accept`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One decision about a release; `account` is the operating system's name for who ran it."""

    act: str
    release: str
    time: str
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An installed release as `releases list` shows it.

    `stage` is `active`, `shadow` (fetched last, not accepted), `earlier` (accepted before) or
    `kept`; `unusable` says why it would not answer now, or is empty.
    """

    study: str
    release: str
    stage: str
    labels: tuple[str, ...]
    created: str
    evaluated: str
    unusable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a study's releases stand at this site; digests, None where there is none."""

    accepted: tuple[str, ...]
    shadow: str | None

    @property
    def active(self) -> str | None:
        """The release that answers."""
        return self.accepted[-1] if self.accepted else None


def record(home: Home, study: str) -> Path:
    """Return the file of a study's acts."""
    return home.releases / f"accepted-{canonical.name(study, what='study id')}.json"


def acts(home: Home, study: Study) -> tuple[Act, ...]:
    """Return every act about a study's releases, oldest first.

    Raises:
        FormatError: the record is damaged.
    """
    path = record(home, study.id)
    if not path.is_file():
        return ()
    table = canonical.decode(home.read(path, "record of accepted releases"))
    canonical.fields(table, {"version", "acts"}, what="record of accepted releases")
    canonical.version(table["version"], expected=VERSION, what="record of accepted releases")
    return tuple(_act(row) for row in table["acts"])


def stage(home: Home, study: Study) -> Stage:
    """Return where a study's releases stand.

    Raises:
        FormatError: the record is damaged.
    """
    accepted: list[str] = []
    for act in acts(home, study):
        if act.act == ROLLBACK and act.release in accepted:
            del accepted[accepted.index(act.release) + 1 :]
        else:
            accepted = [digest for digest in accepted if digest != act.release] + [act.release]
    newest = installed.fetched(home, study)
    is_shadow = newest is not None and newest not in accepted[-1:]
    return Stage(accepted=tuple(accepted), shadow=newest if is_shadow else None)


def accept(
    home: Home, study_name: str, prefix: str, *, unevaluated: bool = False, now: datetime
) -> Act:
    """Let a release answer from now on; a running `serve` takes it up by itself.

    Args:
        home: the site's.
        study_name: the study's id.
        prefix: at least eight digits of the release's digest, which the person gives.
        unevaluated: accept it though nobody evaluated it on this site's own images.
        now: the time.

    Raises:
        KitError: no such release, it must not be used, or nobody evaluated it here.
    """
    study = home.study(study_name)
    with _writing(home, study):
        digest = find(home, study, prefix)
        opened(home, study_name, installed.load(home, study_name, now=now, digest=digest))
        if not (unevaluated or _evaluated(home, digest).is_file()):
            raise KitError(
                f"nobody evaluated release `{digest[:16]}` on this site's own images",
                hint="run `edge-agent evaluate` first, or give --unevaluated",
            )
        if stage(home, study).active == digest:
            raise KitError(f"release `{digest[:16]}` is the accepted one already")
        return _append(home, study, ACCEPT, digest, now)


def rollback(home: Home, study_name: str, *, now: datetime) -> Act:
    """Let the release that was accepted before answer again, skipping those out of use.

    Raises:
        KitError: there is none that may be used.
    """
    study = home.study(study_name)
    with _writing(home, study):
        earlier = stage(home, study).accepted[:-1]
        reasons = []
        for digest in reversed(earlier):
            try:
                installed.load(home, study_name, now=now, digest=digest)
            except KitError as error:
                reasons.append(str(error))
                continue
            return _append(home, study, ROLLBACK, digest, now)
    why = f": {reasons[0]}" if reasons else ""
    raise KitError(
        f"study `{study.id}` has no earlier accepted release to go back to{why}",
        hint="stop `edge-agent serve` if the present one must not answer",
    )


def load(home: Home, study_name: str, *, now: datetime, prefix: str = "") -> tuple[Installed, bool]:
    """Return the release to predict with, and whether a person here accepted it.

    That is the one named, else the accepted one, else the one that was fetched last.

    Raises:
        KitError: it must not be used, or there is none.
    """
    study = home.study(study_name)
    active = stage(home, study).active
    if prefix:
        digest: str | None = find(home, study, prefix)
    else:
        digest = active
        _require_replaced(home, active)
    found = installed.load(home, study_name, now=now, digest=digest)
    return found, found.release.digest == active


def _require_replaced(home: Home, active: str | None) -> None:
    """Refuse to fall silently from a withdrawn accepted release to one that nobody accepted."""
    known = contact.known(home)
    if active is not None and known is not None and active in known.withdrawn_releases:
        raise KitError(
            f"release `{active[:16]}`, which was accepted here, is withdrawn",
            hint=f"run `edge-agent fetch`, {_ACCEPT_HINT}",
        )


def opened(home: Home, study_name: str, found: Installed) -> "InstalledModel":
    """Return a release that was verified just now, ready to predict.

    Raises:
        KitError: the lint refuses it, the runtime cannot open it, or computes it otherwise than its
            golden images say.
    """
    from edge_agent import inference

    contract = found.contract(home.study(study_name))
    return inference.open_model(found.model, contract=contract, golden=found.golden)


def find(home: Home, study: Study, prefix: str) -> str:
    """Return the digest of the one installed release of a study that begins with `prefix`.

    Raises:
        KitError: there is none, several, or the prefix is too short.
    """
    shown = canonical.printable(prefix)
    if len(prefix) < MIN_PREFIX:
        raise KitError(f"`{shown}` is too short: give {MIN_PREFIX} digits of the digest or more")
    matching = [d for d in _installed(home, study) if d.startswith(prefix)]
    if len(matching) != 1:
        words = "several releases" if matching else "no installed release"
        raise KitError(
            f"{words} of study `{study.id}` begin with `{shown}`",
            hint="see `edge-agent releases list`",
        )
    return matching[0]


def listing(home: Home, *, now: datetime) -> list[Listed]:
    """Return every installed release, by study, the newest first.

    Raises:
        FormatError: a record is damaged.
    """
    rows = []
    for study in home.studies():
        where = stage(home, study)
        of_study = [_listed(home, study, where, d, now=now) for d in _installed(home, study)]
        rows += sorted(of_study, key=lambda row: row.created, reverse=True)
    return rows


def note_evaluation(home: Home, digest: str, *, now: datetime) -> None:
    """Keep that a release was evaluated here, and when; no figure is kept."""
    write_atomic(_evaluated(home, digest), clock.rfc3339(now).encode(), mode=0o600)


def _evaluated(home: Home, digest: str) -> Path:
    return home.releases / f"evaluated-{digest}"


def _installed(home: Home, study: Study) -> list[str]:
    found = []
    for folder in sorted(home.releases.iterdir()) if home.releases.is_dir() else ():
        if (folder / installed.ENVELOPE).is_file():
            release = installed.claimed(home, folder.name)
            if release.study_digest == study.digest and not release.is_base:
                found.append(folder.name)
    return found


def _listed(home: Home, study: Study, where: Stage, digest: str, *, now: datetime) -> Listed:
    unusable = ""
    try:
        installed.load(home, study.id, now=now, digest=digest)
    except KitError as error:
        unusable = str(error)
    release, mark = installed.claimed(home, digest), _evaluated(home, digest)
    name = "earlier" if digest in where.accepted else "kept"
    name = "shadow" if digest == where.shadow else name
    return Listed(
        study=study.id,
        release=digest,
        stage="active" if digest == where.active else name,
        labels=release.labels,
        created=release.created,
        evaluated=home.read(mark, "evaluation").decode() if mark.is_file() else "",
        unusable=unusable,
    )


def _writing(home: Home, study: Study) -> "AbstractContextManager[None]":
    path = home.releases / f"accepted-{study.id}.lock"
    return exclusive(path, busy="another command is deciding about this study's releases")


def _append(home: Home, study: Study, what: str, digest: str, now: datetime) -> Act:
    done = Act(act=what, release=digest, time=clock.rfc3339(now), account=_account())
    rows = [asdict(act) for act in (*acts(home, study), done)][-MAX_ACTS:]
    write_atomic(record(home, study.id), canonical.encode({"version": VERSION, "acts": rows}))
    return done


def _act(row: Any) -> Act:
    table = canonical.fields(row, set(Act.__slots__), what="act about a release")
    canonical.sha256_hex(table["release"], what="release digest")
    clock.parse_rfc3339(table["time"])
    return Act(**table)


def _account() -> str:
    try:
        return canonical.printable(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        return str(os.geteuid())
