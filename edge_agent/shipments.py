"""Which run each sealed blueprint was made of: what an erasure has to find, years later."""

from dataclasses import dataclass

from edge_agent import runs
from edge_agent.home import Home
from federation.blueprint.statement import Statement
from kit import canonical
from kit.files import write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """One blueprint that was sealed here, the run behind it, and the run's id in the ledger."""

    blueprint: str
    run: str
    run_id: str
    study: str


def record(home: Home, run: str, statement: Statement) -> None:
    """Note what a blueprint was made of."""
    path = home.run(run) / runs.RUN
    run_id = str(runs.read_json(path)["id"]) if path.is_file() else _earlier(home, run)
    table = {"run": run, "run_id": run_id, "study": statement.context.study_digest}
    file = home.path / "state" / "sent" / f"{statement.digest}.json"
    write_atomic(file, canonical.encode(table), mode=0o600)


def known(home: Home) -> tuple[Shipment, ...]:
    """Return every blueprint that was sealed here, by digest.

    Raises:
        FormatError: a file is damaged.
    """
    folder = home.path / "state" / "sent"
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        table = canonical.decode(home.read(path, "record of a blueprint"))
        canonical.fields(table, {"run", "run_id", "study"}, what="record of a blueprint")
        found.append(Shipment(blueprint=canonical.sha256_hex(path.stem), **table))
    return tuple(found)


def _earlier(home: Home, run: str) -> str:
    """Return the id under which a run was sent before its folder went."""
    return next((s.run_id for s in known(home) if s.run == run), "")
