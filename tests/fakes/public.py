"""A base in a second: a few steps on procedural images, and everything else as it is."""

from coordinator import bases
from federation.learning.generator.procedural import VERSION
from tests.fakes import site


def make(coordinator, out, *, seed=0, steps=2, looks="all", study=site.STUDY):
    """Write a base's file; returns what `coordinator base make` reports."""
    recipe = {"version": VERSION, "looks": looks, "seed": seed, "steps": steps}
    return bases.make(
        coordinator, study, out, preset="", recipe=recipe, report=lambda _done, _total: None
    )


def publish(coordinator, folder, **recipe):
    """Make a base and publish it; returns its digest."""
    out = folder / "public.base"
    make(coordinator, out, **recipe)
    return bases.publish(coordinator, out).base
