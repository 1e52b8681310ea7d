"""`--data` -> a cohort to train on and a report for people, or images to predict on.

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
from edge_agent.datasets.decode import SUFFIXES, resize, to_channels
from edge_agent.datasets.examples import Cohort
from edge_agent.datasets.report import ClassCount, DataReport, Duplicate, Refusal, SizeCount
from edge_agent.datasets.sources import Opened, Source, is_npz, open_data, read_image
from federation.study import ImageRule, Study, Unit
from kit.canonical import printable
from kit.errors import KitError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images to predict on. Sensitive: real patients.

    Attributes:
        files: N names, relative to the folder, or `test[3]` in an `.npz`.
        images: N arrays float32 [C, h, w] in [0, 1], the rule's channels, each at its own size.
        labels: N labels where the data have them (class folders, `.npz`), else None.
        refused: files left out, each with its reason.
    """

    files: tuple[str, ...]
    images: tuple[NDArray[np.float32], ...]
    labels: tuple[str, ...] | None
    refused: tuple[Refusal, ...]


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
    sizes: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    def add(self, source: Source, rule: ImageRule) -> None:
        height, width = source.image.pixels.shape[1:]
        self.sizes[width, height, source.image.bits] += 1
        if source.image.note:
            self.notes.append(Refusal(file=source.file, reason=source.image.note))
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
    on_image: Callable[[int, int], None] | None = None,
) -> tuple[Cohort, DataReport]:
    """Read what a site trains on; a file that cannot be read is reported and the rest goes on.

    Args:
        path: a folder of class folders, or an `.npz` with MedMNIST keys.
        study: gives classes, shape, privacy unit and minimum per class.
        declared_labels: the classes this site declared before its data were read.
        split: which part of an `.npz`; a folder is read whole.
        on_image: called with how many images are read and how many there are.

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
        else:
            found.add(source, study.image)
        if on_image is not None:
            on_image(len(found.images), total)
    report = _report(found, opened, study, declared)
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


def _report(found: _Found, opened: Opened, study: Study, declared: tuple[str, ...]) -> DataReport:
    counts = tuple(_count(found, label, study.minimum_per_class) for label in declared)
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
        sizes=tuple(SizeCount(width=w, height=h, bits=b, images=n) for (w, h, b), n in sizes),
        resized=sum(n for (w, h, _), n in sizes if (w, h) != (rule.width, rule.height)),
        duplicates=_duplicates(found),
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


def load_images(
    path: Path, rule: ImageRule, classes: Sequence[str] = (), *, split: str = "test"
) -> ImageSet:
    """Read images to predict on, at their own size (the model's graph resizes them).

    Args:
        path: one image, a folder of images, a folder of class folders, or an `.npz`.
        rule: gives the channels.
        classes: the study's classes: what integer labels of an `.npz` count, and which folder
            names are labels. Without them every folder name is a label.
        split: which part of an `.npz`.

    Raises:
        KitError: the data are missing, malformed, or no image can be read.
    """
    if is_npz(path):
        opened = open_data(path, classes, classes, split=split)
        read = [_as_image(source, rule) for source in opened.sources]
    else:
        read = _read_files(path, rule, classes)
    refused = tuple(r for r in read if isinstance(r, Refusal))
    taken = [r for r in read if not isinstance(r, Refusal)]
    if not taken:
        first = f": `{printable(refused[0].file)}` {refused[0].reason}" if refused else ""
        raise KitError(f"no image of `{path}` can be read{first}")
    has_labels = all(label is not None for _, _, label in taken)
    return ImageSet(
        files=tuple(file for file, _, _ in taken),
        images=tuple(image for _, image, _ in taken),
        labels=tuple(label or "" for _, _, label in taken) if has_labels else None,
        refused=refused,
    )


_Read = tuple[str, NDArray[np.float32], str | None] | Refusal


def _as_image(source: Source | Refusal, rule: ImageRule) -> _Read:
    if isinstance(source, Refusal):
        return source
    return source.file, to_channels(source.image.pixels, rule.channels), source.label


def _read_files(path: Path, rule: ImageRule, classes: Sequence[str]) -> list[_Read]:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise KitError(f"data `{path}` is no image, folder or .npz file")
        return [_read_file(path.parent, path.name, None, rule)]
    listing = folder.list_folder(path)
    is_labelled = not listing.loose and (
        not classes or any(name in classes for name in listing.classes)
    )
    files: list[tuple[str, str | None]] = [(file, None) for file in listing.loose]
    for name, found in listing.classes.items():
        files += [(file, name if is_labelled else None) for file in found]
    read = [_read_file(listing.root, file, label, rule) for file, label in files]
    return [*listing.refused, *read]


def _read_file(root: Path, file: str, label: str | None, rule: ImageRule) -> _Read:
    read = read_image(root, file)
    if isinstance(read, Refusal):
        return read
    return file, to_channels(read[0].pixels, rule.channels), label
