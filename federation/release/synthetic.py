"""The synthetic set of a release: images that its model was trained on, for training at a site.

    set = length of the manifest (8 bytes, little-endian) || manifest || images

The manifest is canonical JSON; the images are bytes, uint8 [C, H, W] one after the other, all of a
class together, in the order of the release's labels. Nothing is compressed, and every length
follows from the manifest: a reader allocates nothing that it did not compute first.

Which images of a class are in it, and in which order, follows from a secret of the study and the
images alone: not from the blueprints that they were drawn from, nor from their number.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from federation.release.statement import MAX_MODEL_BYTES
from federation.study import Study
from kit import canonical
from kit.errors import FormatError

MEDIA_TYPE = "application/vnd.hospital-edge-kit.synthetic-set"
VERSION = 1
MAX_BYTES = MAX_MODEL_BYTES
MAX_MANIFEST_BYTES = 256 * 1024  # a thousand labels
_LENGTH_BYTES = 8

Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSet:
    """Images (uint8 [n, C, H, W]) of each label of a release, in the order of its labels.

    0 is -1 and 255 is +1, as in a shard.
    """

    study: str
    labels: tuple[str, ...]
    images: tuple[Images, ...]

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(len(images) for images in self.images)

    def to_bytes(self) -> bytes:
        """Return the file."""
        manifest = canonical.encode(
            {
                "version": VERSION,
                "study": self.study,
                "shape": list(self.images[0].shape[1:]),
                "classes": [
                    {"label": label, "images": len(images)}
                    for label, images in zip(self.labels, self.images, strict=True)
                ],
            }
        )
        head = len(manifest).to_bytes(_LENGTH_BYTES, "little") + manifest
        return b"".join([head, *(np.ascontiguousarray(i).tobytes() for i in self.images)])

    @classmethod
    def from_bytes(cls, data: bytes, *, study: Study, labels: Sequence[str]) -> Self:
        """Read the set of a release of `study` with these labels.

        Raises:
            FormatError: it is another study's or release's, or a field or length is off.
        """
        size = int.from_bytes(data[:_LENGTH_BYTES], "little")
        is_sized = _LENGTH_BYTES < len(data) <= MAX_BYTES
        if not is_sized or not 0 < size <= MAX_MANIFEST_BYTES:
            raise FormatError("the file is no synthetic set")
        shape = (study.image.channels, study.image.height, study.image.width)
        counts = _counts(data[_LENGTH_BYTES:][:size], study.digest, shape, tuple(labels))
        if len(data) != _LENGTH_BYTES + size + sum(counts) * prod(shape):
            raise FormatError("the synthetic set is not as long as its manifest says")
        pixels = np.frombuffer(data, dtype=np.uint8, offset=_LENGTH_BYTES + size)
        ends = np.cumsum([count * prod(shape) for count in counts])[:-1]
        parts = np.split(pixels, ends)
        images = tuple(part.reshape(-1, *shape) for part in parts)
        return cls(study=study.digest, labels=tuple(labels), images=images)


def _counts(
    data: bytes, study: str, shape: tuple[int, ...], labels: tuple[str, ...]
) -> tuple[int, ...]:
    what = "manifest of a synthetic set"
    table = canonical.fields(
        canonical.decode(data, limit=MAX_MANIFEST_BYTES),
        {"version", "study", "shape", "classes"},
        what=what,
    )
    canonical.version(table["version"], expected=VERSION, what=what)
    if table["study"] != study:
        raise FormatError("the synthetic set is of another study")
    if table["shape"] != list(shape):
        raise FormatError("the synthetic set's images are not of the study's shape")
    rows = table["classes"]
    if not isinstance(rows, list) or len(rows) != len(labels):
        raise FormatError("the synthetic set's classes are not those of the release")
    counts = []
    for row, label in zip(rows, labels, strict=True):
        canonical.fields(row, {"label", "images"}, what="class of a synthetic set")
        if row["label"] != label:
            raise FormatError("the synthetic set's classes are not those of the release")
        counts.append(canonical.integer(row["images"], low=1, high=MAX_BYTES, what="images"))
    return tuple(counts)


def largest_bytes(study: Study) -> int:
    """Return an upper bound of the length of a set of this study: known before any blueprint."""
    shape = (study.image.channels, study.image.height, study.image.width)
    pixels = len(study.classes) * study.build.shard_size * prod(shape)
    return _LENGTH_BYTES + MAX_MANIFEST_BYTES + pixels


def chosen(shards: Sequence[Images], *, most: int, secret: bytes) -> Images:
    """Return at most `most` images of one class, mixed by a secret of the study.

    Each image has a place by its keyed digest: a subset that nobody chose, the same whatever the
    order of the shards, and of one shard whether or not another is there.
    """
    images = np.concatenate(list(shards))
    places = sorted(
        range(len(images)), key=lambda i: hmac.digest(secret, images[i].tobytes(), "sha256")
    )
    return images[places[:most]]
