"""Real images, dealt to hospitals with disjoint classes: no image is at two of them.

| name          | images                                      | held out                        |
|---------------|---------------------------------------------|---------------------------------|
| digits        | scikit-learn's 1,797 handwritten ones, 8 px | 22 % of each class, by the seed |
| bloodcells8   | an `.npz` with MedMNIST keys, 28 px, colour | its test split                  |
| fashion-mnist | four IDX files, 28 px, grey                 | its test split                  |
"""

import gzip
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.baselines import SiteData
from demo.data import HELD_OUT_SHARE
from demo.story import DECLARED_STEP
from federation.study import ImageRule
from kit.errors import FormatError, KitError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_IDX_TRAIN, _IDX_TEST = "train", "t10k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images float32 [N, C, H, W] in [-1, 1] and their labels int64 [N]."""

    images: Floats
    labels: Labels

    def take(self, index: npt.NDArray[np.int64]) -> "Split":
        """Return the examples at `index`."""
        return Split(images=self.images[index], labels=self.labels[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """All of a set; `test` is None where every seed holds out its own share."""

    classes: tuple[str, ...]
    train: Split
    test: Split | None

    @property
    def rule(self) -> ImageRule:
        """The shape of the images, as a study states it."""
        _, channels, height, width = self.train.images.shape
        return ImageRule(channels=channels, height=height, width=width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What settings may depend on: everything of a deal but the images.

    Attributes:
        classes: of the study.
        rule: the shape of the images.
        labels: what each hospital declares.
        images: training images of each hospital.
        units: distinct ones of them.
    """

    classes: tuple[str, ...]
    rule: ImageRule
    labels: tuple[tuple[str, ...], ...]
    images: tuple[int, ...]
    units: tuple[int, ...]

    @property
    def declared(self) -> tuple[int, ...]:
        """Return the public lower bound that each hospital declares: a round number."""
        return tuple(
            max(count // DECLARED_STEP * DECLARED_STEP, min(count, DECLARED_STEP))
            for count in self.units
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What one seed deals: the hospitals, and their outline."""

    outline: Outline
    sites: tuple[SiteData, ...]


def image_units(site: SiteData) -> tuple[str, ...]:
    """Name the unit of each image: equal images are one."""
    return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in site.train_images)


def deal(dataset: Dataset, *, clients: int, images: int | None, seed: int) -> Federation:
    """Deal `images` training images (all if None), evenly over classes, to `clients` hospitals.

    Hospitals get runs of classes as even as possible, the larger ones first; what is held out and
    what is left over depend on the seed alone.

    Raises:
        KitError: there are more hospitals than classes, or fewer images than asked for.
    """
    count = len(dataset.classes)
    if not 1 <= clients <= count:
        raise KitError(f"{count} classes cannot be dealt to `{clients}` hospitals")
    rng = np.random.default_rng(seed)
    train, test = (dataset.train, dataset.test) if dataset.test else _hold_out(dataset.train, rng)
    train = _subset(train, count if images is None else images, count, rng, whole=images is None)
    sites, declared = [], []
    for number, run in enumerate(np.array_split(np.arange(count), clients)):
        parts = [s.take(np.flatnonzero(np.isin(s.labels, run))) for s in (train, test)]
        sites.append(
            SiteData(
                site=f"hospital-{number}",
                train_images=parts[0].images,
                train_labels=parts[0].labels,
                held_out_images=parts[1].images,
                held_out_labels=parts[1].labels,
            )
        )
        declared.append(tuple(dataset.classes[c] for c in run))
    outline = Outline(
        classes=dataset.classes,
        rule=dataset.rule,
        labels=tuple(declared),
        images=tuple(len(site.train_images) for site in sites),
        units=tuple(len(set(image_units(site))) for site in sites),
    )
    return Federation(outline=outline, sites=tuple(sites))


def _hold_out(all_of_it: Split, rng: np.random.Generator) -> tuple[Split, Split]:
    held = np.zeros(len(all_of_it.labels), dtype=bool)
    for label in np.unique(all_of_it.labels):
        mine = rng.permutation(np.flatnonzero(all_of_it.labels == label))
        held[mine[: round(HELD_OUT_SHARE * len(mine))]] = True
    return all_of_it.take(np.flatnonzero(~held)), all_of_it.take(np.flatnonzero(held))


def _subset(
    train: Split, images: int, classes: int, rng: np.random.Generator, *, whole: bool
) -> Split:
    if whole:
        return train
    if images > len(train.labels):
        raise KitError(f"the set has {len(train.labels)} training images, not {images}")
    order = [rng.permutation(np.flatnonzero(train.labels == c)) for c in range(classes)]
    rounds = (mine[turn : turn + 1] for turn in range(max(map(len, order))) for mine in order)
    return train.take(np.sort(np.concatenate(list(rounds))[:images]))


@cache
def load(name: str, path: Path | None) -> Dataset:
    """Return the data set `name`, read from `path` (digits need none).

    Raises:
        KitError: there is no such data set, its files are absent, or they are malformed.
    """
    if name not in _READERS:
        raise KitError(f"there is no data set `{name}`", hint=f"use one of {', '.join(_READERS)}")
    return _READERS[name](path)


def default_path(name: str) -> Path | None:
    """Return where a data set lies if no path is given."""
    return _DEFAULT_PATHS.get(name)


def names() -> tuple[str, ...]:
    """Return the data sets there are."""
    return tuple(_READERS)


def _digits(_path: Path | None) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    stored = np.round(digits.images * (255 / 16)).astype(np.uint8)
    whole = Split(images=_to_floats(stored), labels=digits.target.astype(np.int64))
    return Dataset(classes=tuple(map(str, digits.target_names)), train=whole, test=None)


def _npz(path: Path | None) -> Dataset:
    if path is None or not path.is_file():
        raise KitError(f"`{path}` is not there", hint="give the `.npz` with --data")
    with np.load(path, allow_pickle=False) as stored:
        keys = {f"{split}_{part}" for split in ("train", "test") for part in ("images", "labels")}
        if not keys <= set(stored.files):
            raise FormatError(f"`{path}` lacks {', '.join(sorted(keys - set(stored.files)))}")
        splits = [
            Split(
                images=_to_floats(stored[f"{split}_images"]),
                labels=stored[f"{split}_labels"].reshape(-1).astype(np.int64),
            )
            for split in ("train", "test")
        ]
        count = int(splits[0].labels.max()) + 1
        named = "class_names" in stored.files
        classes = stored["class_names"].tolist() if named else list(map(str, range(count)))
    return Dataset(classes=tuple(classes), train=splits[0], test=splits[1])


def _idx_folder(path: Path | None) -> Dataset:
    splits = []
    for part in (_IDX_TRAIN, _IDX_TEST):
        images = read_idx(_idx_file(path, f"{part}-images-idx3-ubyte"))
        labels = read_idx(_idx_file(path, f"{part}-labels-idx1-ubyte"))
        if images.ndim != 3 or labels.shape != (len(images),):
            raise FormatError(f"the IDX files of `{path}` are not images and their labels")
        splits.append(Split(images=_to_floats(images), labels=labels.astype(np.int64)))
    count = int(splits[0].labels.max()) + 1
    return Dataset(classes=tuple(map(str, range(count))), train=splits[0], test=splits[1])


def _idx_file(folder: Path | None, name: str) -> Path:
    for candidate in (name, f"{name}.gz"):
        if folder is not None and (folder / candidate).is_file():
            return folder / candidate
    raise KitError(
        f"`{folder}` has no `{name}`",
        hint="install Debian's dataset-fashion-mnist, or give the folder of the files with --data",
    )


def read_idx(path: Path) -> Bytes:
    """Read an IDX file of unsigned bytes, gzipped or not (LeCun's MNIST page, "file formats").

    Raises:
        FormatError: another type, or more or fewer bytes than its header says.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise FormatError(f"`{path}` is not an IDX file of unsigned bytes")
    axes = data[3]
    start = 4 + 4 * axes
    if len(data) < start:
        raise FormatError(f"`{path}` ends within its header")
    shape = struct.unpack(f">{axes}I", data[4:start])
    if len(data) - start != int(np.prod(shape, dtype=np.int64)):
        raise FormatError(f"`{path}` does not hold what its header says")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _to_floats(stored: Bytes) -> Floats:
    """Return uint8 [N, H, W(, C)] as float32 [N, C, H, W] in [-1, 1], scaled as a site does."""
    planes = stored[:, None] if stored.ndim == 3 else stored.transpose(0, 3, 1, 2)
    return (2 * (planes.astype(np.float32) / np.float32(255)) - 1).astype(np.float32)


_READERS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": _digits,
    "bloodcells8": _npz,
    "fashion-mnist": _idx_folder,
}
_DEFAULT_PATHS = {
    "bloodcells8": Path("../shared/data/bloodcells8/bloodcells8_28.npz"),
    "fashion-mnist": Path("/usr/share/datasets/fashion-mnist"),
}


def partition_title(clients: int, classes: Sequence[str]) -> str:
    """Name a way of dealing in words."""
    if clients == len(classes):
        return "single-class silos"
    return "three hospitals" if clients == 3 else f"{clients} hospitals"
