"""`--data` -> a cohort to train on, and a report for people.

Intensities are scaled by the file's bit depth and sizes by the study's rule: nothing is estimated
from the data, so no statistic of a patient leaves through preprocessing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.datasets import folder
from edge_agent.datasets.decode import resize, to_channels
from edge_agent.datasets.examples import Cohort
from edge_agent.datasets.images import ImageSet, load_images
from edge_agent.datasets.report import ClassCount, DataReport, Duplicate, Refusal, SizeCount
from edge_agent.datasets.sources import Opened, Source, open_data
from federation.study import ImageRule, Study, Unit
from kit.canonical import printable
from kit.errors import KitError

__all__ = ["ImageSet", "load_cohort", "load_images", "to_study"]


@dataclass(slots=True)
class _Found:
    """What a pass over the data collects; images are already in the study's shape."""

    images: list[NDArray[np.float32]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    notes: list[Refusal] = field(default_factory=list)
    text: list[Refusal] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    sizes: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    def add(self, source: Source, rule: ImageRule) -> None:
        from edge_agent.datasets.burned_in import text_regions  # a site that predicts has no SciPy

        height, width = source.image.pixels.shape[1:]
        self.sizes[width, height, source.image.bits] += 1
        if source.image.note:
            self.notes.append(Refusal(file=source.file, reason=source.image.note))
        for region in text_regions(source.image.pixels):
            self.text.append(Refusal(file=source.file, reason=f"in {region}"))
        self.images.append(to_study(source.image.pixels, rule))
        self.files.append(source.file)
        self.labels.append(source.label)
        self.units.append(source.unit)
        self.digests.append(source.digest)


def to_study(pixels: NDArray[np.float32], rule: ImageRule) -> NDArray[np.float32]:
    """Return float32 [C, H, W] in [-1, 1] of the study's shape from [c, h, w] in [0, 1]."""
    shaped = resize(to_channels(pixels, rule.channels), rule.height, rule.width)
    return (2 * shaped - 1).astype(np.float32)


def load_cohort(
    path: Path,
    study: Study,
    declared_labels: Sequence[str],
    *,
    split: str = "train",
    exact_minimum: bool = False,
    on_image: Callable[[int, int], None] | None = None,
    is_erased: Callable[[str, str], bool] = lambda _unit, _digest: False,
) -> tuple[Cohort, DataReport]:
    """Read what a site trains on; a file that cannot be read is reported and the rest goes on.

    Args:
        path: a folder of class folders, or an `.npz` with MedMNIST keys.
        study: gives classes, shape, privacy unit and minimum per class.
        declared_labels: the classes this site declared before its data were read.
        split: which part of an `.npz`; a folder is read whole.
        exact_minimum: leave out a class that has fewer units than the study's minimum. Without
            privacy only: a private run decides by a noisy count, inside its mechanism.
        on_image: called with how many images are read and how many there are.
        is_erased: says of an image's unit and digest whether one of them was erased at this site;
            such an image is left out and reported by its file.

    Raises:
        KitError: the data are missing, malformed or empty, a declared label is not one of the
            study, or the study's unit is the patient and there is no patient map.
    """
    declared = _declared(study, declared_labels)
    opened = open_data(path, study.classes, declared, split=split)
    if study.privacy.unit is Unit.PATIENT and opened.unit is not Unit.PATIENT:
        raise KitError(
            f"the study's privacy unit is the patient, but `{path}` has no patient map",
            hint=f"add `{folder.PATIENTS}` with the header `file,patient` to a folder of images",
        )
    found, total = _Found(), sum(opened.counts[label] for label in declared)
    if not total:
        raise KitError(
            f"`{path}` has no image of the declared classes {', '.join(declared)}",
            hint=f"it holds {printable(', '.join(sorted(opened.counts)))}",
        )
    for source in opened.sources:
        if isinstance(source, Refusal):
            found.refused.append(source)
        elif is_erased(source.unit, source.digest):
            found.refused.append(Refusal(file=source.file, reason="is of a unit erased here"))
            found.erased.append(source.digest)
        else:
            found.add(source, study.image)
        if on_image is not None:
            on_image(len(found.images), total)
    report = _report(found, opened, study, declared, exact_minimum=exact_minimum)
    _require_images(path, report)
    return _cohort(found, study, report), report


def _declared(study: Study, labels: Sequence[str]) -> tuple[str, ...]:
    for label in labels:
        if label not in study.classes:
            raise KitError(
                f"label `{printable(label)}` is not a class of study `{study.id}`",
                hint=f"its classes are {', '.join(study.classes)}",
            )
    if not labels:
        raise KitError("no labels are declared", hint="name the classes this site has")
    return tuple(c for c in study.classes if c in set(labels))


def _report(
    found: _Found,
    opened: Opened,
    study: Study,
    declared: tuple[str, ...],
    *,
    exact_minimum: bool,
) -> DataReport:
    least = study.minimum_per_class if exact_minimum else 1
    counts = tuple(_count(found, label, least) for label in declared)
    used = {c.label for c in counts if c.used}
    rule = study.image
    sizes = sorted(found.sizes.items(), key=lambda item: (-item[1], item[0]))
    return DataReport(
        unit=opened.unit,
        channels=rule.channels,
        height=rule.height,
        width=rule.width,
        images=sum(c.images for c in counts if c.used),
        units=len({u for u, at in zip(found.units, found.labels, strict=True) if at in used}),
        minimum_per_class=study.minimum_per_class,
        classes=counts,
        absent=tuple(label for label in declared if not opened.counts[label]),
        undeclared=tuple(
            _undeclared(label, count, study)
            for label, count in sorted(opened.counts.items())
            if label not in declared
        ),
        refused=tuple(found.refused),
        notes=tuple(found.notes),
        text=tuple(found.text),
        sizes=tuple(SizeCount(width=w, height=h, bits=b, images=n) for (w, h, b), n in sizes),
        resized=sum(n for (w, h, _), n in sizes if (w, h) != (rule.width, rule.height)),
        duplicates=_duplicates(found),
        erased_images=tuple(found.erased),
    )


def _count(found: _Found, label: str, minimum: int) -> ClassCount:
    units = [u for u, at in zip(found.units, found.labels, strict=True) if at == label]
    distinct = len(set(units))
    return ClassCount(label=label, images=len(units), units=distinct, used=distinct >= minimum)


def _undeclared(label: str, count: int, study: Study) -> Refusal:
    known = "not declared for this site" if label in study.classes else "no class of the study"
    reason = f"is {known}: its {count} images are left out (labels are declared before data)"
    return Refusal(file=label, reason=reason)


def _duplicates(found: _Found) -> tuple[Duplicate, ...]:
    places: dict[str, list[int]] = {}
    for index, digest in enumerate(found.digests):
        places.setdefault(digest, []).append(index)
    return tuple(
        Duplicate(
            digest=digest,
            files=tuple(found.files[i] for i in at),
            units=len({found.units[i] for i in at}),
            classes=tuple(sorted({found.labels[i] for i in at})),
        )
        for digest, at in places.items()
        if len(at) > 1
    )


def _require_images(path: Path, report: DataReport) -> None:
    if report.images:
        return
    why = report.warnings()
    raise KitError(
        f"no image of `{path}` is left to train on",
        hint="; ".join(why[:3]) if why else "check the declared labels",
    )


def _cohort(found: _Found, study: Study, report: DataReport) -> Cohort:
    used = {c.label for c in report.classes if c.used}
    kept = [i for i, label in enumerate(found.labels) if label in used]
    position = {label: index for index, label in enumerate(study.classes)}
    return Cohort(
        images=np.stack([found.images[i] for i in kept]),
        labels=np.array([position[found.labels[i]] for i in kept], dtype=np.int64),
        units=tuple(found.units[i] for i in kept),
        digests=tuple(found.digests[i] for i in kept),
        unit_kind=report.unit,
    )
