"""Roles, paths and lifetimes of the repository (TUF 1.0.34, docs/repository.md).

| role       | keys                         | where   | signs                                    |
|------------|------------------------------|---------|------------------------------------------|
| root       | the X.509 root's *and* study | offline | who may sign what                        |
| targets    | study                        | offline | studies, delegations                     |
| releases   | repository                   | home    | models, bases, what lies beside them     |
| recipients | repository                   | home    | the keys that sites seal to now          |
| status     | repository                   | home    | what is revoked                          |
| snapshot   | repository                   | home    | which versions belong together           |
| timestamp  | repository                   | home    | that it is so now                        |

The two keys of `root` are those that every enrolment token pins and that the log's first entry
names: the pins are the first root.
"""

from datetime import timedelta

RELEASES, RECIPIENTS, STATUS = "releases", "recipients", "status"
DELEGATED = {
    RELEASES: ["releases/*/*"],
    RECIPIENTS: ["recipients/*/*"],
    STATUS: ["status/*"],
}
TOP = ("root", "targets", "snapshot", "timestamp")
ROOT_THRESHOLD = 2
FIRST_ROOT = "1.root.json"
MAX_METADATA_BYTES = 4 << 20  # of one file: some 10,000 targets

CERTIFICATES = "status/certificates.crl"
AUTHORITIES = "status/authorities.crl"
REVOCATIONS = "status/revocations.dsse.json"

ROOT_LIFE = timedelta(days=730)
DEFAULT_TARGETS_DAYS, MAX_TARGETS_DAYS = 180, 400
ONLINE_LIFE = timedelta(days=120)  # of releases, status and snapshot: longer than any stick's
ONLINE_RENEWAL = timedelta(days=14)  # after so long they are signed again
TIMESTAMP_LIFE = timedelta(days=3)
TIMESTAMP_RENEWAL = timedelta(days=1)

# A timestamp that a stick carries lives for weeks. It says so, and counts on a stick only: nobody
# who holds one can freeze a site that has a line.
CARRIAGE, STICK = "x-carriage", "stick"


def study(digest: str) -> str:
    """Return the path of a study's signed manifest."""
    return f"studies/{digest}.dsse.json"


def release(digest: str, name: str) -> str:
    """Return the path of one file of a release, which the digest of its model names."""
    return f"releases/{digest}/{name}"


def recipient(study_digest: str, kid: str) -> str:
    """Return the path of the signed key that one site seals to; no site's name is in it."""
    return f"recipients/{study_digest}/{kid}.dsse.json"


def file_name(role: str, version: int) -> str:
    """Return the file name of a role's metadata (TUF section 6.2, consistent snapshots)."""
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


def stored_name(path: str, sha256: str) -> str:
    """Return where a target lies among plain files: its digest goes before its name."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{sha256}.{name}"
