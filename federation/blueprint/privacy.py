"""What a statement says about privacy: the mechanism, its figures, and where the ledger stood.

Read for form only; whether the figures are a mechanism and agree is step 13. The number of units
stays at the site (A11): `sample_rate` derives from a declared lower bound.
"""

from dataclasses import dataclass
from typing import Any, Self

from federation.blueprint import limits
from kit import canonical
from kit.errors import FormatError

GAUSSIAN, COMPOSITION = "poisson-subsampled-gaussian", "gaussian-composition"
NO_MECHANISM = "none"

_MAX_STEPS = 10_000_000
_RATE, _NOISE, _STEPS = "sample_rate", "noise_multiplier", "steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredEvent:
    """`steps` releases of one Poisson-subsampled Gaussian sum over units, as the site declares."""

    sample_rate: float
    noise_multiplier: float
    steps: int

    def to_table(self) -> dict[str, Any]:
        """Return the fields as canonical JSON values."""
        return {
            _RATE: canonical.real(self.sample_rate),
            _NOISE: canonical.real(self.noise_multiplier),
            _STEPS: self.steps,
        }

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote.

        Raises:
            FormatError: a field is missing, unknown or of another form.
        """
        table = canonical.fields(value, {_RATE, _NOISE, _STEPS}, what="privacy event")
        return cls(
            sample_rate=canonical.to_float(table[_RATE], what=_RATE),
            noise_multiplier=canonical.to_float(table[_NOISE], what=_NOISE),
            steps=canonical.integer(table[_STEPS], low=1, high=_MAX_STEPS, what=_STEPS),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianMechanism:
    """All releases of a run, in their order: what recomputing epsilon needs, and no more.

    `epsilon` is that of the events together at `delta`.
    """

    events: tuple[DeclaredEvent, ...]
    delta: float
    epsilon: float

    @property
    def name(self) -> str:
        """The mechanism's name in the closed registry."""
        return GAUSSIAN if len(self.events) == 1 else COMPOSITION

    def to_table(self) -> dict[str, Any]:
        """Return the parameters as canonical JSON values; one event stands flat among them."""
        bound = {"delta": canonical.real(self.delta), "epsilon": canonical.real(self.epsilon)}
        tables = [event.to_table() for event in self.events]
        return bound | (tables[0] if len(tables) == 1 else {"events": tables})

    @classmethod
    def from_table(cls, name: Any, value: Any) -> Self:
        """Read the parameters of the mechanism `name`.

        Raises:
            FormatError: the name is not in the registry, or a field is missing, unknown or of
                another form.
        """
        if name == GAUSSIAN:
            fields = {_RATE, _NOISE, _STEPS, "delta", "epsilon"}
            table = canonical.fields(value, fields, what="privacy parameters")
            events = [{field: table[field] for field in (_RATE, _NOISE, _STEPS)}]
        elif name == COMPOSITION:
            fields = {"events", "delta", "epsilon"}
            table = canonical.fields(value, fields, what="privacy parameters")
            events = table["events"]
            if not isinstance(events, list) or not 2 <= len(events) <= limits.MAX_DP_EVENTS:
                raise FormatError(f"a composition has 2 to {limits.MAX_DP_EVENTS} events")
        else:
            raise FormatError("privacy mechanism and parameters do not belong together")
        return cls(
            events=tuple(DeclaredEvent.from_table(event) for event in events),
            delta=canonical.to_float(table["delta"], what="delta"),
            epsilon=canonical.to_float(table["epsilon"], what="epsilon"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyClaim:
    """What the site declares; `gaussian` is None when it contains personal data."""

    unit: str
    gaussian: GaussianMechanism | None
    ledger_head: str
    ledger_counter: int

    def to_table(self) -> dict[str, Any]:
        """Return the claim as canonical JSON values."""
        return {
            "unit": self.unit,
            "mechanism": NO_MECHANISM if self.gaussian is None else self.gaussian.name,
            "parameters": None if self.gaussian is None else self.gaussian.to_table(),
            "ledger": {"head": self.ledger_head, "counter": self.ledger_counter},
        }

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote.

        Raises:
            FormatError: a field is missing, unknown or of another form.
        """
        names = {"unit", "mechanism", "parameters", "ledger"}
        table = canonical.fields(value, names, what="privacy")
        ledger = canonical.fields(table["ledger"], {"head", "counter"}, what="ledger")
        name, parameters = table["mechanism"], table["parameters"]
        is_personal = name == NO_MECHANISM and parameters is None
        return cls(
            unit=canonical.name(table["unit"], what="unit"),
            gaussian=None if is_personal else GaussianMechanism.from_table(name, parameters),
            ledger_head=canonical.sha256_hex(ledger["head"], what="ledger head"),
            ledger_counter=canonical.integer(
                ledger["counter"], low=0, high=canonical.MAX_INTEGER, what="ledger counter"
            ),
        )
