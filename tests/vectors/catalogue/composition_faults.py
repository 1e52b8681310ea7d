"""Steps 5 and 13 once more: statements that declare several mechanisms at once."""

from typing import Any

from federation.accounting import DpEvent
from federation.blueprint import limits
from federation.blueprint.privacy import COMPOSITION, GAUSSIAN
from tests.fakes import federation
from tests.fakes.forge import Change
from tests.vectors.catalogue.changes import both, dropping, setting
from tests.vectors.hostile import Vector

PRIVACY = "predicate.privacy."
PARAMETERS = PRIVACY + "parameters"
EVENTS = PARAMETERS + ".events."

# As in the honest blueprint every unit is in every release: recomputed at once.
FIRST = DpEvent(sample_rate=1.0, noise_multiplier=20.0, steps=1)
LAST = {"sample_rate": 1.0, "noise_multiplier": 20.0, "steps": 50}
HONEST = federation.mechanism(FIRST, **LAST).to_table()
ALONE = federation.mechanism(**LAST).to_table()
FLAT = {name: ALONE[name] for name in ("sample_rate", "noise_multiplier", "steps")}

STEP_5: dict[str, Change] = {
    "a composition of one event": dropping(EVENTS + "0"),
    "a composition of no events": setting(PARAMETERS + ".events", []),
    "a composition without its events": dropping(PARAMETERS + ".events"),
    "a composition that is no list": setting(PARAMETERS + ".events", {"0": FLAT, "1": FLAT}),
    "more events than the limit": setting(
        PARAMETERS + ".events", [FLAT | {"steps": 1}] * (limits.MAX_DP_EVENTS + 1)
    ),
    "an event that is a list": setting(EVENTS + "0", ["20.0", "1.0", 1]),
    "an event with a field more": setting(EVENTS + "0.epsilon", "0.1"),
    "an event with a field less": dropping(EVENTS + "0.sample_rate"),
    "an event without steps": setting(EVENTS + "0.steps", 0),
    "an event whose rate is a number": setting(EVENTS + "0.sample_rate", 1),
    "an event whose noise is no number": setting(EVENTS + "1.noise_multiplier", "inf"),
    "an event beside the composition": setting(PARAMETERS + ".steps", 1),
    "a composition under the name of one event": setting(PRIVACY + "mechanism", GAUSSIAN),
    "one event under the name of a composition": setting(PARAMETERS, ALONE),
    "a composition under the name of none": setting(PRIVACY + "mechanism", "none"),
}
STEP_13: dict[str, Change] = {
    "the epsilon of the last event alone": setting(PARAMETERS + ".epsilon", ALONE["epsilon"]),
    "an epsilon of zero for a composition": setting(PARAMETERS + ".epsilon", "0.0"),
    "a composition over the policy": setting(PARAMETERS + ".epsilon", "8.001"),
    "less noise in the first event": setting(EVENTS + "0.noise_multiplier", "2.0"),
    "no noise in the first event": setting(EVENTS + "0.noise_multiplier", "0.0"),
    "a rate over one in the last event": setting(EVENTS + "1.sample_rate", "1.5"),
    "more steps in the first event": setting(EVENTS + "0.steps", 9),
    "an event more": setting(EVENTS[:-1], [FLAT, FLAT, FLAT | {"steps": 1}]),
}


def declared(table: dict[str, Any]) -> None:
    """Declare an honest composition in place of the one event."""
    table["predicate"]["privacy"] |= {
        "mechanism": COMPOSITION,
        "parameters": {**HONEST, "events": [dict(event) for event in HONEST["events"]]},
    }


def catalogue() -> list[Vector]:
    """Return the control and the vectors of compositions."""
    family = "a composition"
    return [
        Vector(step=0, fault=family, family=family, make=lambda forge: forge.signed(declared)),
        *(
            Vector(
                step=step,
                fault=fault,
                family=family,
                make=lambda forge, change=change: forge.signed(both(declared, change)),
            )
            for step, faults in ((5, STEP_5), (13, STEP_13))
            for fault, change in faults.items()
        ),
    ]
