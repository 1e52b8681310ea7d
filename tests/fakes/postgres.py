"""A PostgreSQL server of the tests' own, in a folder of its own, reached by a unix socket."""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.fakes.terminal import wait_for

_PR_SET_PDEATHSIG = 1
_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "16MB",
    "fsync": "off",  # the machine does not fail in these tests
    "full_page_writes": "off",
    "autovacuum": "off",
}
_number = count(1)


def programs():
    """Return the folder of PostgreSQL's programs, or skip."""
    pytest.importorskip("psycopg", reason="the extra `postgresql` is not installed")
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(p for pattern in _FOLDERS for p in Path("/").glob(pattern[1:]))
    if not folders:
        pytest.skip("PostgreSQL is not installed")
    return folders[-1]


class Server:
    """One running server; its databases come and go."""

    def __init__(self, folder, user, bin_folder):
        self.folder, self.user, self.programs = folder, user, bin_folder

    def url(self, name):
        return f"postgresql://{self.user}@/{name}?host={self.folder}"

    @contextmanager
    def connect(self, name="postgres"):
        """Yield a connection whose statements commit one by one."""
        import psycopg

        with psycopg.connect(
            host=str(self.folder), user=self.user, dbname=name, autocommit=True
        ) as connection:
            yield connection

    def answers(self):
        import psycopg

        try:
            with self.connect():
                return True
        except psycopg.OperationalError:
            return False

    def create(self, template="template0"):
        """Make a database, empty or a copy; returns its name."""
        name = f"state_{os.getpid()}_{next(_number)}"
        with self.connect() as server:
            server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def live_files(self, name):
        """Return the bytes of every file of one database; the write-ahead log is none of them."""
        return [path.read_bytes() for path in self._folder_of(name).iterdir()]

    def table_files(self, name):
        """Return the bytes of its own tables and indexes; the catalogs are none of them."""
        with self.connect(name) as database:
            query = "SELECT pg_relation_filenode(oid) FROM pg_class WHERE oid >= 16384"
            nodes = [str(node) for (node,) in database.execute(query) if node]
        folder = self._folder_of(name)
        return [path.read_bytes() for node in nodes for path in folder.glob(f"{node}*")]

    def _folder_of(self, name):
        with self.connect(name) as database:
            database.execute("CHECKPOINT")
            query = "SELECT oid FROM pg_database WHERE datname = %s"
            [(oid,)] = database.execute(query, (name,)).fetchall()
        return self.folder / "data" / "base" / str(oid)

    def dump(self, name, path):
        """Write what `pg_dump` says of a database, as its operator does."""
        self._run("pg_dump", "--format=custom", f"--file={path}", name)

    def load(self, path):
        """Return the name of a new database with what was dumped."""
        name = self.create()
        self._run("pg_restore", "--exit-on-error", f"--dbname={name}", path)
        return name

    def _run(self, program, *words):
        login = [f"--host={self.folder}", f"--username={self.user}"]
        subprocess.run([self.programs / program, *login, *words], check=True, capture_output=True)

    def drop(self, name):
        with self.connect() as server:
            server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def running():
    """Run a server while the block does; not as root, which PostgreSQL refuses."""
    bin_folder = programs()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path is short
    as_user = {}
    user = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres" if _has_account("postgres") else "nobody")
        user = account.pw_name
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data, log = folder / "data", folder / "log"

    options = {
        "cwd": folder,
        "env": {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C"},
        **as_user,
    }
    new = ["-D", data, "-U", user, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in _SETTINGS.items()]
    words = [bin_folder / "postgres", "-D", data, "-k", folder, *settings]
    try:
        subprocess.run([bin_folder / "initdb", *new], check=True, capture_output=True, **options)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                words,
                stdout=stream,
                stderr=stream,
                preexec_fn=_die_with_the_tests,  # noqa: PLW1509 - one call, no lock
                **options,
            )
        try:
            server = Server(folder, user, bin_folder)
            wait_for(server.answers, process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown
            process.wait(timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _die_with_the_tests():
    """Have the kernel end the server (an immediate shutdown) if its tests are killed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)


def _has_account(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
