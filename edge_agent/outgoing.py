"""What would leave for one run: gathered from its folder, before anything is sealed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent import runs
from edge_agent.gate import examination
from edge_agent.home import Home
from edge_agent.training.folder import ARCHITECTURE, GATE, OPTIONS, PRIVACY, WEIGHTS
from federation.blueprint import limits
from federation.blueprint.privacy import (
    NO_MECHANISM,
    DeclaredEvent,
    GaussianMechanism,
    PrivacyClaim,
)
from federation.blueprint.statement import Gate
from federation.study import Study
from kit import canonical
from kit.errors import KitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """Exactly what would leave for one run, before it is sealed."""

    study: Study
    weights: Path
    architecture: dict[str, Any]
    outputs: tuple[str, ...]
    base: str | None
    privacy: PrivacyClaim
    gate: Gate


def is_finished(home: Home, run: str) -> bool:
    """Say whether a run was trained and tested, and its weights are still here."""
    folder = home.run(run)
    return (folder / WEIGHTS).is_file() and (folder / GATE).is_file()


def of_run(home: Home, run: str) -> Outgoing:
    """Gather what would leave for a finished run.

    Raises:
        KitError: there is no finished run of this name, or the gate was asked about other weights.
    """
    folder = home.run(run)
    runs.require_not_erased(folder, run)
    if not is_finished(home, run):
        raise KitError(f"run `{run}` is not finished", hint="run `edge-agent train` to its end")
    options = runs.read_json(folder / OPTIONS)
    study = next((s for s in home.studies() if s.digest == options["study"]), None)
    if study is None:
        raise KitError(f"run `{run}` belongs to a study that this site does not know")
    with runs.open_ledger(home) as ledger:
        head, counter = ledger.head()
        verdict = examination.standing(folder, ledger)
    if verdict is None:
        raise KitError(
            f"the gate of run `{run}` was not asked about these very weights",
            hint="run the same `edge-agent train` again: it asks the gate and trains no more",
        )
    declared = set(options["declared_labels"])
    privacy = runs.read_json(folder / PRIVACY)
    return Outgoing(
        study=study,
        weights=_weights(folder / WEIGHTS),
        architecture=canonical.decode(home.read(folder / ARCHITECTURE, "architecture")),
        outputs=tuple(label for label in study.classes if label in declared),
        base=options.get("base"),
        privacy=PrivacyClaim(
            unit=str(privacy["unit"]),
            gaussian=None if privacy["mechanism"] == NO_MECHANISM else mechanism_of(privacy),
            ledger_head=head,
            ledger_counter=counter,
        ),
        gate=Gate(passed=verdict.passed, report=verdict.report),
    )


def _weights(path: Path) -> Path:
    if path.stat().st_size > limits.MAX_PAYLOAD_BYTES:
        raise KitError(f"weights `{path}` are over {limits.MAX_PAYLOAD_BYTES} bytes")
    return path


def mechanism_of(table: dict[str, Any]) -> GaussianMechanism:
    """Return the mechanism that a private run's `privacy.json` or own copy tells of.

    Before there were compositions the fields of the one event stood flat in the table.
    """
    return GaussianMechanism(
        events=tuple(
            DeclaredEvent(
                sample_rate=float(event["sample_rate"]),
                noise_multiplier=float(event["noise_multiplier"]),
                steps=int(event["steps"]),
            )
            for event in table.get("events", [table])
        ),
        delta=float(table["delta"]),
        epsilon=float(table["epsilon"]),
    )
