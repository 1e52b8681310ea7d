"""Steps 9, 12 and 17 once more: statements that name the public base a training started from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kit import canonical
from tests.fakes.federation import ARCHITECTURE
from tests.fakes.forge import Case, Forge
from tests.vectors.catalogue.changes import setting
from tests.vectors.hostile import Vector

BASE = canonical.digest(b"a base that the coordinator offers")
WIDER = canonical.digest(b"a base of another architecture")
UNKNOWN = canonical.digest(b"a base of nobody")
OFFERED = {BASE: ARCHITECTURE, WIDER: {**ARCHITECTURE, "preset": "another"}}
FIELD = "predicate.context.base"


def naming(base: str | None, offered: dict[str, Any]) -> Callable[[Forge], Case]:
    """Return what seals a blueprint that names `base` to a coordinator that offers `offered`."""

    def make(forge: Forge) -> Case:
        context = forge.world.context(forge.world.a, base=base)
        return replace(forge.seal(context=context), verifier={"bases": offered})

    return make


def swapped(before: str | None, after: str | None) -> Callable[[Forge], Case]:
    """Return what seals under one base and signs another, both of which are offered."""

    def make(forge: Forge) -> Case:
        context = forge.world.context(forge.world.a, base=before)
        sealed = forge.seal(context=context, change=setting(FIELD, after))
        return replace(sealed, verifier={"bases": OFFERED})

    return make


FAULTS: dict[tuple[int, str], Callable[[Forge], Case]] = {
    (0, "a base"): naming(BASE, OFFERED),
    (0, "no base where one is offered"): naming(None, OFFERED),
    (9, "a base of nobody"): naming(UNKNOWN, OFFERED),
    (9, "a base that is offered no more"): naming(BASE, {WIDER: OFFERED[WIDER]}),
    (9, "a base where none is offered"): naming(BASE, {}),
    (12, "a base of another architecture"): naming(WIDER, OFFERED),
    (17, "a base named after sealing"): swapped(None, BASE),
    (17, "a base hidden after sealing"): swapped(BASE, None),
}


def catalogue() -> list[Vector]:
    """Return the controls and the vectors of bases."""
    return [
        Vector(step=step, fault=fault, family="a base", make=make)
        for (step, fault), make in FAULTS.items()
    ]
