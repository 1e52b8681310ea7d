"""One stream of labelled images from either kind of `--data`.

Images are decoded one at a time; what cannot be read comes out as a `Refusal`, and the rest
goes on.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.datasets import folder, npz
from edge_agent.datasets.decode import MAX_IMAGE_BYTES, Decoded, decode
from edge_agent.datasets.report import Refusal
from federation.study import Unit
from kit.canonical import printable
from kit.errors import FormatError, KitError, LimitError
from kit.files import read_limited

_NPZ = ".npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One readable image: its name, label, unit key, SHA-256 and decoded channels."""

    file: str
    label: str
    unit: str
    digest: str
    image: Decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Data whose layout is known and whose images are yet to be decoded.

    Attributes:
        unit: patient with a patient map, else image.
        counts: label found -> number of images, before any is decoded.
        sources: decodes the images of the wanted labels, in order.
    """

    unit: Unit
    counts: Counter[str]
    sources: Iterator[Source | Refusal]


def is_npz(path: Path) -> bool:
    """Say whether `path` is to be read as an `.npz` archive."""
    return path.suffix.lower() == _NPZ and not path.is_dir()


def open_data(path: Path, classes: Sequence[str], wanted: Sequence[str], *, split: str) -> Opened:
    """Open a folder of class folders or an `.npz`.

    Args:
        path: the folder or archive.
        classes: the study's classes, which integer labels of an `.npz` count.
        wanted: the labels to read; others are only counted.
        split: which part of an `.npz`.

    Raises:
        KitError: the data are missing, malformed or empty.
    """
    if is_npz(path):
        return _open_npz(path, classes, wanted, split)
    if path.exists() and not path.is_dir():
        raise KitError(f"data `{path}` is neither a folder nor an .npz file")
    return _open_folder(path, wanted)


def _open_folder(path: Path, wanted: Sequence[str]) -> Opened:
    listing = folder.class_folders(path)
    patients = folder.read_patients(listing)
    files = {label: listing.classes.get(label, ()) for label in wanted}
    if patients is not None:
        for file in (file for of_class in files.values() for file in of_class):
            if file not in patients:
                raise KitError(
                    f"`{folder.PATIENTS}` has no row for `{printable(file)}`",
                    hint="name the patient of every image, or remove the image",
                )
    return Opened(
        unit=Unit.IMAGE if patients is None else Unit.PATIENT,
        counts=Counter({label: len(found) for label, found in listing.classes.items()}),
        sources=_folder_sources(listing, files, patients),
    )


def _folder_sources(
    listing: folder.Listing, files: dict[str, tuple[str, ...]], patients: dict[str, str] | None
) -> Iterator[Source | Refusal]:
    yield from listing.refused
    for label, file in ((label, file) for label, found in files.items() for file in found):
        read = read_image(listing.root, file)
        if isinstance(read, Refusal):
            yield read
            continue
        image, digest = read
        unit = digest if patients is None else patients[file]
        yield Source(file=file, label=label, unit=unit, digest=digest, image=image)


def read_image(root: Path, file: str) -> tuple[Decoded, str] | Refusal:
    """Return one decoded image file and its SHA-256, or why it is refused."""
    try:
        data = read_limited(root / file, limit=MAX_IMAGE_BYTES, what="image")
    except KitError:
        return Refusal(file=file, reason=f"cannot be read, or is over {MAX_IMAGE_BYTES} bytes")
    try:
        return decode(data), hashlib.sha256(data).hexdigest()
    except (FormatError, LimitError) as error:
        return Refusal(file=file, reason=str(error))


def _open_npz(path: Path, classes: Sequence[str], wanted: Sequence[str], split: str) -> Opened:
    arrays = npz.read(path, classes, split=split)
    return Opened(
        unit=Unit.IMAGE,
        counts=Counter(arrays.labels),
        sources=_npz_sources(arrays, frozenset(wanted), split),
    )


def _npz_sources(arrays: npz.Arrays, wanted: frozenset[str], split: str) -> Iterator[Source]:
    bits = 8 * arrays.images.dtype.itemsize
    note = "alpha dropped" if arrays.images.shape[3:] == (4,) else ""
    for index, label in enumerate(arrays.labels):
        if label not in wanted:
            continue
        stored = arrays.images[index]
        canonical_bytes = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
        digest = hashlib.sha256(canonical_bytes).hexdigest()
        image = Decoded(pixels=npz.to_pixels(stored), bits=bits, note=note)
        yield Source(file=f"{split}[{index}]", label=label, unit=digest, digest=digest, image=image)
