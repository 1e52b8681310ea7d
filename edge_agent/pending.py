"""Erasures that are not through: what is left to do here, and what waits at the coordinator."""

from dataclasses import dataclass

from edge_agent import batches
from edge_agent.batches import Replacement, Step
from edge_agent.home import Home
from edge_agent.trust import World
from kit import canonical

_AGAIN = "the same `edge-agent withdraw` again: it goes on"
_WAITS_FOR = {
    "receiving": _AGAIN,
    "received": "the coordinator's intake, then a reviewer, then a build",
    "pending": "a reviewer at the coordinator, then a build",
    "approved": "a build at the coordinator",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An erasure that is not through: what is left to do here, or what waits elsewhere."""

    requested: str
    patients: int
    study: str
    run: str
    blueprint: str
    waits_for: str


def pending(home: Home, world: World) -> tuple[Pending, ...]:
    """Return every erasure that is not through, as far as the world is known here."""
    rows = []
    waiting = batches.waiting_requests(home)
    if waiting.collected:
        what = "its batch: `edge-agent withdraw --collected`"
        rows.append(_pending(waiting.since, waiting.collected, what))
    for batch in batches.every(home):
        if batch.step is Step.REQUESTED:
            rows.append(_pending(batch.requested, len(batch.patients), _AGAIN))
            continue
        for each in batch.replacements:
            what = _waits_for(each, world)
            if what:
                rows.append(_pending(batch.requested, len(batch.patients), what, each))
    return tuple(rows)


def shown(item: Replacement) -> dict[str, str]:
    """Return where a replacement stands, without news of the world."""
    return {
        "study": item.request.study,
        "run": item.request.run,
        "blueprint": item.blueprint,
        "step": str(item.step),
        "waits_for": _waits_for(item, None),
    }


def _pending(
    requested: str, patients: int, waits_for: str, item: Replacement | None = None
) -> Pending:
    return Pending(
        requested=requested,
        patients=patients,
        study=item.request.study if item else "",
        run=item.request.run if item else "",
        blueprint=item.blueprint if item else "",
        waits_for=waits_for,
    )


def _waits_for(item: Replacement, world: World | None) -> str:
    """Say what a replacement waits for; nothing once a release holds it, or nobody wants it."""
    if item.is_open:
        return _AGAIN
    if item.step is not Step.SUBMITTED:
        return ""
    if world is None:
        return _WAITS_FOR["received"]
    for offer in world.releases:
        if item.blueprint in offer.release.ancestors:
            return ""
    state = next((s for s in world.blueprints if s.digest == item.blueprint), None)
    if state is None or state.state == "revoked":
        return ""
    reason = f": {canonical.printable(state.reason, width=200)}" if state.reason else ""
    return _WAITS_FOR.get(state.state, f"another run: this one was {state.state}{reason}")
