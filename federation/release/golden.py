"""Golden images: what a model must answer, checked before it answers anything else.

A release carries a few images with the probabilities that its maker's runtime gave. A runtime that
computes otherwise (another provider, precision or version, a damaged library) is found at install
and at every start, and not by a patient.

The images are drawn by formulas (`federation.learning.generator.procedural`), never from a shard:
the file tells nothing about anybody, whatever the study allows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kit import canonical
from kit.errors import FormatError, KitError

MEDIA_TYPE = "application/vnd.hospital-edge-kit.golden-images+json"
VERSION = 1
MAX_BYTES = 8 << 20
MAX_IMAGES = 16
MAX_SIDE_PX = 1024
TOLERANCE = 1e-3  # of a probability; TF32 convolutions differ from float32 by about this much

Images = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenImages:
    """A few images (uint8 [C, h, w]), and a model's probabilities for each (float64)."""

    model: str
    images: tuple[NDArray[np.uint8], ...]
    probabilities: NDArray[np.float64]

    @property
    def inputs(self) -> list[NDArray[np.float32]]:
        """The images as a model takes them: float32 in [0, 1]."""
        return [image.astype(np.float32) / np.float32(255) for image in self.images]

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of the file."""
        rows = [
            {
                "shape": list(image.shape),
                "pixels": canonical.b64encode(np.ascontiguousarray(image).tobytes()),
                "probabilities": [canonical.real(float(p)) for p in row],
            }
            for image, row in zip(self.images, self.probabilities, strict=True)
        ]
        return canonical.encode({"version": VERSION, "model": self.model, "images": rows})

    @classmethod
    def from_bytes(cls, data: bytes, *, model: str, channels: int, classes: int) -> Self:
        """Read the file that came with `model` (its digest).

        Raises:
            FormatError: it is another model's, or a field is missing, unknown or out of range.
        """
        table = canonical.fields(
            canonical.decode(data, limit=MAX_BYTES),
            {"version", "model", "images"},
            what="golden images",
        )
        canonical.version(table["version"], expected=VERSION, what="golden images")
        if table["model"] != model:
            raise FormatError("the golden images are another model's")
        rows = table["images"]
        if not isinstance(rows, list) or not 0 < len(rows) <= MAX_IMAGES:
            raise FormatError(f"there are 1 to {MAX_IMAGES} golden images")
        images, answers = zip(*(_row(row, channels, classes) for row in rows), strict=True)
        return cls(model=model, images=images, probabilities=np.array(answers))

    def check(self, predict: Callable[[Images], NDArray[np.float32]], *, what: str) -> float:
        """Return by how much `predict` differs at most, in a probability.

        Raises:
            KitError: by more than `TOLERANCE`, or it gives something else than probabilities.
        """
        found = np.asarray(predict(self.inputs), dtype=np.float64)
        if found.shape != self.probabilities.shape:
            raise KitError(f"{what} answers the golden images with another number of classes")
        difference = float(np.abs(found - self.probabilities).max())
        if not difference <= TOLERANCE:  # a NaN is refused as well
            raise KitError(
                f"{what} computes this model otherwise than its maker: a probability differs by"
                f" {difference:.2g}, more than {TOLERANCE:g}",
                hint="do not predict with it here; compare `edge-agent doctor` with a machine where"
                " it works",
            )
        return difference


def _row(value: object, channels: int, classes: int) -> tuple[NDArray[np.uint8], list[float]]:
    table = canonical.fields(value, {"shape", "pixels", "probabilities"}, what="golden image")
    shape, answers = table["shape"], table["probabilities"]
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] != channels:
        raise FormatError("a golden image has another shape than the study's")
    for side in shape[1:]:
        canonical.integer(side, low=1, high=MAX_SIDE_PX, what="side of a golden image")
    pixels = canonical.b64decode(table["pixels"], limit=2 * MAX_BYTES)
    if len(pixels) != int(np.prod(shape)):
        raise FormatError("a golden image has more or fewer pixels than its shape")
    if not isinstance(answers, list) or len(answers) != classes:
        raise FormatError("a golden image has another number of probabilities than classes")
    found = [canonical.to_float(answer, what="probability") for answer in answers]
    if not all(0 <= p <= 1 for p in found) or abs(sum(found) - 1) > TOLERANCE:
        raise FormatError("what a golden image expects are no probabilities")
    return np.frombuffer(pixels, dtype=np.uint8).reshape(shape), found
