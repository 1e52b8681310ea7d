"""Installed releases: fetched whole, verified at install and again at every load."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from edge_agent import contact, repository, trust
from edge_agent.adapting import records
from edge_agent.exchange import Exchange, Source, patient
from edge_agent.home import Home
from edge_agent.trust import OfferedRelease, Trust, World
from edge_agent.witness import require_vouched
from federation.auditlog.checkpoint import Receipt
from federation.release import golden, synthetic
from federation.release import statement as documents
from federation.release.golden import GoldenImages
from federation.release.onnx_lint import ModelContract, lint
from federation.release.statement import FILE_NAMES, MAX_MODEL_BYTES, Artefact, Release, Role
from federation.release.synthetic import SyntheticSet
from federation.study import Study, SyntheticSets
from kit import canonical, clock
from kit.door import note
from kit.errors import KitError
from kit.files import os_errors, read_limited, sha256_file, write_atomic

MODEL, ENVELOPE, CHAIN = FILE_NAMES[Role.INFERENCE_MODEL], "release.dsse.json", "chain.pem"
GOLDEN = FILE_NAMES[Role.GOLDEN_IMAGES]
CURRENT = "current"
WARN_AFTER = timedelta(days=14)  # without a contact
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What `fetch` did."""

    release: str
    study: str
    labels: tuple[str, ...]
    personal_data: bool
    bytes_downloaded: int
    withdrawn: tuple[str, ...]
    adapted_deleted: tuple[str, ...]
    model: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A release that was verified just now."""

    release: Release
    model: bytes
    golden: GoldenImages | None

    def contract(self, study: Study) -> ModelContract:
        """Return what the model must look like."""
        image = study.image
        return ModelContract(
            channels=image.channels,
            height=image.height,
            width=image.width,
            labels=self.release.labels,
        )


def fetch(
    home: Home,
    study_name: str,
    *,
    got: Callable[[int, int], None],
    tell: Callable[[str], None] = lambda _: None,
) -> Fetched:
    """Install the newest release of a study, after checking everything about it.

    While the coordinator has no place for the download, it waits as long as it is told to.

    Raises:
        KitError: there is none, the download is not what was signed, or the disk is full.
        TrustError: the coordinator contradicts what it proved before.
    """
    return brought(home, study_name, install, got=got, tell=tell)


def brought(
    home: Home,
    study_name: str,
    keep: Callable[..., Kept],
    *,
    got: Callable[[int, int], None],
    tell: Callable[[str], None],
) -> Kept:
    """Return what `keep` (an `install`) made of a contact's news, with downloads over the line.

    Raises:
        KitError: as `keep`; the coordinator cannot be reached, or contradicts what it proved.
    """
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
        source = patient(exchange.download, tell=tell)
        return keep(home, study_name, world, source, got=got, now=clock.utc_now())


def install(
    home: Home,
    study_name: str,
    world: World,
    source: Source,
    *,
    got: Callable[[int, int], None],
    now: datetime,
) -> Fetched:
    """Install the newest release of a study in a verified world, with bytes from `source`.

    Raises:
        KitError: there is none, its bytes are not what was signed, or the disk is full.
        RepositoryError: the repository does not list it, or is out of date.
    """
    study = home.study(study_name)
    adapted = records.delete_withdrawn(home, world.trust.withdrawn_releases)
    gone = remove_withdrawn(home, world)
    offer = newest(home, study, world, is_base=False)
    repository.require_listed(home, offer.release, now=now)
    downloaded = sum(
        download(home, source, offer, artefact, got) for artefact in offer.release.artefacts
    )
    _install(home, study, offer)
    return Fetched(
        release=offer.release.digest,
        study=study.id,
        labels=offer.release.labels,
        personal_data=offer.release.personal_data,
        bytes_downloaded=downloaded,
        withdrawn=gone,
        adapted_deleted=adapted,
        model=folder_of(home, offer.release.digest) / MODEL,
    )


def newest(home: Home, study: Study, world: World, *, is_base: bool) -> OfferedRelease:
    """Return the release (or base) of a study that was published last, and is vouched for.

    Raises:
        KitError: there is none, or too few other sites vouch for the log that holds it.
    """
    offers = [
        r
        for r in world.releases
        if r.release.study_digest == study.digest and r.release.is_base is is_base
    ]
    current = [r for r in offers if not r.withdrawn]
    kind = "base" if is_base else "release"
    if not current:
        words = f"every {kind} of study" if offers else f"no {kind} yet in study"
        raise KitError(
            f"{words} `{study.id}`{' is withdrawn' if offers else ''}",
            hint=f"the coordinator has to {'publish' if is_base else 'build'} one",
        )
    offer = max(current, key=lambda r: Receipt.from_text(r.published.receipt).index)
    index = Receipt.from_text(offer.published.receipt).index
    what = f"{kind} `{offer.release.digest[:16]}`"
    require_vouched(index, world.log, world.vouchings, contact.witness_key(home), what=what)
    return offer


def folder_of(home: Home, digest: str) -> Path:
    """Return the folder of an installed release or base."""
    return home.releases / canonical.sha256_hex(digest, what="release digest")


def download(
    home: Home,
    source: Source,
    offer: OfferedRelease,
    file: Artefact,
    got: Callable[[int, int], None],
) -> int:
    """Bring one file of a release here, from where it was cut off; returns bytes.

    Raises:
        KitError: what came is not what was signed, or the disk is full.
    """
    folder = folder_of(home, offer.release.digest)
    name = FILE_NAMES[file.role]
    final, part = folder / name, folder / (name + ".part")
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if final.is_file() and sha256_file(final) == file.sha256:
        return 0
    start = part.stat().st_size if part.is_file() else 0
    if start > file.length:
        part.unlink()
        start = 0
    done = start
    with os_errors(part), part.open("ab") as stream:
        for data in source(file.sha256, start):
            done += len(data)
            if done > file.length:
                break
            stream.write(data)
            got(done, file.length)
    if done != file.length or sha256_file(part) != file.sha256:
        part.unlink()
        raise KitError(
            "the downloaded file is not the signed one", hint="run the same command again"
        )
    with os_errors(final):
        part.replace(final)
    return done - start


def _install(home: Home, study: Study, offer: OfferedRelease) -> None:
    digest = offer.release.digest
    folder = folder_of(home, digest)
    write_atomic(folder / CHAIN, offer.signing_chain)
    write_atomic(folder / ENVELOPE, offer.envelope)
    found = _open(home, digest)
    lint(found.model, contract=found.contract(study))
    _try(found, study)
    write_atomic(pointer(home, study.id), digest.encode())


def _try(found: Installed, study: Study) -> None:
    """Want the golden images' answers from this machine before the release becomes the current one.

    Where no ONNX runtime is installed nothing predicts either; `predict` asks again.
    """
    from edge_agent import inference

    if inference.runtimes():
        inference.open_model(found.model, contract=found.contract(study), golden=found.golden)
    else:
        note("no ONNX runtime is installed here: the release was not tried on its golden images")


def remove_withdrawn(home: Home, world: World) -> tuple[str, ...]:
    """Delete every release and base here that is withdrawn; returns their digests."""
    gone = []
    for digest in world.trust.withdrawn_releases:
        folder = folder_of(home, digest)
        if folder.is_dir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            gone.append(digest)
    return tuple(gone)


def pointer(home: Home, study: str) -> Path:
    """Return the file that names the release which was fetched last."""
    return home.releases / f"{CURRENT}-{canonical.name(study, what='study id')}"


def fetched(home: Home, study: Study) -> str | None:
    """Return the digest of the release that was fetched last, or None before the first."""
    path = pointer(home, study.id)
    return home.read(path, "release pointer").decode() if path.is_file() else None


def load(home: Home, study_name: str, *, now: datetime, digest: str | None = None) -> Installed:
    """Return an installed release of a study after verifying it again.

    An expired certificate does not stop an installed release; a withdrawal or a lease does.

    Args:
        home: the site's.
        study_name: the study's id.
        now: the time.
        digest: which release; None for the one that was fetched last.

    Raises:
        KitError: none is installed, it was altered, withdrawn, or its lease is over.
    """
    study = home.study(study_name)
    digest = digest or fetched(home, study)
    if digest is None:
        raise KitError(
            f"no release of study `{study.id}` is installed", hint="run `edge-agent fetch` first"
        )
    known = check_known(home, digest, now=now)
    found = _open(home, digest)
    check_usable(found.release, study, known, now)
    silent = _silent(known, now)
    if silent > WARN_AFTER:
        note(f"the last contact was {silent.days} days ago: a withdrawal since is not known here")
    return found


def check_known(home: Home, digest: str, *, now: datetime) -> Trust:
    """Return what was proved here so far, which must not say that a release is withdrawn.

    Raises:
        KitError: it does, it is missing, or this machine's clock is behind it.
    """
    known = contact.known(home)
    trust.check_clock(known, now)
    if known is None:
        raise KitError(
            "what the coordinator proved to this site is missing, so a withdrawal may be unknown",
            hint="run `edge-agent status`",
        )
    if digest in known.withdrawn_releases:
        raise KitError(
            f"release `{digest[:16]}` is withdrawn",
            hint="run `edge-agent fetch` for the one that replaces it",
        )
    return known


def statement_in(home: Home, folder: Path) -> Release:
    """Return the release whose signed statement lies in a folder, after verifying it.

    Raises:
        KitError: it is missing or damaged, or not signed as it must be.
    """
    envelope = home.read(folder / ENVELOPE, "release statement")
    chain = home.read(folder / CHAIN, "certificate")
    created = clock.parse_rfc3339(_claimed(envelope).created)  # when its certificate must hold
    revoked = contact.revocations(home)
    kind = documents.RELEASE_TYPE
    payload = trust.open_document(envelope, kind, chain, home.pins, created, revoked)
    return Release.from_bytes(payload)


def _open(home: Home, digest: str) -> Installed:
    folder = folder_of(home, digest)
    release = statement_in(home, folder)
    model = read_limited(folder / MODEL, limit=MAX_MODEL_BYTES, what="model")
    if canonical.digest(model) != release.model.sha256 or release.digest != digest:
        raise KitError(
            f"the installed model `{digest[:16]}` was altered",
            hint="run `edge-agent fetch` again and find out who wrote to this machine",
        )
    return Installed(release=release, model=model, golden=_golden(home, release))


def _golden(home: Home, release: Release) -> GoldenImages | None:
    """Return a release's golden images; None with one of before there were any."""
    data = _beside(home, release, Role.GOLDEN_IMAGES, limit=golden.MAX_BYTES, what="golden images")
    if data is None:
        return None
    return GoldenImages.from_bytes(
        data,
        model=release.digest,
        channels=home.study(release.study).image.channels,
        classes=len(release.labels),
    )


