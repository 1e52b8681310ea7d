"""Walls around a check, which an ordinary process may put up around itself and never take down.

Two mechanisms of Linux, each where kernel and machine offer it; `enter` says which ones stand:

- `seccomp`: no socket, no other program or process, no signal, no look into another process.
- `landlock`: no file but the Python code and the system's libraries, and those for reading only.

What a check works on comes in as open descriptors, so it needs no path of the coordinator's home.
Not done here: another user, a name space of its own, a list of *allowed* system calls.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

SECCOMP, LANDLOCK = "seccomp", "landlock"
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/dev/null", "/dev/random", "/dev/urandom"),
)

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38  # prctl(2)
_SIGKILL = 9

# linux/audit.h, and per architecture the number of each call (asm/unistd.h)
_ARCHITECTURES = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}
_NONE = -1
_DENIED = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "io_uring_setup": (425, 425),
    "fork": (57, _NONE),
    "vfork": (58, _NONE),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "setns": (308, 268),
    "unshare": (272, 97),
    "mount": (165, 40),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
_CLONE, _CLONE3, _PRLIMIT = (56, 220), 435, (302, 261)
_CLONE_THREAD = 0x10000
_X32 = 0x40000000  # numbers from here on are another way into the same kernel

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/filter.h
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # linux/seccomp.h
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16  # struct seccomp_data
_SET_MODE_FILTER, _ALL_THREADS = 1, 1

_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0  # linux/landlock.h
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


def enter(readable: Iterable[str] = ()) -> list[str]:
    """Put up what walls there are around this process; returns their names.

    Call it before the first byte of a stranger is read, and before any thread is started.
    `readable` are folders besides the system's that stay readable.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return []
    walls = []
    if _restrict_files([*_SYSTEM, sys.base_prefix, sys.prefix, *readable]):
        walls.append(LANDLOCK)
    if _restrict_calls():
        walls.append(SECCOMP)
    return walls


def _restrict_files(readable: Iterable[str]) -> bool:
    version = _libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    handled = _FILE_RIGHTS[max(known for known in _FILE_RIGHTS if known <= version)]
    attributes = struct.pack("=Q", handled)
    rules = _libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return False
    for name in dict.fromkeys(readable):
        _allow_reading(rules, Path(name))
    done: int = _libc.syscall(_RESTRICT_SELF, rules, 0)
    os.close(rules)
    return done == 0


def _allow_reading(rules: int, path: Path) -> None:
    if not path.exists():
        return
    rights = _READ_FILE | _EXECUTE | (_READ_DIR if path.is_dir() else 0)
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, descriptor)
    _libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)
    os.close(descriptor)


def _restrict_calls() -> bool:
    known = _ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    architecture, column, seccomp = known
    program = _filter(architecture, column)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count, padding to the size of a pointer, and the pointer
    program_header = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    done: int = _libc.syscall(seccomp, _SET_MODE_FILTER, _ALL_THREADS, program_header)
    return done == 0


def _filter(architecture: int, column: int) -> list[tuple[int, int, int, int]]:
    """Return the program (code, jump if true, jump if false, constant), run at every call."""
    deny = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    program = [
        (_LOAD, 0, 0, _AT_ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        deny,
    ]
    for numbers in _DENIED.values():
        if numbers[column] != _NONE:
            program += [(_EQUAL, 0, 1, numbers[column]), deny]
    # The C library falls back to `clone`, whose flags a filter can read.
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program += [  # threads, and no processes
        (_EQUAL, 0, 3, _CLONE[column]),
        (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        deny,
        (_LOAD, 0, 0, _AT_NUMBER),
    ]
    program += [  # its own limits, and nobody else's
        (_EQUAL, 0, 3, _PRLIMIT[column]),
        (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
        (_EQUAL, 1, 0, 0),
        deny,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return program
