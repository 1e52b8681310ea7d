"""Where the state lies: a file of the home, or a PostgreSQL database that a URL names."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import sqlalchemy as sa

from kit.errors import KitError

FILE = "state.sqlite"
_DRIVER = "postgresql+psycopg"
_SCHEMES = ("postgresql", _DRIVER)
_PARAMETERS = {"host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey"}
_FORM = "write `postgresql://USER@HOST/DATABASE`, or `postgresql:///DATABASE?host=/run/postgresql`"


@dataclass(frozen=True, slots=True)
class Location:
    """The state of the home `folder`; without a `url` it is SQLite in that folder."""

    folder: Path
    url: str = ""

    @property
    def is_file(self) -> bool:
        """Say whether it is SQLite in the home."""
        return not self.url

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return self.folder / FILE

    @property
    def engine_url(self) -> sa.URL:
        """What SQLAlchemy connects to.

        Raises:
            KitError: it is no PostgreSQL URL, holds a password, or would send rows unprotected.
        """
        if self.is_file:
            return sa.URL.create("sqlite", database=str(self.file))
        return _checked(self.url)


def _checked(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise KitError("the state's URL cannot be read", hint=_FORM) from error
    if url.drivername not in _SCHEMES or not url.database:
        raise KitError("the state's URL names no PostgreSQL database", hint=_FORM)
    if url.password is not None:
        raise KitError(
            "the state's URL holds a password, which every backup of the configuration would keep",
            hint="leave it out: use a peer or certificate login, or a `~/.pgpass` of mode 0600",
        )
    unknown = sorted(set(url.query) - _PARAMETERS)
    if unknown:
        raise KitError(
            f"the state's URL has a parameter that is not known here: `{unknown[0]}`",
            hint=f"known are {', '.join(sorted(_PARAMETERS))}",
        )
    _check_line(url)
    return url.set(drivername=_DRIVER)


def _check_line(url: sa.URL) -> None:
    """Want a machine that the URL names, and TLS with its name checked if it is another one."""
    hosts = [url.host] if url.host else url.normalized_query.get("host", ())
    if not hosts:
        raise KitError("the state's URL names no host", hint=_FORM)
    far = [host for host in hosts if not _is_here(host)]
    if far and url.normalized_query.get("sslmode") != ("verify-full",):
        raise KitError(
            f"the database at `{far[0]}` would be reached without a checked certificate",
            hint="add `sslmode=verify-full` (and `sslrootcert=FILE`) to the state's URL",
        )


def _is_here(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
