"""Leave one blueprint out: what does it do to a probe's judgement of the others' images?"""

from collections.abc import Sequence

import numpy as np

from federation.learning.review.finding import Aid, Finding, Outcome, conclude
from federation.learning.review.labels import Features, Judged
from federation.learning.review.probe import Probe, Statistics, halves

HARM = 0.1  # of the others' held-out images, by class


def influence(judged: Judged, others: Sequence[Judged]) -> Finding:
    """Flag a blueprint with which the others' held-out images are told apart markedly worse."""
    split = [halves(other.features) for other in others]
    if len({label for other in others for label in other.features}) < 2:
        return Finding(
            aid=Aid.INFLUENCE,
            outcome=Outcome.CANNOT_TELL,
            measure=None,
            threshold=HARM,
            words="the others have fewer than two classes to tell apart",
        )
    learnt = [Statistics.of(first) for first, _ in split]
    asked = [second for _, second in split]
    without = _accuracy(Probe(learnt), asked)
    beside = _accuracy(Probe([*learnt, judged.statistics]), asked)
    harm = without - beside
    return Finding(
        aid=Aid.INFLUENCE,
        outcome=conclude(["all"] if harm > HARM else [], []),
        measure=harm,
        threshold=HARM,
        words=f"of the others' held-out images a probe is right about {without:.1%} without it and"
        f" {beside:.1%} with it",
    )


def _accuracy(probe: Probe, asked: Sequence[Features]) -> float:
    """Return the accuracy over blueprints and classes, each the same."""
    found = [share for features in asked for share in probe.agreement(features).values()]
    return float(np.mean(found))
