"""The plan of a build: everything that the bits of its release depend on, as one digest."""

import json
from dataclasses import dataclass
from typing import Any

from federation.study import Study
from kit import canonical

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One approved blueprint in a plan."""

    weights_sha256: str
    blueprint: str
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything the bits of a release depend on; its digest names it."""

    study: Study
    inputs: tuple[Input, ...]
    numerics: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that some approved blueprint declares, in study order."""
        declared = {label for entry in self.inputs for label in entry.outputs}
        return tuple(label for label in self.study.classes if label in declared)

    def to_bytes(self) -> bytes:
        """Return the canonical plan; sites and statement digests are no part of it."""
        return canonical.encode(
            {
                "version": PLAN_VERSION,
                "study": self.study.digest,
                "policy": json.loads(self.study.to_bytes())["build"],
                "inputs": [
                    {"weights": entry.weights_sha256, "outputs": list(entry.outputs)}
                    for entry in self.inputs
                ],
                "labels": list(self.labels),
                "numerics": self.numerics,
            }
        )

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 of the canonical plan."""
        return canonical.digest(self.to_bytes())
