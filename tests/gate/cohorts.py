"""Handwritten digits as a site's cohort, and questions to the gate about samples alone."""

from functools import cache

import numpy as np
from sklearn.datasets import load_digits

from edge_agent.datasets.examples import Cohort
from edge_agent.gate.examination import Claim, Subjects, judge
from edge_agent.gate.verdict import GateReport
from federation.study import Unit

NO_CLAIM = Claim(epsilon=None, delta=0.0)


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    return (found.images / 8 - 1).astype(np.float32)[:, None], found.target.astype(np.int64)


def make_cohort(images: np.ndarray, labels: np.ndarray, units: list[str] | None = None) -> Cohort:
    names = tuple(map(str, range(len(images))))
    return Cohort(
        images=images,
        labels=labels,
        units=tuple(units) if units else names,
        digests=names,
        unit_kind=Unit.PATIENT if units else Unit.IMAGE,
    )


def subjects(trained: Cohort, held_out: Cohort | None = None) -> Subjects:
    nobody = trained.part(np.arange(0))
    return Subjects(
        trained=trained,
        held_out=nobody if held_out is None else held_out,
        included=frozenset(),
    )


def check(
    samples: np.ndarray, labels: np.ndarray, trained: Cohort, held_out: Cohort | None = None
) -> GateReport:
    """Ask what samples alone can tell."""
    whom = subjects(trained, held_out)
    return judge(samples, labels, whom, {}, claim=NO_CLAIM, minimum_per_class=0)
