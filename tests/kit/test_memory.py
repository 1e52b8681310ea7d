import platform
import subprocess
import sys

import pytest

# Every thread has something in hand at the same time; then glibc tells how many arenas it made.
_THREADS = """
import ctypes, sys, threading
from kit import memory

if sys.argv[1] == "one":
    assert memory.one_arena()
together = threading.Barrier(8)

def hold():
    together.wait()
    held = [bytearray(4096) for _ in range(100)]
    together.wait()
    return held

threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.fclose.argtypes = [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
stream = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, stream)
libc.fclose(stream)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_one_arena_holds_for_every_thread(tmp_path):
    def arenas(how):
        told = tmp_path / how
        subprocess.run([sys.executable, "-c", _THREADS, how, str(told)], check=True, timeout=60)
        return told.read_text().count("<heap nr=")

    assert arenas("many") > 1
    assert arenas("one") == 1
