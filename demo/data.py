"""Deal a set of labelled images to three hospitals with disjoint classes.

`python -m demo.data --out DIR [--data PATH] [--seed S]` writes `DIR/<site>/train/<class>/` and
`DIR/<site>/held-out/<class>/` for the sites a, b and c, and prints what it wrote as JSON. Without
`--data` the images are scikit-learn's handwritten digits, which need no download; with it, any
MedMNIST-format `.npz` (train -> train, test -> held-out) or a folder of class folders.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_agent.datasets import folder, npz
from edge_agent.datasets.report import Refusal
from edge_agent.datasets.sources import read_image
from kit import canonical
from kit.errors import FormatError, KitError
from kit.files import os_errors, write_atomic

SITES = ("a", "b", "c")
TRAIN, HELD_OUT = "train", "held-out"
HELD_OUT_SHARE = 0.22
MANIFEST = "data.json"  # marks a folder as made here, so that only such a one is replaced

_MIN_SIDE_PX, _MAX_FOLDER_SIDE_PX, _SIDE_STEP_PX = 8, 64, 4
_MANY = 1000  # classes a study may have


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteData:
    """What one hospital got: its classes, and images per class."""

    classes: list[str]
    train: dict[str, int]
    held_out: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoData:
    """The three hospitals' data: classes in study order, image shape in pixels, sites."""

    source: str
    classes: list[str]
    channels: int
    height: int
    width: int
    sites: dict[str, SiteData]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One image to place: an array [h, w] or [h, w, 3], or a file to copy; held out, if known."""

    label: str
    content: NDArray[Any] | Path
    is_held_out: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    source: str
    classes: list[str]
    shape: tuple[int, int, int]
    items: list[_Item]


def make(out: Path, *, data: Path | None = None, seed: int = 0) -> DemoData:
    """Write the three hospitals' folders into `out` and describe them.

    Raises:
        KitError: `data` is not readable or has under three classes, or `out` holds other things.
    """
    images = _read(data)
    if len(images.classes) < len(SITES):
        raise KitError(f"`{images.source}` has under {len(SITES)} classes to deal out")
    _clear(out)
    sites = {}
    rng = np.random.default_rng(seed)
    for site, classes in zip(SITES, deal(images.classes), strict=True):
        counts: dict[str, dict[str, int]] = {TRAIN: {}, HELD_OUT: {}}
        for label in classes:
            of_class = [item for item in images.items if item.label == label]
            for part, chosen in _split(of_class, rng).items():
                counts[part][label] = len(chosen)
                _write(out / site / part / label, chosen)
        sites[site] = SiteData(classes=classes, train=counts[TRAIN], held_out=counts[HELD_OUT])
    channels, height, width = images.shape
    made = DemoData(
        source=images.source,
        classes=images.classes,
        channels=channels,
        height=height,
        width=width,
        sites=sites,
    )
    write_atomic(out / MANIFEST, (json.dumps(asdict(made), indent=1) + "\n").encode())
    return made


def deal(classes: Sequence[str]) -> list[list[str]]:
    """Cut `classes` in order into three runs, as even as possible, the larger ones first."""
    return [list(part) for part in np.array_split(np.array(classes, dtype=object), len(SITES))]


def _read(data: Path | None) -> _Images:
    if data is None:
        return _digits()
    if data.is_dir():
        return _folder(data)
    return _npz(data)


def _digits() -> _Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise KitError(
            "scikit-learn, which brings the handwritten digits, is not installed",
            hint="install it, or give --data",
        ) from error
    digits = load_digits()
    stored = np.round(digits.images * (255 / 16)).astype(np.uint8)
    items = [
        _Item(label=str(label), content=image)
        for image, label in zip(stored, digits.target, strict=True)
    ]
    classes = [str(label) for label in digits.target_names]
    return _Images(source="scikit-learn digits", classes=classes, shape=(1, 8, 8), items=items)


def _npz(path: Path) -> _Images:
    positions = [str(i) for i in range(_MANY)]
    splits = {TRAIN: npz.read(path, positions, split="train")}
    if "test_images" in npz.keys(path):
        splits[HELD_OUT] = npz.read(path, positions, split="test")
    found = {label for arrays in splits.values() for label in arrays.labels}
    names = _names(path, found, is_named=splits[TRAIN].named)
    has_own_split = HELD_OUT in splits
    items = [
        _Item(
            label=names[label],
            content=image[..., :3] if image.ndim == 3 else image,
            is_held_out=(part == HELD_OUT) if has_own_split else None,
        )
        for part, arrays in splits.items()
        for image, label in zip(arrays.images, arrays.labels, strict=True)
    ]
    stored = splits[TRAIN].images
    channels = 3 if stored.ndim == 4 and stored.shape[3] >= 3 else 1
    shape = (channels, *stored.shape[1:3])
    return _Images(source=path.name, classes=list(names.values()), shape=shape, items=items)


def _names(path: Path, found: set[str], *, is_named: bool) -> dict[str, str]:
    """Return label -> class name in study order; the file's `class_names` where they are safe."""
    if is_named:
        return {label: _class(label) for label in sorted(found)}
    numbers = sorted(map(int, found))
    names = npz.read_text(path, npz.CLASS_NAMES) if npz.CLASS_NAMES in npz.keys(path) else ()
    if len(names) > numbers[-1] and len(set(names)) == len(names) and all(map(_is_class, names)):
        return {str(i): names[i] for i in numbers}
    return {str(i): str(i) for i in numbers}


