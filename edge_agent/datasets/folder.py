"""A folder of class folders, and the optional map from files to patients.

Invariants:

- Nothing outside the folder is read: links to folders are not entered, links to files must end
  inside.
- Only regular files are opened; hidden files are passed over.
- The order is that of the names, so the same folder gives the same cohort.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_agent.datasets.decode import SUFFIXES
from edge_agent.datasets.report import Refusal
from kit.canonical import printable
from kit.errors import KitError
from kit.files import read_limited

PATIENTS = "patients.csv"
PATIENTS_HEADER = ["file", "patient"]
MAX_PATIENTS_BYTES = 64 << 20  # a million rows
MAX_PATIENT_CHARACTERS = 128

_LAYOUT_HINT = "put the images of each class into a folder named by its label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What lies in a data folder.

    Attributes:
        root: the folder, resolved.
        classes: class folder -> its image files, relative POSIX paths in name order.
        loose: image files beside the class folders, relative.
        refused: what was not taken, with the reason.
    """

    root: Path
    classes: Mapping[str, tuple[str, ...]]
    loose: tuple[str, ...]
    refused: tuple[Refusal, ...]

    def names(self) -> set[str]:
        """Return every file seen, taken or not."""
        files = {file for files in self.classes.values() for file in files}
        return files | set(self.loose) | {r.file for r in self.refused}


def list_folder(path: Path) -> Listing:
    """List a data folder without opening an image.

    Raises:
        KitError: `path` is missing, is no folder, cannot be read, or is empty.
    """
    root = _root(path)
    classes: dict[str, tuple[str, ...]] = {}
    refused: list[Refusal] = []
    loose: list[str] = []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith(".") or entry.name == PATIENTS:
            continue
        if entry.is_dir() and not entry.is_symlink():
            found = list(_walk(root, entry))
            classes[entry.name] = tuple(f for f in found if isinstance(f, str))
            refused += [f for f in found if isinstance(f, Refusal)]
            continue
        file = _check(root, entry)
        if isinstance(file, Refusal):
            refused.append(file)
        else:
            loose.append(file)
    if not (classes or refused or loose):
        raise KitError(f"data folder `{path}` is empty", hint=_LAYOUT_HINT)
    return Listing(root=root, classes=classes, loose=tuple(loose), refused=tuple(refused))


def class_folders(path: Path) -> Listing:
    """List a folder that must hold class folders; files beside them are refused.

    Raises:
        KitError: as `list_folder`, or there are no class folders.
    """
    listing = list_folder(path)
    if not listing.classes:
        raise KitError(f"data folder `{path}` has no class folders", hint=_LAYOUT_HINT)
    if not any(listing.classes.values()):
        raise KitError(
            f"the class folders of `{path}` hold no PNG, JPEG or TIFF image", hint=_LAYOUT_HINT
        )
    beside = tuple(Refusal(file=f, reason="lies outside the class folders") for f in listing.loose)
    return Listing(
        root=listing.root, classes=listing.classes, loose=(), refused=listing.refused + beside
    )


def _root(path: Path) -> Path:
    if not path.exists():
        raise KitError(f"data `{path}` does not exist", hint="check the path given to --data")
    try:
        root = path.resolve()
        next(root.iterdir(), None)
    except OSError as error:
        raise KitError(f"data `{path}` cannot be read: {error.strerror}") from error
    return root


def _walk(root: Path, folder: Path) -> Iterator[str | Refusal]:
    unlisted: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=unlisted.append, followlinks=False):
        folders.sort()
        for name in folders:
            if (link := Path(place, name)).is_symlink():
                yield _refuse(root, link, "is a link to a folder, which is not followed")
        for name in sorted(names):
            if not name.startswith("."):
                yield _check(root, Path(place, name))
    for error in unlisted:
        yield _refuse(root, Path(error.filename), f"cannot be listed: {error.strerror}")


def _check(root: Path, path: Path) -> str | Refusal:
    if not _stays_inside(root, path):
        return _refuse(root, path, "is a link that leaves the data folder")
    if path.suffix.lower() not in SUFFIXES:
        return _refuse(root, path, "is not named as a PNG, JPEG or TIFF image")
    try:
        is_file = path.is_file()
    except OSError:
        return _refuse(root, path, "cannot be looked at")
    if not is_file:
        return _refuse(root, path, "is not a regular file")
    return path.relative_to(root).as_posix()


def _stays_inside(root: Path, path: Path) -> bool:
    # `Path.resolve` raises on a loop of links before Python 3.13; this never does.
    return Path(os.path.realpath(path)).is_relative_to(root)


def _refuse(root: Path, path: Path, reason: str) -> Refusal:
    return Refusal(file=path.relative_to(root).as_posix(), reason=reason)


def read_patients(listing: Listing) -> dict[str, str] | None:
    """Return file -> patient from `patients.csv`, or None where there is none.

    Raises:
        KitError: the map is malformed, names a file twice, or names one that is not there.
    """
    path = listing.root / PATIENTS
    if not path.exists() and not path.is_symlink():
        return None
    if not _stays_inside(listing.root, path):
        raise KitError(f"`{PATIENTS}` is a link that leaves the data folder")
    rows = _rows(read_limited(path, limit=MAX_PATIENTS_BYTES, what="patient map"))
    patients: dict[str, str] = {}
    for line, row in rows:
        file, patient = _row(line, row)
        if file in patients:
            raise KitError(f"`{PATIENTS}` line {line} names `{printable(file)}` a second time")
        patients[file] = patient
    seen = listing.names()
    for file in patients:
        if file not in seen:
            raise KitError(
                f"`{PATIENTS}` names `{printable(file)}`, which is not in the data folder",
                hint="paths are relative to the data folder, such as `class/image.png`",
            )
    return patients


def _rows(data: bytes) -> list[tuple[int, list[str]]]:
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise KitError(f"`{PATIENTS}` is not CSV text in UTF-8") from error
    if not rows or [cell.strip() for cell in rows[0][1]] != PATIENTS_HEADER:
        raise KitError(f"`{PATIENTS}` must start with the header `file,patient`")
    return rows[1:]


def _row(line: int, row: list[str]) -> tuple[str, str]:
    if len(row) != len(PATIENTS_HEADER):
        raise KitError(f"`{PATIENTS}` line {line} does not have two columns")
    path, patient = PurePosixPath(row[0].strip()), row[1].strip()
    if path.is_absolute() or ".." in path.parts:
        raise KitError(f"`{PATIENTS}` line {line}: the path leaves the data folder")
    if not 0 < len(patient) <= MAX_PATIENT_CHARACTERS:
        raise KitError(
            f"`{PATIENTS}` line {line}: the patient has no id of 1 to {MAX_PATIENT_CHARACTERS} "
            "characters"
        )
    return path.as_posix(), patient
