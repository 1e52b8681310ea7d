"""Model check of a payload that passed its byte checks, in 1 GB: step 23.

Loads the network, draws a few images of every declared class, and refuses what shows nothing or
repeats a handful of images.
"""

from pathlib import Path

from coordinator.intake import limited
from federation.blueprint import envelope, weights
from federation.blueprint.statement import WEIGHTS, Statement
from federation.study import Study
from kit import canonical, seeds
from kit.errors import KitError
from kit.files import read_limited

SAMPLES_PER_CLASS = 64
MINIMUM_DISTINCT = 8  # of 64: fewer is a replay of a handful of images, not a generator
_SAMPLER_STEPS = 12
_MAX_SEALED_BYTES = 1 << 30


def main() -> None:
    """Check one model."""
    request = limited.request()
    statement = Statement.from_bytes(canonical.b64decode(request["statement"]))
    study = Study.from_bytes(canonical.b64decode(request["study"]))
    sealed = read_limited(Path(request["sealed"]), limit=_MAX_SEALED_BYTES, what="payload")
    plaintext = envelope.decrypt(
        sealed,
        canonical.b64decode(request["blueprint_key"]),
        canonical.b64decode(request["blueprint_context"]),
    )
    table = weights.table_from_json(request["table"])
    arrays = weights.read(envelope.part(plaintext, statement, WEIGHTS), table)
    try:
        _check(arrays, statement, study, canonical.b64decode(request["secret"]))
    except KitError as error:
        limited.answer({"refused": f"step 23: {error}"})
        return
    limited.answer({"passed": True})


def _check(arrays: weights.Arrays, statement: Statement, study: Study, secret: bytes) -> None:
    import torch

    from federation.learning.generator.architecture import (
        Architecture,
        build_network,
        load_weights,
    )
    from federation.learning.generator.sampler import sample
    from federation.learning.methods import federated_factory

    torch.set_num_threads(1)
    architecture = Architecture.from_table(statement.architecture)
    network = build_network(architecture)
    load_weights(network, arrays)
    for label in statement.outputs:
        labels = torch.full((SAMPLES_PER_CLASS,), study.classes.index(label))
        images = sample(
            network,
            architecture,
            labels,
            seed=seeds.seed(secret, label),
            steps=_SAMPLER_STEPS,
            batch_size=SAMPLES_PER_CLASS,
        ).numpy()
        federated_factory.check_samples(images)
        support = federated_factory.support_estimate(images)
        if support.distinct < MINIMUM_DISTINCT:
            raise KitError(
                f"only {support.distinct} of {support.samples} samples of a class are different"
            )


if __name__ == "__main__":
    main()
