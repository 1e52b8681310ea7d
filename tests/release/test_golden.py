from dataclasses import replace

import numpy as np
import pytest

from federation.release import golden
from federation.release.golden import GoldenImages
from kit import canonical
from kit.errors import FormatError, KitError

MODEL = "a" * 64
RNG = np.random.default_rng(5)
GOLDEN = GoldenImages(
    model=MODEL,
    images=tuple(RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((3, 8, 8), (3, 15, 13))),
    probabilities=np.array([[0.25, 0.75], [1.0, 0.0]]),
)


def read(data, *, model=MODEL, channels=3, classes=2):
    return GoldenImages.from_bytes(data, model=model, channels=channels, classes=classes)


def answers(shift=0.0):
    """A model that gives what is expected, but for `shift`."""
    off = np.array([shift, -shift])
    return lambda images: (GOLDEN.probabilities[: len(images)] + off).astype(np.float32)


def test_what_is_written_is_read_again():
    found = read(GOLDEN.to_bytes())
    assert found.to_bytes() == GOLDEN.to_bytes()
    assert all((a == b).all() for a, b in zip(found.images, GOLDEN.images, strict=True))
    assert (found.probabilities == GOLDEN.probabilities).all()


def test_a_model_that_computes_otherwise_is_refused():
    assert GOLDEN.check(answers(), what="this runtime") < 1e-6
    assert GOLDEN.check(answers(golden.TOLERANCE / 2), what="this runtime") > 1e-4
    for wrong in (answers(2 * golden.TOLERANCE), answers(float("nan"))):
        with pytest.raises(KitError, match="this runtime computes this model otherwise"):
            GOLDEN.check(wrong, what="this runtime")
    with pytest.raises(KitError, match="another number of classes"):
        GOLDEN.check(lambda _: np.ones((2, 3), np.float32) / 3, what="this runtime")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"images": []},
        {"images": [{}]},
        {"more": 1},
    ],
)
def test_a_file_of_another_form_is_refused(change):
    table = canonical.decode(GOLDEN.to_bytes())
    assert read(canonical.encode(table))
    with pytest.raises(FormatError):
        read(canonical.encode(table | change))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1, 8, 8]},
        {"shape": [3, 8, 0]},
        {"shape": [3, 8, 1 << 20]},
        {"shape": [3, 8, 9]},
        {"pixels": "AAAA"},
        {"probabilities": ["0.5"]},
        {"probabilities": ["0.5", "0.9"]},
        {"probabilities": ["-0.5", "1.5"]},
    ],
)
def test_an_image_of_another_form_is_refused(change):
    table = canonical.decode(GOLDEN.to_bytes())
    assert read(canonical.encode(table))
    table["images"][0] |= change
    with pytest.raises(FormatError):
        read(canonical.encode(table))


def test_the_images_of_another_model_or_study_are_refused():
    data = GOLDEN.to_bytes()
    assert read(data)
    for other in ({"model": "b" * 64}, {"channels": 1}, {"classes": 3}):
        with pytest.raises(FormatError):
            read(data, **other)
    with pytest.raises(FormatError, match="over the limit"):
        read(data + b" " * golden.MAX_BYTES)


def test_inputs_are_what_a_decoder_gives():
    black_and_white = np.array([[[0, 255]]], dtype=np.uint8)
    only = replace(GOLDEN, images=(black_and_white,), probabilities=np.array([[1.0, 0.0]]))
    assert only.inputs[0].tolist() == [[[0.0, 1.0]]]
