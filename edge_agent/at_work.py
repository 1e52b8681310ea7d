"""Which model answers one command: the accepted release, one that is named, or an adapted one."""

from dataclasses import dataclass
from datetime import datetime

from edge_agent import rollout
from edge_agent.adapting import models
from edge_agent.home import Home
from edge_agent.inference import InstalledModel
from kit.errors import KitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A model that was verified and opened just now; `adapted` is its digest, or empty."""

    model: InstalledModel
    release: str
    adapted: str
    notes: tuple[str, ...]


def chosen(home: Home, study: str, *, release: str, adapted: str, now: datetime) -> Chosen:
    """Return what answers: the adapted model called `adapted`, else a release.

    Raises:
        KitError: it must not be used, there is none, or two are named.
    """
    if release and adapted:
        raise KitError("give --release or --adapted", hint="one model answers")
    if adapted:
        return _adapted(home, study, adapted, now)
    found, is_accepted = rollout.load(home, study, now=now, prefix=release)
    notes = () if is_accepted else (_NOT_ACCEPTED,)
    return Chosen(
        model=rollout.opened(home, study, found),
        release=found.release.digest,
        adapted="",
        notes=notes,
    )


_NOT_ACCEPTED = "nobody here has accepted this release: see `edge-agent releases`"


def _adapted(home: Home, study: str, name: str, now: datetime) -> Chosen:
    found = models.load(home, name, now=now)
    if found.study.id != study:
        raise KitError(f"adapted model `{name}` is of study `{found.study.id}`, not `{study}`")
    return Chosen(
        model=found.opened(),
        release=found.release.digest,
        adapted=found.record.model,
        notes=(models.NOTICE,),
    )
