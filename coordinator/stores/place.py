"""Which places a configuration may name: a closed list, no secrets, no open line."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from kit.errors import KitError

_FORM = "write `s3://BUCKET/FOLDER` or `file:///FOLDER`"
_SECRET = "credentials are read where the AWS tools keep them: `~/.aws/credentials`, or a role"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder that is not the home."""

    path: Path


@dataclass(frozen=True, slots=True)
class Bucket:
    """A folder of a bucket of an S3-compatible object store."""

    bucket: str
    folder: str
    endpoint: str  # empty: that of AWS


def parse(url: str, endpoint: str) -> Disk | Bucket | None:
    """Return the place that a configuration names; None is the home.

    Raises:
        KitError: it is no URL of a kind that is known here, or would leak.
    """
    if not url:
        return None
    parts = _split(url, what="store's URL")
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return Disk(Path(parts.path))
    if parts.scheme != "s3" or not parts.netloc:
        raise KitError("the store's URL names no place that is known here", hint=_FORM)
    if endpoint:
        _check_endpoint(endpoint)
    return Bucket(parts.netloc, parts.path.strip("/"), endpoint)


def _split(url: str, *, what: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise KitError(f"the {what} cannot be read", hint=_FORM) from error
    if parts.username is not None or parts.password is not None:
        raise KitError(f"the {what} holds credentials", hint=_SECRET)
    if parts.query or parts.fragment:
        raise KitError(f"the {what} has more than a path", hint=_FORM)
    return parts


def _check_endpoint(endpoint: str) -> None:
    parts = _split(endpoint, what="store's endpoint")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise KitError("the store's endpoint is no URL", hint="write `https://HOST`")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise KitError(
            f"the store's endpoint `{parts.hostname}` would be reached without TLS",
            hint="write `https://HOST`; `http` is for loopback addresses",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
