"""The build policy of a study: what a build does, and every figure is part of the bits.

Version 1 has the five fields of `_FIRST`; what it leaves out is what it always meant: one
classifier, the standard augmentation, no calibration, nothing held out. Version 2 says it all.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from kit import canonical
from kit.errors import FormatError

VERSION = 2
MAX_SHARD = 100_000
MIN_HELD_OUT = 2  # images per shard: one to calibrate with, and one to say what that did
_FIRST = ("version", "shard_size", "sampler_steps", "classifier", "classifier_steps")


class Mode(StrEnum):
    """What is trained: one classifier on all shards, or one expert per blueprint, on its own."""

    MONOLITHIC = "monolithic"
    EXPERTS = "experts"


class Variation(StrEnum):
    """How training images are varied; `federation.learning.downstream.augmentation` has the limits.

    `symmetric` is `standard` with mirror images and, where height and width are equal, quarter
    turns: for cells and tissue, which have no up. A mirrored body is another body.
    """

    NONE = "none"
    STANDARD = "standard"
    SYMMETRIC = "symmetric"


class Calibration(StrEnum):
    """What makes scores of logits: nothing, or one temperature fitted on held-out shards."""

    NONE = "none"
    TEMPERATURE = "temperature"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPolicy:
    """What a build does, fixed before the first blueprint: every figure is part of the bits.

    `held_out` counts the last images of every shard, on which nothing is trained.
    """

    version: int
    shard_size: int
    sampler_steps: int
    classifier: str
    classifier_steps: int
    mode: Mode = Mode.MONOLITHIC
    augmentation: Variation = Variation.STANDARD
    calibration: Calibration = Calibration.NONE
    held_out: int = 0

    def to_table(self) -> dict[str, Any]:
        """Return the JSON form; that of version 1 has five fields."""
        table = asdict(self)
        return table if self.version > 1 else {name: table[name] for name in _FIRST}

    @classmethod
    def of(cls, value: Any) -> Self:
        """Read the JSON form.

        Raises:
            FormatError: a field is missing, unknown or out of range.
        """
        is_first = isinstance(value, dict) and value.get("version") == 1
        names = set(_FIRST if is_first else cls.__slots__)
        table = canonical.fields(value, names, what="build policy")
        canonical.version(
            table["version"], expected=1 if is_first else VERSION, what="build policy"
        )
        canonical.integer(table["shard_size"], low=8, high=MAX_SHARD, what="shard_size")
        canonical.integer(table["sampler_steps"], low=2, high=1000, what="sampler_steps")
        canonical.integer(table["classifier_steps"], low=1, high=1_000_000, what="classifier_steps")
        canonical.name(table["classifier"], what="classifier")
        return cls(**table) if is_first else cls(**table | _second(table))

    def require_outputs(self, outputs: Collection[str]) -> None:
        """Refuse the classes of a blueprint from which this policy can make nothing.

        Raises:
            FormatError: an expert would have one class, which tells nothing apart.
        """
        if self.mode is Mode.EXPERTS and len(outputs) < 2:
            raise FormatError(
                "a study in mode `experts` takes no blueprint of a single class: its expert would"
                " have nothing to tell apart",
                hint="such a hospital belongs in a study in mode `monolithic`; ask the coordinator",
            )


def _second(table: dict[str, Any]) -> dict[str, Any]:
    """Return what version 2 says beyond the first, checked."""
    most = table["shard_size"] // 2
    canonical.integer(table["held_out"], low=MIN_HELD_OUT, high=most, what="held_out")
    try:
        return {
            "mode": Mode(table["mode"]),
            "augmentation": Variation(table["augmentation"]),
            "calibration": Calibration(table["calibration"]),
        }
    except ValueError as error:
        raise FormatError(f"build policy: {error}") from error