def _is_class(name: str) -> bool:
    try:
        _class(name)
    except FormatError:
        return False
    return True


def _class(name: str) -> str:
    if "/" in canonical.label(name, what="class"):
        raise FormatError(f"class `{name}` cannot name a folder")
    return name


def _folder(path: Path) -> _Images:
    listing = folder.class_folders(path)
    sizes, items, channels = [], [], 1
    for label, files in listing.classes.items():
        for file in files:
            read = read_image(listing.root, file)
            if isinstance(read, Refusal):
                continue
            pixels = read[0].pixels
            sizes.append(pixels.shape[1:])
            channels = max(channels, pixels.shape[0])
            items.append(_Item(label=_class(label), content=listing.root / file))
    if not items:
        raise KitError(f"no image of `{path}` can be read")
    height, width = (_side(median) for median in np.median(np.array(sizes), axis=0))
    classes = sorted({item.label for item in items})
    return _Images(source=path.name, classes=classes, shape=(channels, height, width), items=items)


def _side(pixels: float) -> int:
    rounded = round(pixels / _SIDE_STEP_PX) * _SIDE_STEP_PX
    return min(max(rounded, _MIN_SIDE_PX), _MAX_FOLDER_SIDE_PX)


def _split(items: list[_Item], rng: np.random.Generator) -> dict[str, list[_Item]]:
    if any(item.is_held_out is not None for item in items):
        parts = {part: part == HELD_OUT for part in (TRAIN, HELD_OUT)}
        return {p: [i for i in items if i.is_held_out is held] for p, held in parts.items()}
    order = rng.permutation(len(items))
    held_out = set(order[: max(1, round(HELD_OUT_SHARE * len(items)))].tolist())
    return {
        TRAIN: [item for index, item in enumerate(items) if index not in held_out],
        HELD_OUT: [item for index, item in enumerate(items) if index in held_out],
    }


def _write(place: Path, items: list[_Item]) -> None:
    with os_errors(place):
        place.mkdir(parents=True)
        for index, item in enumerate(items):
            target = place / f"{index:05d}.png"
            if isinstance(item.content, Path):
                shutil.copyfile(item.content, target.with_suffix(item.content.suffix.lower()))
            else:
                _to_image(item.content).save(target, compress_level=1)


def _to_image(stored: NDArray[Any]) -> Image.Image:
    image = stored[..., 0] if stored.ndim == 3 and stored.shape[2] == 1 else stored
    if image.ndim == 3 and image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)  # PNG colour at 16 bits is read at 8 anyway
    return Image.fromarray(np.ascontiguousarray(image))


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / MANIFEST).is_file():
            raise KitError(
                f"folder `{out}` is not empty", hint="give --out a new folder, or remove this one"
            )
        for site in SITES:
            shutil.rmtree(out / site, ignore_errors=True)
    with os_errors(out):
        out.mkdir(parents=True, exist_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="demo.data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--data", type=Path, help=".npz or folder of class folders")
    parser.add_argument("--seed", type=int, default=0, help="chooses the held-out images")
    options = parser.parse_args(arguments)
    try:
        made = make(options.out, data=options.data, seed=options.seed)
    except KitError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        print(f"demo.data: error: {error}{hint}", file=sys.stderr)
        return error.exit_code
    if options.data is not None and (options.data / folder.PATIENTS).is_file():
        print("demo.data: the patient map is left behind: units are images here", file=sys.stderr)
    print(json.dumps(asdict(made), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
