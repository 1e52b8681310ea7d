"""Durable behind the writer's back: what `settle` promises holds, and no refusal gets lost."""

import errno
import os
import threading

import pytest

from kit import flushing
from kit.flushing import MAX_BEHIND, STRETCH_BYTES, Flusher, flushed


class Disk:
    """Stands for `os.fdatasync`: counts, waits when told to, refuses when told to."""

    def __init__(self, monkeypatch):
        self.calls, self.free, self.refuses = 0, threading.Event(), False
        self.free.set()
        monkeypatch.setattr(flushing.os, "fdatasync", self)

    def __call__(self, _descriptor):
        self.calls += 1
        assert self.free.wait(20)
        if self.refuses:
            self.refuses = False  # the kernel tells an error once
            raise OSError(errno.EIO, "input/output error")


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_a_stretch_goes_to_the_disk_while_the_writer_goes_on(disk):
    disk.free.clear()
    with Flusher(-1) as flusher:
        assert not flusher.wrote(STRETCH_BYTES - 1)
        assert flusher.wrote(1)
        assert not flusher.wrote(STRETCH_BYTES)  # the disk is busy, and nobody waits for it
        disk.free.set()
        flusher.settle()
    assert disk.calls == 2


def test_a_writer_far_ahead_waits_for_the_disk(disk):
    disk.free.clear()
    with Flusher(-1) as flusher:
        assert flusher.wrote(STRETCH_BYTES)
        later = threading.Timer(0.2, disk.free.set)
        later.start()
        assert flusher.wrote(MAX_BEHIND * STRETCH_BYTES)
        assert disk.free.is_set()
        later.join()


@pytest.mark.parametrize("how", ["settle", "wrote"])
def test_what_the_disk_refused_behind_the_back_is_told_once_asked(disk, how):
    with Flusher(-1) as flusher:
        flusher.wrote(STRETCH_BYTES)
        flusher.settle()
        disk.refuses = True
        assert flusher.wrote(STRETCH_BYTES)
        with pytest.raises(OSError, match="input/output") as refusal:
            flusher.settle() if how == "settle" else flusher.wrote(MAX_BEHIND * STRETCH_BYTES)
        assert refusal.value.errno == errno.EIO


def test_flushed_writes_every_byte_anew(tmp_path):
    path, data = tmp_path / "file", os.urandom(3 << 20)
    path.write_bytes(b"longer than what comes now" + bytes(4 << 20))
    with flushed(path) as sink:
        assert sink.write(data) == len(data)
        assert sink.write(b"end") == 3
    assert path.read_bytes() == data + b"end"


def test_flushed_is_durable_when_its_block_ends_and_refuses_where_the_disk_does(disk, tmp_path):
    path = tmp_path / "file"
    path.touch()
    with flushed(path) as sink:
        sink.write(b"few bytes")
        assert disk.calls == 0
    assert disk.calls == 1
    disk.refuses = True
    with pytest.raises(OSError, match="input/output"), flushed(path) as sink:
        sink.write(b"few bytes")
