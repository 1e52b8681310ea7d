import numpy as np
import pytest

from federation.learning.generator import procedural
from kit.errors import KitError

SHAPES = ((1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 28, 20), (3, 64, 64))


def drawn(looks="all", *, shape=(1, 16, 16), each=12, classes=8, seed=3, step=0):
    styles = procedural.styles(classes, looks, seed=seed)
    labels = [number for number in range(classes) for _ in range(each)]
    return procedural.draw(styles, labels, shape, seed=(seed, step)), np.array(labels)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("looks", procedural.LOOKS)
def test_images_have_the_asked_shape_range_and_content(looks, shape):
    images, labels = drawn(looks, shape=shape)
    assert images.shape == (len(labels), *shape)
    assert images.dtype == np.float32
    assert -1 <= images.min() < -0.5 < 0.2 < images.max() <= 1
    assert images.reshape(len(images), -1).std(axis=1).min() > 0.05  # none is blank
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_one_seed_gives_the_same_images_and_another_gives_others():
    first, _ = drawn()
    assert (first == drawn()[0]).all()
    assert (first != drawn(step=1)[0]).any()
    assert (first != drawn(seed=4)[0]).any()


@pytest.mark.parametrize("looks", procedural.LOOKS)
def test_pseudo_classes_can_be_told_apart(looks):
    """Far over chance, by the nearest of the others: phase and place move, so a texture's spectrum
    is what is compared."""
    images, labels = drawn(looks, shape=(3, 16, 16), each=24)
    seen = np.abs(np.fft.fft2(images)).reshape(len(images), -1)
    squares = (seen**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * seen @ seen.T
    np.fill_diagonal(apart, np.inf)
    right = (labels[apart.argmin(axis=1)] == labels).mean()
    assert right > 0.6, right  # one in eight by chance
    shuffled = np.random.default_rng(0).permutation(labels)
    assert (shuffled[apart.argmin(axis=1)] == shuffled).mean() < 0.3


def test_a_class_that_comes_more_often_changes_no_other_style():
    few, many = (procedural.styles(n, "all", seed=7) for n in (3, 9))
    assert [style.family for style in many[:4]] == list(procedural.LOOKS["all"])
    assert all((one.corners == other.corners).all() for one, other in zip(few, many, strict=False))


def test_unknown_looks_and_shapes_are_refused():
    styles = procedural.styles(2, "cells", seed=0)
    assert procedural.draw(styles, [0], (1, 4, 4), seed=(0,)).shape == (1, 1, 4, 4)
    with pytest.raises(KitError, match="look like `patients`"):
        procedural.styles(2, "patients", seed=0)
    for shape in ((2, 8, 8), (1, 3, 8), (1, 8, 3)):
        with pytest.raises(KitError, match="1 or 3 channels"):
            procedural.draw(styles, [0], shape, seed=(0,))
