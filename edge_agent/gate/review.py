"""Review: what the coordinator's intake will ask of every class, asked before anything leaves.

A refusal there comes after the budget is spent and the blueprint is sent; the same question here
costs a second.
"""

import numpy as np
from numpy.typing import NDArray

from edge_agent.gate.verdict import Check, Outcome
from kit.errors import KitError


def review(
    samples: NDArray[np.float32], sample_labels: NDArray[np.int64], *, minimum_per_class: int
) -> Check:
    """Ask of each class's first samples what step 23 of intake asks; the value counts refusals.

    Args:
        samples: float32 [n, C, H, W] in [-1, 1], the generator's.
        sample_labels: int64 [n].
        minimum_per_class: the study's.
    """
    from federation.learning.methods import federated_factory

    refused = []
    for label in np.unique(sample_labels):
        images = samples[sample_labels == label][: federated_factory.REVIEWED_SAMPLES]
        if len(images) < 2:
            continue
        try:
            federated_factory.review_class(images, minimum_per_class=minimum_per_class)
        except KitError as error:
            refused.append(f"class {label}: {error}; the coordinator would refuse it")
    return Check(
        name="review",
        outcome=Outcome.FAILED if refused else Outcome.PASSED,
        value=float(len(refused)),
        threshold=0.0,
        words=refused[0] if refused else "no class shows nothing or a handful of images",
    )