def synthetic_set(home: Home, found: Installed) -> SyntheticSet:
    """Return the synthetic set of a release that was verified just now.

    Raises:
        KitError: it has none, or the file is missing or was altered.
    """
    release, study = found.release, home.study(found.release.study)
    limit = synthetic.MAX_BYTES
    data = _beside(home, release, Role.SYNTHETIC_SET, limit=limit, what="synthetic set")
    if data is None:
        rule = study.sharing.synthetic_sets
        why = {
            SyntheticSets.WITHHELD: "the study withholds them; another round of it may agree to"
            " `--synthetic-sets private`",
            SyntheticSets.PRIVATE: "a blueprint without differential privacy is in it, and the"
            " study publishes the sets of private ones alone",
        }
        raise KitError(
            f"release `{release.digest[:16]}` carries no synthetic set",
            hint=why.get(rule, "ask the coordinator for a newer release"),
        )
    return SyntheticSet.from_bytes(data, study=study, labels=release.labels)


def _beside(home: Home, release: Release, role: Role, *, limit: int, what: str) -> bytes | None:
    """Return what lies beside a release's model as its statement signs it; None if nothing does."""
    for file in release.companions:
        if file.role is role:
            path = folder_of(home, release.digest) / FILE_NAMES[role]
            data = read_limited(path, limit=limit, what=what)
            if canonical.digest(data) != file.sha256:
                raise KitError(
                    f"the {what} of release `{release.digest[:16]}` {_were(what)} altered",
                    hint="run `edge-agent fetch` again and find out who wrote to this machine",
                )
            return data
    return None


