"""What is served now: per study the accepted release, and the shadow that is tried beside it.

Invariants:

- Before every answer the files that decide are looked at (trust state, accepted and fetched
  release, revoked certificates), and a change is taken up: a release that another process
  withdrew, replaced or rolled back stops without a restart.
- Leases and the clock are asked at every answer, changed files or not.
- A shadow answers nobody. It may be late, fail or be dropped, and the answer does not wait for it.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_agent import contact, erased, installed, rollout, trust
from edge_agent.adapting import models, records
from edge_agent.home import Home
from edge_agent.serving.figures import Figures, Key
from edge_agent.trust import Trust
from federation.release.statement import Release
from federation.study import Study
from kit import canonical, logs
from kit.errors import KitError

if TYPE_CHECKING:
    from edge_agent.inference import InstalledModel

MAX_SHADOW_REQUESTS = 4  # that wait; more are dropped, and counted
RETRY_AFTER = timedelta(seconds=5)

Images = NDArray[np.float32]
Marks = tuple[tuple[int, int, int] | None, ...]
_log = logging.getLogger(__name__)


class NotServedError(KitError):
    """No release may answer for this model now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A release that was verified and opened, or a model that this site adapted from it.

    `name` is the study's, or that of the adapted model.
    """

    name: str
    study: Study
    release: Release
    model: "InstalledModel"

    @property
    def digest(self) -> str:
        """The digest of what answers: the release's, or the adapted model's."""
        return self.model.digest

    @property
    def is_adapted(self) -> bool:
        """Whether this site adapted it."""
        return self.digest != self.release.digest


@dataclass(slots=True)
class _Place:
    """What was last found for one study; `unusable` says why nothing is served."""

    marks: Marks | None = None
    known: Trust | None = None
    tried: datetime | None = None
    active: Served | None = None
    shadow: Served | None = None
    unusable: str = ""


class Models:
    """The models of some studies, by name; every method may be called from several threads."""

    def __init__(
        self, home: Home, studies: Sequence[str], figures: Figures, adapted: Sequence[str] = ()
    ) -> None:
        self._home, self._figures, self._adapted = home, figures, frozenset(adapted)
        self._places = {name: _Place() for name in (*studies, *adapted)}
        self._lock = threading.Lock()
        self._waiting: queue.Queue[tuple[Served, Images, Sequence[str]] | None] = queue.Queue(
            MAX_SHADOW_REQUESTS
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The models, whether they are served or not."""
        return tuple(self._places)

    def get(self, name: str, *, now: datetime) -> Served:
        """Return the release that answers for a model now.

        Raises:
            KeyError: no such model.
            NotServedError: none is accepted, or the accepted one must not be used.
        """
        place = self._places[name]
        with self._lock:
            self._take_up(name, place, now)
            if place.active is None:
                raise NotServedError(place.unusable)
            try:
                self._check(place, place.active, now)
            except KitError as error:
                raise NotServedError(str(error), hint=error.hint) from error
            return place.active

    def why_not(self, *, now: datetime) -> dict[str, str]:
        """Return why models are not served, by name; empty where all are."""
        found = {}
        for name in self._places:
            try:
                self.get(name, now=now)
            except NotServedError as error:
                found[name] = str(error)
        ready: dict[Key, int] = {(("model", n),): int(n not in found) for n in self._places}
        self._figures.set("edge_agent_release_ready", ready)
        return found

    def shadow(self, answered: Served, images: Images, probabilities: Images) -> None:
        """Let the shadow of a model answer too, later; what it says is compared and dropped."""
        shadow = self._places[answered.name].shadow
        if shadow is None:
            return
        said = [answered.model.labels[int(row.argmax())] for row in probabilities]
        try:
            self._waiting.put_nowait((shadow, images, said))
        except queue.Full:
            self._count("dropped", shadow)

    def work_shadows(self) -> None:
        """Answer what waits for a shadow until `stop_shadows`; for a thread of its own."""
        while (item := self._waiting.get()) is not None:
            shadow, images, said = item
            try:
                answers = shadow.model.predict(list(images))
            except KitError as error:
                _log.warning("the shadow release failed: %s", error)
                self._count("failures", shadow)
                continue
            labels = [shadow.model.labels[int(row.argmax())] for row in answers]
            agreed = sum(a == b for a, b in zip(labels, said, strict=True))
            self._count("images", shadow, len(labels))
            self._count("agreements", shadow, agreed)

    def stop_shadows(self) -> None:
        """End `work_shadows` once it has answered what waits."""
        self._waiting.put(None)

    def _count(self, what: str, shadow: Served, amount: int = 1) -> None:
        labels = {"model": shadow.name, "version": shadow.digest}
        self._figures.add(f"edge_agent_shadow_{what}", labels, amount)

    @staticmethod
    def _check(place: _Place, served: Served, now: datetime) -> None:
        """Ask what changes without a file: everything else was asked when the files last did."""
        trust.check_clock(place.known, now)
        if place.known is not None:  # its absence is a change of files, which `_take_up` refuses
            installed.check_leases(served.release, served.study, place.known, now)

    def _take_up(self, name: str, place: _Place, now: datetime) -> None:
        marks = self._marks(name)
        is_settled = place.active is not None or not _is_past(place.tried, now)
        if marks == place.marks and is_settled:
            return
        before = place.active.digest if place.active else ""
        try:
            place.known = contact.known(self._home)
        except KitError as error:
            place.known, place.active, place.shadow, place.unusable = None, None, None, str(error)
        else:
            place.active, place.shadow, place.unusable = self._open(name, place, now)
        place.marks, place.tried = marks, now
        if place.active is None and before:
            _log.warning("a release stops", extra=logs.fields(release=before, state="stopped"))
        elif place.active is not None and place.active.digest != before:
            found = logs.fields(release=place.active.digest, state="active")
            _log.info("a release is served", extra=found)

    def _open(
        self, name: str, place: _Place, now: datetime
    ) -> tuple[Served | None, Served | None, str]:
        if name in self._adapted:
            return self._open_adapted(name, place, now)
        try:
            study = self._home.study(name)
            stage = rollout.stage(self._home, study)
            if stage.active is None:
                return None, None, f"no release of study `{name}` is accepted here"
            active = self._opened(study, stage.active, place.active, now)
        except KitError as error:
            return None, None, str(error)
        try:
            if stage.shadow is None:
                return active, None, ""
            return active, self._opened(study, stage.shadow, place.shadow, now), ""
        except KitError as error:
            _log.warning("the shadow release is not tried: %s", error)
            return active, None, ""

    def _open_adapted(
        self, name: str, place: _Place, now: datetime
    ) -> tuple[Served | None, Served | None, str]:
        """Verify an adapted model again: no shadow is tried beside it."""
        try:
            found = models.load(self._home, name, now=now)
            if place.active is not None and place.active.digest == found.record.model:
                return place.active, None, ""
            model = found.opened()
        except KitError as error:
            return None, None, str(error)
        served = Served(name=name, study=found.study, release=found.release, model=model)
        return served, None, ""

    def _opened(self, study: Study, digest: str, present: Served | None, now: datetime) -> Served:
        """Verify a release again; the session of one that is open already is kept."""
        found = installed.load(self._home, study.id, now=now, digest=digest)
        if present is not None and present.digest == digest and present.study == study:
            return replace(present, release=found.release)  # signed anew: another lease
        model = rollout.opened(self._home, study.id, found)
        return Served(name=study.id, study=study, release=found.release, model=model)

    def _marks(self, name: str) -> Marks:
        """Return what changes whenever a file does that decides what is served."""
        home = self._home
        name = canonical.name(name)
        own = [records.folder_of(home, name) / records.RECORD, erased.file(home)]
        if name not in self._adapted:
            own = [
                home.study_file(name, "manifest"),
                rollout.record(home, name),
                installed.pointer(home, name),
            ]
        shared = (home.trust, home.certificate_revocations, home.authority_revocations)
        return tuple(_mark(path) for path in (*shared, *own))


def _is_past(tried: datetime | None, now: datetime) -> bool:
    """Say whether to look again without a change of files: a clock may have been set right."""
    return tried is None or abs(now - tried) >= RETRY_AFTER


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
