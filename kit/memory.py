"""What a long-running process asks of the C library's allocator."""

import ctypes

_M_ARENA_MAX = -8  # malloc.h of glibc


def one_arena() -> bool:
    """Keep what is freed in one place, whichever thread frees it; says whether that was possible.

    glibc gives threads arenas of their own, and none of them gives another's free memory back: a
    server of forty threads held as much free memory as it used. Python's own lock leaves little
    for more arenas to gain. Call it before threads start. Other C libraries have nothing to set.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_ARENA_MAX, 1))
