"""The data report: what was found before training, for people at the site.

Local only: it names files and patients, so it is never sent, logged or put into a statement.
"""

from dataclasses import asdict, dataclass
from typing import Any

from federation.study import Unit
from kit.canonical import printable

_SHOWN = 5  # lines of one kind for people; the table has all


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A file that was left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCount:
    """One declared class: its images and units, and whether training uses them."""

    label: str
    images: int
    units: int
    used: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeCount:
    """How many images came with this size and bit depth."""

    width: int
    height: int
    bits: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Files with the same bytes, and over how many units and which classes they spread."""

    digest: str
    files: tuple[str, ...]
    units: int
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """Everything that was found in `--data`. Local only: file names and patients' ids.

    Attributes:
        unit: whose presence a private run hides.
        channels, height, width: the study's shape, in pixels.
        images, units: what training uses, after everything that was left out.
        classes: the declared classes in study order. Without privacy `used` is false below
            `minimum_per_class`; a private run decides by a noisy count of its own.
        absent: declared classes without any image.
        undeclared: class folders (or labels) that the operator did not declare: left out.
        refused: files left out, each with its reason.
        notes: files read in part (first frame, alpha dropped), each with what was left aside.
        text: regions that look like text burned into pixels, where a name might stand (A22).
        sizes: sizes and bit depths as found; `resized` images had another size than the study's.
        duplicates: equal bytes under several file names.
        erased_images: digests of the images left out because their unit was erased at this site;
            not in the table, which is kept.
    """

    unit: Unit
    channels: int
    height: int
    width: int
    images: int
    units: int
    minimum_per_class: int
    classes: tuple[ClassCount, ...]
    absent: tuple[str, ...]
    undeclared: tuple[Refusal, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[Refusal, ...]
    text: tuple[Refusal, ...]
    sizes: tuple[SizeCount, ...]
    resized: int
    duplicates: tuple[Duplicate, ...]
    erased_images: tuple[str, ...]

    def to_table(self) -> dict[str, Any]:
        """Return the report as canonical JSON values (`data-report.json`, local only)."""
        table: dict[str, Any] = asdict(self)
        table["unit"] = str(self.unit)
        table["dropped"] = list(self.dropped)
        del table["erased_images"]
        return table

    @property
    def dropped(self) -> tuple[str, ...]:
        """Declared classes with images, but too few units to train on."""
        return tuple(c.label for c in self.classes if c.images and not c.used)

    def lines(self) -> list[str]:
        """Return the report for people, one line a fact; foreign names are made printable."""
        shape = f"{self.channels} x {self.height} x {self.width}"
        lines = [f"{self.images} images of {self.units} units ({self.unit}), as {shape} px"]
        lines += [
            f"class {c.label}: {c.images} images of {c.units} units"
            + ("" if c.used else ", not used")
            for c in self.classes
        ]
        found = ", ".join(
            f"{s.images} of {s.width} x {s.height} px at {s.bits} bits" for s in self.sizes[:_SHOWN]
        )
        more = f" and {len(self.sizes) - _SHOWN} more" if len(self.sizes) > _SHOWN else ""
        lines.append(f"found {found}{more}; {self.resized} resized")
        return lines + [f"warning: {line}" for line in self.warnings()]

    def warnings(self) -> list[str]:
        """Return what a person should look at before training goes on."""
        least = self.minimum_per_class
        lines = [f"class {c} has no image; its label stays declared" for c in self.absent]
        lines += [
            f"class {c} is below the study's minimum of {least} units: dropped from training, "
            "its label stays declared"
            for c in self.dropped
        ]
        lines += [
            f"class {c.label} is below the study's minimum of {least} units: a noisy count decides "
            "whether it is trained on, its label stays declared"
            for c in self.classes
            if c.used and c.units < least
        ]
        lines += [f"`{printable(u.file)}` {u.reason}" for u in self.undeclared]
        lines += _some("refused", self.refused) + _some("read in part", self.notes)
        if self.text:
            files = len({found.file for found in self.text})
            lines.append(f"{files} images seem to hold text; a name there would be learnt: look")
            lines += _some("text?", self.text)
        return lines + self._duplicate_lines()

    def _duplicate_lines(self) -> list[str]:
        lines = []
        over_units = sum(d.units > 1 for d in self.duplicates)
        over_classes = sum(len(d.classes) > 1 for d in self.duplicates)
        if over_units:
            lines.append(f"{over_units} images appear under several units; one person may be two")
        if over_classes:
            lines.append(f"{over_classes} images appear in several classes; check their labels")
        return lines


def _some(kind: str, refusals: tuple[Refusal, ...]) -> list[str]:
    lines = [f"{kind}: `{printable(r.file)}` {r.reason}" for r in refusals[:_SHOWN]]
    if len(refusals) > _SHOWN:
        lines.append(f"{kind}: {len(refusals) - _SHOWN} more; see data-report.json")
    return lines
