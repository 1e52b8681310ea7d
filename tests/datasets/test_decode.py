"""Files become channels in [0, 1] by their own bit depth, or are refused with one reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_agent.datasets import decode as decoding
from edge_agent.datasets.decode import decode, resize, to_channels
from kit.errors import FormatError, LimitError

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
COLOUR = np.stack([GREY, 255 - GREY, np.full_like(GREY, 51)], axis=2)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, *, bits: int, colour_type: int, raw: bytes) -> bytes:
    """Write a PNG by hand (ISO/IEC 15948), for kinds and sizes that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(rows: np.ndarray, *, bits: int, photometric: int = 1, width: int = 0) -> bytes:
    """Write an uncompressed grey TIFF by hand: Pillow inverts as it writes."""
    data = rows.tobytes()
    entries = [
        (256, width or rows.shape[1]),
        (257, rows.shape[0]),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, rows.shape[0]),
        (279, len(data)),
    ]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    header = b"II*\0" + struct.pack("<I", 8 + len(data))
    return header + data + struct.pack("<H", len(entries)) + table + bytes(4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_eight_bits_are_divided_by_255(kind: str) -> None:
    found = decode(saved(Image.fromarray(GREY), kind))
    assert found.bits == 8
    assert found.pixels.dtype == np.float32
    assert np.array_equal(found.pixels[0], GREY / np.float32(255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_divided_by_65535(kind: str) -> None:
    stored = (GREY.astype(np.uint16) << 8) + 7
    stored[0, 0] = 65535
    found = decode(saved(Image.fromarray(stored), kind))
    assert found.bits == 16
    assert np.allclose(found.pixels[0], stored / 65535, atol=1e-7)
    assert found.pixels.max() == 1


def test_a_dark_sixteen_bit_image_stays_dark() -> None:
    dark = np.full((8, 8), 300, dtype=np.uint16)
    assert np.allclose(decode(saved(Image.fromarray(dark))).pixels, 300 / 65535, atol=1e-7)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_with_white_as_zero_is_inverted(bits: int) -> None:
    stored = GREY.astype(f"<u{bits // 8}") * (257 if bits == 16 else 1)
    black, white = (decode(tiff(stored, bits=bits, photometric=p)).pixels[0] for p in (1, 0))
    assert np.allclose(black, GREY / 255, atol=1e-6)
    assert np.allclose(white, 1 - GREY / 255, atol=1e-6)


def test_a_twelve_bit_tiff_has_4095_as_its_largest_value() -> None:
    packed = bytes.fromhex("fff800" * 4)  # pairs of 4095 and 2048
    found = decode(tiff(np.frombuffer(packed, np.uint8).reshape(1, -1), bits=12, width=8))
    assert found.bits == 12
    assert np.allclose(found.pixels[0, 0], [1, 2048 / 4095] * 4, atol=1e-6)


def test_jpeg_is_read_as_grey_or_colour() -> None:
    grey = decode(saved(Image.fromarray(GREY), "JPEG", quality=95))
    colour = decode(saved(Image.fromarray(COLOUR), "JPEG", quality=95))
    assert grey.pixels.shape == (1, 8, 8)
    assert colour.pixels.shape == (3, 8, 8)
    assert np.abs(grey.pixels[0] - GREY / 255).max() < 0.05


def test_one_bit_is_black_and_white() -> None:
    found = decode(saved(Image.fromarray(GREY > 100)))
    assert found.bits == 1
    assert set(np.unique(found.pixels)) == {0.0, 1.0}


def test_palette_colours_are_looked_up() -> None:
    palette = Image.fromarray(COLOUR).quantize(64)
    found = decode(saved(palette))
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(found.pixels, expected)


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    found = decode(saved(palette, transparency=bytes(range(16))))
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(found.pixels, expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_said(mode: str) -> None:
    bands = {"RGBA": COLOUR, "LA": GREY}[mode]
    image = Image.fromarray(bands).convert(mode)
    image.putalpha(Image.fromarray(255 - GREY))
    found = decode(saved(image))
    assert found.note == "alpha dropped"
    assert np.array_equal(found.pixels, np.atleast_3d(bands).transpose(2, 0, 1) / np.float32(255))


def test_sixteen_bit_colour_is_read_at_eight_bits_and_said() -> None:
    row = b"\0" + struct.pack(">3H", 65535, 256 * 51, 0) * 4
    found = decode(png(4, 2, bits=16, colour_type=2, raw=row * 2))
    assert (found.bits, found.note) == (16, "16-bit colour read at 8 bits")
    assert np.allclose(found.pixels[:, 0, 0], [1, 51 / 255, 0])


def test_only_the_first_frame_is_read_and_said() -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    for kind in ("TIFF", "PNG"):
        found = decode(saved(first, kind, save_all=True, append_images=[second]))
        assert found.note == "first frame only"
        assert np.array_equal(found.pixels[0], GREY / np.float32(255))


def test_a_truncated_file_is_refused_at_every_length() -> None:
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)))
    assert decode(whole).pixels.shape == (1, 8, 8)
    for length in range(len(whole) - 20):  # the last bytes are the end chunk, which holds no pixel
        with pytest.raises(FormatError, match="truncated or not"):
            decode(whole[:length])


def test_pixels_without_a_full_range_are_refused() -> None:
    assert decode(saved(Image.fromarray(GREY), "TIFF")).bits == 8
    for stored in (GREY.astype(np.float32), GREY.astype(np.int32)):
        with pytest.raises(FormatError, match="no full range"):
            decode(saved(Image.fromarray(stored), "TIFF"))


def test_other_formats_are_refused_whatever_they_are_named() -> None:
    image = Image.fromarray(GREY)
    assert decode(saved(image, "PNG"))
    for kind in ("GIF", "BMP", "WEBP", "PPM"):
        with pytest.raises(FormatError, match="not a PNG, JPEG or TIFF"):
            decode(saved(image, kind))


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    side = 1 + int(decoding.MAX_IMAGE_PIXELS**0.5)
    row = b"\0" + bytes(8)
    assert decode(png(8, 1, bits=8, colour_type=0, raw=row)).pixels.shape == (1, 1, 8)
    for width, height in ((side, side), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(LimitError, match="px"):
            decode(png(width, height, bits=8, colour_type=0, raw=row))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(["PNG", "JPEG", "TIFF"]), changes=st.data())
def test_damaged_bytes_give_an_image_or_one_refusal(kind: str, changes: st.DataObject) -> None:
    data = bytearray(saved(Image.fromarray(COLOUR), kind))
    positions = st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)
    for position in changes.draw(positions):
        data[position] = changes.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(data)).pixels
    except (FormatError, LimitError):
        return
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_grey_from_colour_is_luma_and_colour_from_grey_repeats() -> None:
    colour = COLOUR.transpose(2, 0, 1) / np.float32(255)
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    assert np.allclose(to_channels(colour, 1)[0], luma, atol=1e-6)
    grey = GREY[None] / np.float32(255)
    assert np.array_equal(to_channels(grey, 3), np.stack([grey[0]] * 3))
    assert to_channels(colour, 3) is colour


def test_resizing_keeps_the_mean_and_the_range_of_floats() -> None:
    stored = np.random.default_rng(1).random((3, 64, 32), dtype=np.float32)
    small = resize(stored, 8, 16)
    assert small.shape == (3, 8, 16)
    assert np.allclose(small.mean(axis=(1, 2)), stored.mean(axis=(1, 2)), atol=0.02)
    assert stored.min() <= small.min() <= small.max() <= stored.max()


def test_resizing_down_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 1], dtype=np.float32), (1, 64, 32))
    assert np.abs(resize(stripes, 8, 8) - 0.5).max() < 0.05
