"""A sketch: a few hundred bits by which a revoked blueprint is known again, and not restored (A20).

One changed bit makes another digest. A sketch changes little where weights change little: bit i is
the sign of the i-th keyed random projection, so two sketches differ in as many bits, of so many, as
the angle between what was sketched is of a half turn (Charikar 2002). Two things are sketched:

- the weights, each tensor at length one: catches edited, noised and rounded copies;
- for each class, how the generator turns one fixed noise into images: catches a network whose
  channels were renumbered, which has other weights and draws the same.

A sketch holds `WEIGHT_BITS` bits and `CLASS_BITS` per class, and can tell nobody more than so many
bits about the weights, whoever has the key and whatever they compute. Whoever has the key and a
blueprint can say whether the sketch is of it: that is what it is for.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from federation.learning.downstream.distances import reduced
from federation.learning.review.drawn import Images
from kit import canonical, seeds
from kit.errors import FormatError

WEIGHT_BITS, CLASS_BITS = 256, 64
SKETCHED_IMAGES, SKETCH_STEPS = 8, 6  # of each class; of the sampler
ALIKE_WEIGHTS = 0.95  # of the bits: a copy with a tenth of noise in every weight, or nearer
ALIKE_IMAGES = 0.98
COMPARED_CLASSES = 2  # one class of class statistics is like any other site's
_CHUNK = 1 << 14  # weights projected at once

Arrays = Mapping[str, npt.NDArray[np.float32]]
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """What is kept of a blueprint.

    Attributes:
        layout: digest of the names and shapes of its tensors; others are of another network.
        shape: of its images, channels x height x width.
        weights: `WEIGHT_BITS` bits.
        classes: class -> `CLASS_BITS` bits.
    """

    layout: str
    shape: str
    weights: bytes
    classes: Mapping[str, bytes]

    def to_table(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "layout": self.layout,
            "shape": self.shape,
            "weights": self.weights.hex(),
            "classes": {label: bits.hex() for label, bits in self.classes.items()},
        }

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote; the process that wrote it had seen a payload.

        Raises:
            FormatError: it is no sketch.
        """
        table = canonical.fields(value, {"layout", "shape", "weights", "classes"}, what="sketch")
        try:
            found = cls(
                layout=canonical.sha256_hex(table["layout"]),
                shape=canonical.printable(table["shape"], width=32),
                weights=bytes.fromhex(table["weights"]),
                classes={label: bytes.fromhex(b) for label, b in table["classes"].items()},
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise FormatError("a sketch has a field that is none") from error
        lengths = {len(bits) for bits in found.classes.values()}
        if len(found.weights) != WEIGHT_BITS // 8 or lengths - {CLASS_BITS // 8}:
            raise FormatError("a sketch has another number of bits")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Which share of the bits agree; None where the two cannot be compared. Strangers: about half.

    Networks of one architecture share what every training gives them, and agree in more.
    """

    weights: float | None
    images: float | None

    @property
    def is_copy(self) -> bool:
        """Whether one is the other, but for small changes."""
        return (self.weights or 0.0) >= ALIKE_WEIGHTS or (self.images or 0.0) >= ALIKE_IMAGES

    @property
    def nearest(self) -> float:
        """How near they are, in the respect in which they are nearer; 0 if there is none."""
        return max(self.weights or 0.0, self.images or 0.0)


def likeness(a: Sketch, b: Sketch) -> Likeness:
    """Compare two sketches that were made with one key."""
    shared = [label for label in a.classes if label in b.classes]
    images = None
    if len(shared) >= COMPARED_CLASSES and a.shape == b.shape:
        images = float(np.mean([_agreeing(a.classes[s], b.classes[s]) for s in shared]))
    weights = _agreeing(a.weights, b.weights) if a.layout == b.layout else None
    return Likeness(weights=weights, images=images)


def _agreeing(a: bytes, b: bytes) -> float:
    differing = sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))
    return 1 - differing / (8 * len(a))


def noise_seed(key: bytes, label: str) -> int:
    """Return the seed with which every blueprint's images of a class are drawn for its sketch."""
    return seeds.seed(key, "sketch noise", label)


def sketch(arrays: Arrays, images: Mapping[str, Images], key: bytes) -> Sketch:
    """Return the sketch of a blueprint.

    Args:
        arrays: its tensors.
        images: class -> `SKETCHED_IMAGES` images drawn from `noise_seed`.
        key: secret, the same for everything that is to be compared.
    """
    shapes = "".join(f"{name} {list(arrays[name].shape)}\n" for name in sorted(arrays))
    shape = next(iter(images.values())).shape[1:]
    return Sketch(
        layout=hashlib.sha256(shapes.encode()).hexdigest(),
        shape="x".join(map(str, shape)),
        weights=_weight_bits(arrays, key),
        classes={label: _image_bits(found, label, key) for label, found in images.items()},
    )


def _weight_bits(arrays: Arrays, key: bytes) -> bytes:
    sums = np.zeros(WEIGHT_BITS)
    for name in sorted(arrays):
        values = arrays[name].ravel().astype(np.float64)
        length = float(np.linalg.norm(values))
        if length > 0:
            sums += _project(values / length, WEIGHT_BITS, seeds.derive(key, "weights", name))
    return _signs(sums)


def _image_bits(images: Images, label: str, key: bytes) -> bytes:
    """Sketch how images differ from their mean: the mean is every such class's."""
    values = reduced(images).astype(np.float64)
    values -= values.mean(axis=0)
    return _signs(_project(values.ravel(), CLASS_BITS, seeds.derive(key, "images", label)))


def _project(values: Sums, bits: int, key: bytes) -> Sums:
    """Return `bits` sums of the values with random signs, which SHAKE-256 of the key gives."""
    sums = np.zeros(bits)
    for number, start in enumerate(range(0, len(values), _CHUNK)):
        part = values[start : start + _CHUNK]
        seed = key + number.to_bytes(8, "big")
        stream = hashlib.shake_256(seed).digest(bits * len(part) // 8)
        coins = np.unpackbits(np.frombuffer(stream, dtype=np.uint8)).reshape(bits, len(part))
        sums += coins.astype(np.float64) @ part * 2 - part.sum()
    return sums


def _signs(sums: Sums) -> bytes:
    return np.packbits(sums > 0).tobytes()
