"""One image file's bytes -> channels in [0, 1], by the file's own bit depth and nothing else.

Invariants:

- The same bytes give the same array: no statistic of the data set enters, no resizing happens.
- A file that is not a whole PNG, JPEG or TIFF of 1 to 16 bits is refused with one reason.
- The pixel count is read from the header and bounded before any pixel is decoded.
- Only the first frame is read. Orientation tags are not applied: pixels stay as stored.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kit.errors import FormatError, LimitError

FORMATS = ("PNG", "JPEG", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})

MAX_IMAGE_BYTES = 256 << 20  # one file; a whole-slide image needs a tiler, not this reader
MAX_IMAGE_PIXELS = 64 << 20  # 8192 x 8192: 768 MB as three float channels

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601-7 section 2.5.1
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr"})
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0 section 8

# What Pillow's decoders raise on hostile or broken bytes; each means the same to the reader.
_DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One image as stored: float32 [c, h, w] in [0, 1] with c 1 or 3, and what it was.

    Attributes:
        pixels: the channels, before the study's channel rule.
        bits: bits per channel in the file.
        note: what was left aside (further frames, an alpha channel, low bits), or "".
    """

    pixels: NDArray[np.float32]
    bits: int
    note: str


def decode(data: bytes) -> Decoded:
    """Read the first frame of a PNG, JPEG or TIFF.

    Raises:
        FormatError: not an image, truncated, or of a pixel type with no full range.
        LimitError: over `MAX_IMAGE_PIXELS`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken metadata does not matter; sizes are checked below
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_IMAGE_PIXELS:
                    raise LimitError(f"has {width} x {height} px, over {MAX_IMAGE_PIXELS} in all")
                return _first_frame(image)
        except Image.DecompressionBombError as error:
            raise LimitError(f"has over {MAX_IMAGE_PIXELS} px") from error
        except _DECODER_ERRORS as error:
            raise FormatError("is truncated or not a PNG, JPEG or TIFF image") from error


def _first_frame(image: Image.Image) -> Decoded:
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("first frame only")
    bits, mode = _bits(image), image.mode
    if mode.startswith("I;16"):
        grey = _grey16(image, bits)
        return Decoded(pixels=grey[None], bits=bits, note=", ".join(notes))
    if mode not in _GREY_MODES | _COLOUR_MODES:
        raise FormatError(f"has pixels of type `{mode}`, which have no full range")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        notes.append("alpha dropped")
    if bits > 8:
        notes.append("16-bit colour read at 8 bits")
    if mode in _GREY_MODES:
        pixels = np.asarray(image.convert("L"), dtype=np.float32)[None] / np.float32(255)
    else:
        # Palettes and premultiplied modes reach RGB by way of RGBA without a loss.
        via = image.convert("RGBA") if mode in ("P", "PA", "RGBa") else image
        stored = np.asarray(via.convert("RGB"), dtype=np.float32)
        pixels = stored.transpose(2, 0, 1) / np.float32(255)
    return Decoded(pixels=pixels, bits=bits, note=", ".join(notes))


def _bits(image: Image.Image) -> int:
    if image.mode == "1":
        return 1
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return int(max(tags.get(_TIFF_BITS, (8,))))
    tiles = getattr(image, "tile", ())  # a PNG says its depth only to its own decoder
    return 16 if any(";16" in str(tile.args) for tile in tiles) else 8


def _grey16(image: Image.Image, bits: int) -> NDArray[np.float32]:
    grey: NDArray[np.float32] = np.asarray(image).astype(np.float32) / np.float32((1 << bits) - 1)
    tags = getattr(image, "tag_v2", None)
    if tags is not None and tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 1 - grey  # Pillow inverts such TIFFs at 8 bits, not at 16
    return np.clip(grey, np.float32(0), np.float32(1))


def to_channels(pixels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Return [channels, h, w]: grey from colour by luma (BT.601), colour from grey by repeat.

    Args:
        pixels: float32 [c, h, w], c 1 or 3.
        channels: 1 or 3, the study's.
    """
    if pixels.shape[0] == channels:
        return pixels
    if channels == 1:
        return np.tensordot(_LUMA, pixels, axes=(0, 0))[None].astype(np.float32)
    return np.repeat(pixels, channels, axis=0)


def resize(pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return float32 [c, height, width], each channel by Pillow's antialiased bilinear filter."""
    if pixels.shape[1:] == (height, width):
        return pixels
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        for plane in np.ascontiguousarray(pixels, dtype=np.float32)
    ]
    return np.stack(planes)
