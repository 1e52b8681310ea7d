import shutil

import pytest

from kit.errors import DiskFullError
from kit.files import write_atomic
from kit.reserve import Reserve
from tests.fakes.disks import fill, small_disk

MEBI = 1 << 20


def test_a_reserve_holds_blocks_gives_them_up_in_need_and_takes_them_back(tmp_path):
    with small_disk(tmp_path, "8m"):
        reserve = Reserve(tmp_path / "reserve", 2 * MEBI)
        assert reserve.held_bytes == 0
        assert reserve.hold()
        assert reserve.is_whole
        free = shutil.disk_usage(tmp_path).free
        assert free <= 6 * MEBI  # allocated, not promised
        with reserve.drawn_on():
            assert reserve.is_whole  # nobody is in need
        filler = fill(tmp_path)
        with pytest.raises(DiskFullError):
            write_atomic(tmp_path / "x", bytes(100_000))
        with reserve.drawn_on():
            write_atomic(tmp_path / "x", bytes(100_000))
        assert MEBI < reserve.held_bytes < 2 * MEBI  # what was not needed is held again
        with pytest.raises(DiskFullError):
            write_atomic(tmp_path / "y", bytes(100_000))
        with reserve.drawn_on():
            write_atomic(tmp_path / "y", bytes(100_000))
        assert not reserve.hold()  # still no room: it must not take what was just given
        filler.unlink()
        assert reserve.hold()


def test_what_would_eat_the_reserve_finds_no_room(tmp_path):
    with small_disk(tmp_path, "8m"):
        reserve = Reserve(tmp_path / "reserve", 2 * MEBI)
        assert reserve.hold()
        assert reserve.has_room(4 * MEBI)
        assert not reserve.has_room(6 * MEBI)
        reserve.give_up()
        assert not reserve.has_room(6 * MEBI)  # the space is there, and spoken for