def _were(what: str) -> str:
    return "were" if what.endswith("s") else "was"


def claimed(home: Home, digest: str) -> Release:
    """Return what an installed release's statement says, unverified.

    Raises:
        KitError: it is not installed, or its statement is damaged.
    """
    return _claimed(home.read(folder_of(home, digest) / ENVELOPE, "release statement"))


def _claimed(envelope: bytes) -> Release:
    from federation import dsse

    return Release.from_bytes(dsse.parse(envelope, documents.RELEASE_TYPE).payload)


def check_usable(release: Release, study: Study, known: Trust, now: datetime) -> None:
    """Refuse a release that this site must not answer with now.

    Raises:
        KitError: it is of another version of the study, descends from what is revoked, or a lease
            is over: its own, or the study's since the last contact.
    """
    if release.study_digest != study.digest:
        raise KitError("the installed release is of another version of the study")
    if set(release.ancestors) & set(known.revoked_blueprints):
        raise KitError("the installed release descends from a revoked blueprint")
    check_leases(release, study, known, now)


def check_leases(release: Release, study: Study, known: Trust, now: datetime) -> None:
    """Refuse a release past its own lease, or past the study's since the last contact.

    Raises:
        KitError: it is.
    """
    if release.lease_until is not None and now > clock.parse_rfc3339(release.lease_until):
        raise KitError("the lease of the installed release is over", hint="run `edge-agent fetch`")
    silent = _silent(known, now)
    lease = study.safeguards.lease_days
    if lease and silent > timedelta(days=lease):
        raise KitError(
            f"the lease of the installed release is over: study `{study.id}` wants a contact at"
            f" least every {lease} days, and the last was {silent.days} days ago",
            hint="run `edge-agent status`: a contact renews it",
        )


def _silent(known: Trust, now: datetime) -> timedelta:
    return now - clock.parse_rfc3339(known.newest_time)
