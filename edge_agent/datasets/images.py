"""Images to predict on: each at its own size, a bounded part of them in memory.

The released model's graph does the resizing, so what is handed over is what the file holds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from edge_agent.datasets import folder, npz
from edge_agent.datasets.decode import SUFFIXES, to_channels
from edge_agent.datasets.report import Refusal
from edge_agent.datasets.sources import is_npz, read_image
from federation.study import ImageRule
from kit.canonical import printable
from kit.errors import KitError

MAX_KEPT_VALUES = 1 << 28  # 1 GiB of float32 stays decoded; what is beyond is read again when used

Pixels = NDArray[np.float32]


class Images(Sequence[Pixels]):
    """Float32 [C, h, w] in [0, 1], one by one; what is not kept in memory is read when asked."""

    def __init__(self, items: Sequence[Pixels | Callable[[], Pixels]]) -> None:
        self._items = tuple(items)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...
    @overload
    def __getitem__(self, index: slice) -> "Images": ...
    def __getitem__(self, index: int | slice) -> "Pixels | Images":
        if isinstance(index, slice):
            return Images(self._items[index])
        item = self._items[index]
        return item() if callable(item) else item


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
    images: Sequence[Pixels]
    labels: tuple[str, ...] | None
    refused: tuple[Refusal, ...]


def load_images(
    path: Path,
    rule: ImageRule,
    classes: Sequence[str] = (),
    *,
    split: str = "test",
    on_image: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read images to predict on; a file that cannot be read is refused and the rest goes on.

    Args:
        path: one image, a folder of images, a folder of class folders, or an `.npz`.
        rule: gives the channels.
        classes: the study's classes: what integer labels of an `.npz` count, and which folder
            names are labels. Without them every folder name is a label.
        split: which part of an `.npz`.
        on_image: called with how many images are read and how many there are.

    Raises:
        KitError: the data are missing, malformed, or no image can be read.
    """
    if is_npz(path):
        return _npz_images(path, rule, classes, split)
    root, files, refused = _list(path, classes)
    names: list[str] = []
    labels: list[str | None] = []
    items: list[Pixels | Callable[[], Pixels]] = []
    kept = 0
    for file, label in files:
        pixels = _read(root, file, rule)
        if isinstance(pixels, Refusal):
            refused.append(pixels)
        else:
            kept += pixels.size
            items.append(pixels if kept <= MAX_KEPT_VALUES else _Later(root, file, rule))
            names.append(file)
            labels.append(label)
        if on_image is not None:
            on_image(len(names), len(files))
    if not names:
        first = f": `{printable(refused[0].file)}` {refused[0].reason}" if refused else ""
        raise KitError(f"no image of `{path}` can be read{first}")
    known = tuple(label for label in labels if label is not None)
    return ImageSet(
        files=tuple(names),
        images=Images(items),
        labels=known if len(known) == len(names) else None,
        refused=tuple(refused),
    )


def _npz_images(path: Path, rule: ImageRule, classes: Sequence[str], split: str) -> ImageSet:
    arrays = npz.read(path, classes, split=split)

    def convert(stored: NDArray[np.uint8 | np.uint16]) -> Callable[[], Pixels]:
        return lambda: to_channels(npz.to_pixels(stored), rule.channels)

    return ImageSet(
        files=tuple(f"{split}[{index}]" for index in range(len(arrays.labels))),
        images=Images([convert(stored) for stored in arrays.images]),
        labels=arrays.labels,
        refused=(),
    )


def _list(
    path: Path, classes: Sequence[str]
) -> tuple[Path, list[tuple[str, str | None]], list[Refusal]]:
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise KitError(f"data `{path}` is no image, folder or .npz file")
        return path.parent, [(path.name, None)], []
    listing = folder.list_folder(path)
    is_labelled = not listing.loose and (
        not classes or any(name in classes for name in listing.classes)
    )
    return listing.root, list(_files(listing, is_labelled=is_labelled)), list(listing.refused)


def _files(listing: folder.Listing, *, is_labelled: bool) -> Iterator[tuple[str, str | None]]:
    for file in listing.loose:
        yield file, None
    for name, found in listing.classes.items():
        for file in found:
            yield file, name if is_labelled else None


def _read(root: Path, file: str, rule: ImageRule) -> Pixels | Refusal:
    read = read_image(root, file)
    return read if isinstance(read, Refusal) else to_channels(read[0].pixels, rule.channels)


@dataclass(frozen=True, slots=True)
class _Later:
    """An image that was readable once and is read again when it is used."""

    root: Path
    file: str
    rule: ImageRule

    def __call__(self) -> Pixels:
        pixels = _read(self.root, self.file, self.rule)
        if isinstance(pixels, Refusal):
            raise KitError(f"image `{printable(self.file)}` changed while it was in use")
        return pixels
