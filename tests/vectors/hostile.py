"""Hostile vectors: how one is named, written down and read back.

A vector is a blueprint with exactly one fault. Its name begins with the step of
`docs/blueprint-format.md` section 5 that must refuse it; a vector of step 0 opens, and is the
control of its family: made in the same way, without a fault.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.study import Study
from kit import canonical
from pki import certificates
from tests.fakes.forge import Case, Forge, Verifier

FOLDER = Path(__file__).parent / "hostile"
FOLDERS = (
    FOLDER,
    *(FOLDER.with_name(f"hostile-{n}") for n in (2, 3, 4)),
)  # a set has keys of its own and never changes
SHARED = "federation.json"
_PARTS = ("envelope", "wrapped_key", "ciphertext")
_RUN = re.compile(rb"(.{1,4}?)\1{1000,}", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One entry of the catalogue; `peer` names what another platform accepted."""

    step: int
    fault: str
    family: str
    make: Callable[[Forge], Case]
    peer: str = ""

    @property
    def name(self) -> str:
        """The step, and the fault in file-name form."""
        return f"{self.step:02d}-" + re.sub("[^a-z0-9]+", "-", self.fault.lower()).strip("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A vector as it stands in its file."""

    step: int
    fault: str
    family: str
    peer: str
    case: Case


def committed() -> dict[str, list[Path]]:
    """Return where each vector of the committed sets lies; a control may be in several."""
    found: dict[str, list[Path]] = {}
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.json")):
            if path.name != SHARED:
                found.setdefault(path.stem, []).append(path)
    return found


def write(folder: Path, forge: Forge, catalogue: list[Vector]) -> None:
    """Write every vector and what they share into an empty folder."""
    folder.mkdir()
    known = forge.verifier
    shared = {
        "root": canonical.b64encode(known.root),
        "seed": known.seed.hex(),
        "channel": known.channel,
        "recipient": known.recipient,
        "studies": {name: study.to_bytes().decode() for name, study in known.studies.items()},
        **_table(forge.honest),
    }
    _save(folder / SHARED, shared)
    for vector in catalogue:
        case = vector.make(forge)
        about = {"step": vector.step, "fault": vector.fault, "family": vector.family}
        if vector.peer:
            about["peer"] = vector.peer
        parts = {k: v for k, v in _table(case).items() if v != shared.get(k, {})}
        _save(folder / f"{vector.name}.json", about | parts)


def read_shared(folder: Path) -> tuple[Verifier, dict[str, Any]]:
    """Return the coordinator of a set, and the honest parts that its vectors leave out."""
    table = json.loads((folder / SHARED).read_text())
    verifier = Verifier(
        root=canonical.b64decode(table["root"]),
        seed=bytes.fromhex(table["seed"]),
        channel=table["channel"],
        recipient=table["recipient"],
        studies={n: Study.from_bytes(text.encode()) for n, text in table["studies"].items()},
    )
    return verifier, table


def read(path: Path, shared: dict[str, Any]) -> Written:
    """Return one vector of a set."""
    table = json.loads(path.read_text())
    whole = shared | table
    case = Case(
        **{part: _unpacked(whole[part]) for part in _PARTS},
        chain=certificates.from_pem(whole["chain"].encode()) if whole["chain"] else (),
        verifier=table.get("verifier", {}),
    )
    about = {name: table[name] for name in ("step", "fault", "family")}
    return Written(**about, peer=table.get("peer", ""), case=case)


def _table(case: Case) -> dict[str, Any]:
    parts = {part: _packed(getattr(case, part)) for part in _PARTS}
    return parts | {"chain": certificates.pem(*case.chain).decode(), "verifier": case.verifier}


def _packed(data: bytes) -> Any:
    """Text as it is, other bytes in base64, and a long repetition as [unit, times]."""
    run = _RUN.search(data)
    if run:
        times = len(run[0]) // len(run[1])
        rest = data[run.end() :]
        return [_packed(data[: run.start()]), [_packed(run[1]), times], _packed(rest)]
    if data.isascii() and all(32 <= byte < 127 for byte in data):
        return {"text": data.decode()}
    return {"base64": canonical.b64encode(data)}


def _unpacked(value: Any) -> bytes:
    if isinstance(value, list):
        before, (unit, times), after = value
        return _unpacked(before) + _unpacked(unit) * times + _unpacked(after)
    if "text" in value:
        text: str = value["text"]
        return text.encode()
    return canonical.b64decode(value["base64"])


def _save(path: Path, table: dict[str, Any]) -> None:
    with path.open("x") as stream:
        json.dump(table, stream, indent=1)
        stream.write("\n")
