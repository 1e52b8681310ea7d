import os
import resource
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit import canonical, files
from kit.errors import FormatError, KitError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_atomic_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "folder" / "file"
    files.write_atomic(path, b"a long first content")
    files.write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def stop_half_way(part: Path):
    part.write_bytes(b"half")
    raise ZeroDivisionError


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as part:
        stop_half_way(part)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_its_owners_alone_from_the_first_byte_on(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with files.replacing(path, mode=0o600) as part:
        assert mode(part) == 0o600
        part.write_bytes(b"secret")
    assert mode(path) == 0o600
    files.write_secret(path, b"other")
    assert mode(path) == 0o600
    files.write_atomic(path, b"public")
    assert mode(path) == 0o644


@contextmanager
def largest_file(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_size_limit_is_one_clear_line_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    with largest_file(1000):
        with pytest.raises(KitError, match="file size limit"):
            files.write_atomic(path, bytes(2000))
        files.write_atomic(tmp_path / "small", bytes(500))
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "small"]


@contextmanager
def tiny_disk(folder: Path):
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_line_and_keeps_the_old_file(tmp_path):
    with tiny_disk(tmp_path) as disk:
        path = disk / "file"
        files.write_atomic(path, b"old")
        with pytest.raises(KitError, match="no space left") as caught:
            files.write_atomic(path, bytes(1 << 20))
        assert caught.value.hint
        assert path.read_bytes() == b"old"
        assert [p.name for p in disk.iterdir()] == ["file"]


def test_a_folder_without_permission_is_one_clear_line(tmp_path):
    if os.geteuid() == 0:
        with pytest.raises(KitError, match="no permission"), files.os_errors(tmp_path):
            raise PermissionError(13, "denied")
        return
    tmp_path.chmod(0o500)
    with pytest.raises(KitError, match="no permission"):
        files.write_atomic(tmp_path / "file", b"x")


def test_other_refusals_of_the_system_pass_unchanged(tmp_path):
    with pytest.raises(IsADirectoryError), files.os_errors(tmp_path):
        raise IsADirectoryError(21, "is a directory")


def test_read_limited_reads_up_to_the_limit_and_not_beyond(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert files.read_limited(path, limit=5, what="thing") == b"12345"
    with pytest.raises(KitError, match=r"thing .* is over 4 bytes"):
        files.read_limited(path, limit=4, what="thing")
    with pytest.raises(KitError, match="does not exist"):
        files.read_limited(tmp_path / "other", limit=5, what="thing")
    with pytest.raises(KitError, match="cannot be read"):
        files.read_limited(tmp_path, limit=5, what="thing")


def test_read_limited_reads_a_pipe_whole_or_refuses_it(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"from a pipe")
    os.close(writer)
    try:
        path = Path(f"/dev/fd/{reader}")
        assert files.read_limited(path, limit=64, what="token") == b"from a pipe"
    finally:
        os.close(reader)


def test_a_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_file(path) == expected


def test_a_private_folder_is_its_owners_alone_even_if_it_was_open(tmp_path):
    folder = tmp_path / "a" / "b"
    assert files.private_folder(folder) == folder
    folder.chmod(0o755)
    files.private_folder(folder)
    assert mode(folder) == 0o700


HOLD = """
import sys
from pathlib import Path
from kit.files import exclusive
with exclusive(Path(sys.argv[1]), busy="busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_has_one_holder_and_is_free_again_after_kill_9(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(KitError, match="another one runs") as caught,
            files.exclusive(path, busy="another one runs", hint="wait"),
        ):
            pass
        assert caught.value.hint == "wait"
        holder.kill()
    with files.exclusive(path, busy="busy"):
        pass


def test_a_lock_is_released_when_its_block_fails(tmp_path):
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), files.exclusive(path, busy="busy"):
        raise ZeroDivisionError
    with files.exclusive(path, busy="busy"):
        pass


def test_a_document_that_is_another_is_named_with_what_was_expected(tmp_path):
    def read(path, limit=100):
        words = {"what": "token file", "hint": "`token` wrote it"}
        return files.read_document(path, canonical.decode, limit=limit, **words)

    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(canonical.encode({"a": 1}))
    bad.write_bytes(b"PNG")
    assert read(good) == {"a": 1}
    with pytest.raises(FormatError) as refused:
        read(bad)
    assert str(refused.value) == f"`{bad}` is no token file: bytes are not JSON"
    assert refused.value.hint == "`token` wrote it"
    for path, limit in ((tmp_path / "none", 100), (good, 1)):
        with pytest.raises(KitError, match=f"token file `{path}`") as refused:
            read(path, limit)
        assert refused.value.hint == "`token` wrote it"
    with pytest.raises(KitError, match="does not exist") as refused:
        read(tmp_path / "no" / "none")
    assert refused.value.hint.startswith(f"nor is there a folder `{tmp_path / 'no'}`")
