"""A spool: images come back as they went in, and nothing of them can be read on the disk."""

import os

import numpy as np
import pytest

from coordinator.spool import Spool
from kit.errors import KitError


def shards():
    draws = np.random.default_rng(0)
    return [draws.integers(0, 256, (5, 3, 8, 9), dtype=np.uint8) for _ in range(3)]


def test_images_come_back_by_index_in_any_order(tmp_path):
    images = shards()
    with Spool(tmp_path / "builds") as spool:
        stored = [spool.add(each) for each in images]
        for index in ([4, 0, 0, 2], [3]):
            for mine, kept in zip(images, stored, strict=True):
                assert kept.shape == mine.shape
                assert np.array_equal(kept[np.array(index)], mine[index])


def test_the_file_has_no_name_and_holds_no_pixel(tmp_path):
    images = np.full((4, 1, 16, 16), 7, dtype=np.uint8)
    with Spool(tmp_path / "builds") as spool:
        spool.add(images)
        assert list((tmp_path / "builds").iterdir()) == []
        data = os.pread(spool._file.fileno(), 1 << 20, 0)
        assert len(data) == 4 * (256 + 16)
        assert bytes([7] * 8) not in data
        assert images[0].tobytes() in images.tobytes()  # the control: so it would look in the clear
        two = Spool(tmp_path / "builds")
        two.add(images)
        assert os.pread(two._file.fileno(), 1 << 20, 0) != data
        two.__exit__()


def test_an_image_that_was_altered_or_moved_is_refused(tmp_path):
    images = shards()[0]
    with Spool(tmp_path / "builds") as spool:
        stored = spool.add(images)
        size = images[0].size + 16
        descriptor = spool._file.fileno()
        first, second = (os.pread(descriptor, size, at * size) for at in (0, 1))
        os.pwrite(descriptor, second, 0)
        with pytest.raises(KitError, match="altered"):
            stored[np.array([0])]
        os.pwrite(descriptor, first, 0)
        assert np.array_equal(stored[np.array([0])], images[:1])
