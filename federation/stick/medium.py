r"""Stick files on a medium: written whole or not at all, read as a stranger's.

    hospital-edge-kit/stick/v1 <length of envelope>\n <envelope> <part> <part> ...

Invariants:

- A file is opened once, without following a link, and must be a plain file.
- Its length is exactly what its index says, before any part is read.
- A part is used only after its digest was checked on the very bytes that are used; a large one goes
  through a check of its whole length first, and its receiver checks what it got again.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from federation import dsse
from federation.stick import index as rules
from federation.stick.index import Index, Part
from kit import canonical
from kit.errors import FormatError, KitError
from kit.files import medium_errors, open_foreign, replacing, sha256_file

MAGIC = b"hospital-edge-kit/stick/v1 "
CHUNK_BYTES = 512 << 10
_HEAD = re.compile(MAGIC + rb"([1-9][0-9]{0,5})\n")
_MAX_HEAD_BYTES = len(MAGIC) + 7

Content = bytes | Path  # a part in memory, or the file that holds it


@dataclass(frozen=True, slots=True)
class Stick:
    """An open stick file; its index is parsed, nothing in it is trusted before it is verified."""

    index: Index
    envelope: bytes
    _stream: io.FileIO
    _start: int

    def has(self, name: str) -> bool:
        """Whether there is such a part."""
        return self.index.part(name) is not None

    def read(self, name: str) -> bytes:
        """Return a whole part, checked.

        Raises:
            FormatError: there is none, or it is not what the index says.
        """
        return b"".join(self.chunks(self._part(name), checked=True))

    def check(self, name: str) -> None:
        """Read a large part through and check its digest, before anything is made of it.

        Raises:
            FormatError: it is not what the index says.
        """
        for _ in self.chunks(self._part(name), checked=True):
            pass

    def stream(self, name: str, offset: int) -> Iterator[bytes]:
        """Yield a part's bytes from `offset` on; whoever takes them checks what it got.

        Raises:
            FormatError: there is no such part, or the file is cut off.
        """
        return self.chunks(self._part(name), offset)

    def chunks(self, part: Part, offset: int = 0, *, checked: bool = False) -> Iterator[bytes]:
        """Yield a part's bytes from `offset` on; `checked` raises at the end if they are not its.

        Raises:
            FormatError: the file is cut off, or (checked) the digest is another one.
        """
        state = hashlib.sha256()
        left = part.length - offset
        place = self._start + self.index.offset(part) + offset
        while left > 0:
            with medium_errors():
                self._stream.seek(place)
                data = self._stream.read(min(CHUNK_BYTES, left))
            if not data:
                raise FormatError("the file changed while it was read", hint=_COPY_AGAIN)
            state.update(data)
            left, place = left - len(data), place + len(data)
            yield data
        if checked and state.hexdigest() != part.sha256:
            raise FormatError(f"part `{part.name}` is damaged", hint=_COPY_AGAIN)

    def _part(self, name: str) -> Part:
        part = self.index.part(name)
        if part is None:
            raise FormatError(f"the file has no part `{name}`")
        return part


_COPY_AGAIN = "copy it again from where it was written; nothing was taken from it"


@contextmanager
def opened(path: Path) -> Iterator[Stick]:
    """Open a stick file for the length of a block.

    Raises:
        KitError: it is no plain file, no stick file, damaged or cut off.
    """
    with open_foreign(path, what="stick file") as (stream, size):
        with medium_errors():
            head = stream.read(_MAX_HEAD_BYTES)
        match = _HEAD.match(head)
        if match is None:
            raise FormatError(
                f"`{path}` is not a stick file of this version", hint="is it the right file?"
            )
        length = int(match[1])
        if length > rules.MAX_ENVELOPE_BYTES:
            raise FormatError("the index is over its size limit")
        with medium_errors():
            stream.seek(match.end())
            envelope = stream.read(length)
        start = match.end() + length
        if size < start:
            raise FormatError(f"`{path}` is cut off", hint=_COPY_AGAIN)
        index = Index.from_bytes(
            dsse.parse(envelope, rules.PAYLOAD_TYPE, limit=rules.MAX_ENVELOPE_BYTES).payload
        )
        expected = start + index.length
        if size != expected:
            what = "is cut off" if size < expected else "has bytes after its end"
            raise FormatError(f"`{path}` {what}: {size} bytes, not {expected}", hint=_COPY_AGAIN)
        yield Stick(index, envelope, stream, start)


def describe(contents: Mapping[str, Content]) -> tuple[Part, ...]:
    """Return the parts of an index for these contents."""
    return tuple(_describe(name, content) for name, content in contents.items())


def _describe(name: str, content: Content) -> Part:
    if isinstance(content, bytes):
        return Part(name=name, length=len(content), sha256=canonical.digest(content))
    return Part(name=name, length=content.stat().st_size, sha256=sha256_file(content))


def save(
    path: Path, index: Index, contents: Mapping[str, Content], *, sign: Callable[[bytes], bytes]
) -> int:
    """Write a stick file and return its length; `sign` makes the envelope of the index.

    An earlier stick file of this name is replaced; anything else is left alone.

    Raises:
        KitError: the name or the size fits no stick, the medium is full, or holds something else.
    """
    rules.check_file_name(path.name)
    envelope = sign(index.to_bytes())
    head = MAGIC + str(len(envelope)).encode() + b"\n" + envelope
    total = len(head) + index.length
    if total > rules.MAX_FILE_BYTES:
        raise KitError(
            f"{total} bytes are more than a file on a FAT32 stick can have",
            hint="export fewer studies at once with --study",
        )
    _check_replaceable(path)
    with replacing(path, mode=0o644, keeps_modes=False) as part, part.open("wb") as stream:
        stream.write(head)
        for entry in index.parts:
            _copy(contents[entry.name], entry, stream)
    return total


def _copy(content: Content, part: Part, target: BinaryIO) -> None:
    if isinstance(content, bytes):
        target.write(content)
        return
    state, length = hashlib.sha256(), 0
    with content.open("rb") as source:
        while data := source.read(CHUNK_BYTES):
            state.update(data)
            length += len(data)
            target.write(data)
    if (length, state.hexdigest()) != (part.length, part.sha256):
        raise KitError(f"`{content}` changed while it was written", hint="run the command again")


def _check_replaceable(path: Path) -> None:
    if not path.is_symlink() and not path.exists():
        return
    with open_foreign(path, what="file") as (stream, _size):
        if stream.read(len(MAGIC)) != MAGIC:
            raise KitError(
                f"`{path}` holds something else than a stick file", hint="choose another name"
            )
