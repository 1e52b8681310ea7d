"""A store in a bucket of an S3-compatible object store, by fsspec."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

from coordinator.stores.place import Bucket
from kit.errors import KitError

SCRATCH = ".object."  # begins the name of a copy on this machine
_CONNECT_S, _READ_S, _ATTEMPTS = 10, 60, 4
_BLOCK_BYTES = 4 << 20  # read ahead


class Objects:
    """A folder of a bucket (a `Store`); an upload is whole or absent, as S3 promises."""

    def __init__(self, bucket: Bucket, name: str, *, scratch: Path) -> None:
        if find_spec("s3fs") is None:
            raise KitError(
                "the store is an object store, whose driver is not installed",
                hint="install this kit with the extra `s3`",
            )
        self._bucket = bucket
        self._root = "/".join(filter(None, (bucket.bucket, bucket.folder, name)))
        self._scratch = scratch

    def put(self, name: str, data: bytes) -> None:
        """Upload."""
        with self._errors(name):
            self._fs.pipe_file(self._key(name), data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a scratch file, uploaded at the end."""
        with self._part() as part:
            yield part
            with self._errors(name):
                self._fs.put_file(str(part), self._key(name))

    def get(self, name: str, *, limit: int, what: str) -> bytes:
        """Download, one byte more than `limit` at most."""
        with self._errors(name, what=what):
            data = cast(bytes, self._fs.cat_file(self._key(name), start=0, end=limit + 1))
        if len(data) > limit:
            raise KitError(f"{what} `{self._key(name)}` is over {limit} bytes")
        return data

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open; ranges are fetched as they are read."""
        with self._errors(name):
            stream = self._fs.open(self._key(name), "rb", block_size=_BLOCK_BYTES)
        with stream, self._errors(name):
            yield cast(BinaryIO, stream)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield a copy."""
        with self._part() as part:
            with self._errors(name):
                self._fs.get_file(self._key(name), str(part))
            yield part

    def has(self, name: str) -> bool:
        """Ask for the entry's head."""
        with self._errors(name):
            try:
                return bool(self._fs.info(self._key(name))["type"] == "file")
            except FileNotFoundError:
                return False

    def names(self) -> list[str]:
        """List the folder."""
        with self._errors(""), suppress(FileNotFoundError):
            found = self._fs.ls(self._root, detail=False)
            return sorted(path.rpartition("/")[2] for path in found if path != self._root)
        return []

    def delete(self, name: str) -> None:
        """Delete the object, or every object below."""
        with self._errors(name), suppress(FileNotFoundError):
            self._fs.rm(self._key(name), recursive=True)

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _part(self) -> Iterator[Path]:
        descriptor, name = tempfile.mkstemp(prefix=SCRATCH, dir=self._scratch)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    @cached_property
    def _fs(self) -> Any:
        import s3fs

        return s3fs.S3FileSystem(
            endpoint_url=self._bucket.endpoint or None,
            use_listings_cache=False,  # another process writes as well
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": _CONNECT_S,
                "read_timeout": _READ_S,
                "retries": {"max_attempts": _ATTEMPTS, "mode": "standard"},
                # the configuration names the endpoint, and no environment
                "ignore_configured_endpoint_urls": True,
            },
        )

    @contextmanager
    def _errors(self, name: str, *, what: str = "object") -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except FileNotFoundError as error:
            raise KitError(f"{what} `{self._key(name)}` does not exist") from error
        except (OSError, BotoCoreError, ClientError) as error:
            text = " ".join(str(error).split())
            raise KitError(
                f"the object store refused or did not answer: {text}",
                hint="check its endpoint, bucket and credentials, then run the same command again",
            ) from error
