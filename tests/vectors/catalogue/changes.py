"""The few moves that the catalogue is written in."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.fakes.forge import Case, Change, Forge
from tests.vectors.hostile import Vector

Make = Callable[[Forge], Case]


def setting(path: str, value: Any) -> Change:
    """Return a change that puts `value` at a dotted path of the statement."""

    def change(table: dict[str, Any]) -> None:
        place, last = _at(table, path)
        place[last] = value

    return change


def dropping(path: str) -> Change:
    """Return a change that deletes what stands at a dotted path."""

    def change(table: dict[str, Any]) -> None:
        place, last = _at(table, path)
        del place[last]

    return change


def both(*changes: Change) -> Change:
    """Return one change that makes several."""

    def change(table: dict[str, Any]) -> None:
        for one in changes:
            one(table)

    return change


def _at(table: Any, path: str) -> tuple[Any, Any]:
    *folders, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    for name in folders:
        table = table[name]
    return table, last


def signed(step: int, faults: dict[str, Change], *, peers: dict[str, str]) -> list[Vector]:
    """Return vectors of statements that their own site signed again after one change."""
    return [
        Vector(
            step=step,
            fault=fault,
            family="signed again",
            make=lambda forge, change=change: forge.signed(change),
            peer=peers.get(fault, ""),
        )
        for fault, change in faults.items()
    ]


def byte_faults(
    step: int, part: str, faults: dict[str, Callable[[bytes], bytes]], *, peers: dict[str, str]
) -> list[Vector]:
    """Return vectors whose one part has other bytes, without a new signature."""
    return [
        Vector(
            step=step,
            fault=fault,
            family="altered bytes",
            make=lambda forge, alter=alter: replace(
                forge.honest, **{part: alter(getattr(forge.honest, part))}
            ),
            peer=peers.get(fault, ""),
        )
        for fault, alter in faults.items()
    ]
