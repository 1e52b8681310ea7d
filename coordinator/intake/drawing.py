"""Draws the images that the review aids look at, in 1 GB, and seals them under the blueprint's key.

The second thing after `model_check` that runs a stranger's network. It asks for more images than
that; what it draws leaves the process sealed, in eight bits, and no larger than the aids use.
"""

import numpy as np
import torch

from coordinator.intake import limited
from federation.blueprint import envelope, weights
from federation.blueprint.statement import WEIGHTS, Statement
from federation.learning.downstream.distances import reduced
from federation.learning.downstream.pixels import Bytes, to_bytes
from federation.learning.generator import network as _network  # noqa: F401 - loads diffusers
from federation.learning.generator.architecture import (
    Architecture,
    build_network,
    load_weights,
)
from federation.learning.generator.sampler import sample
from federation.learning.review.drawn import images_per_class
from federation.study import Study
from kit import canonical, seeds
from kit.errors import KitError

_MAX_SAMPLER_STEPS = 12
_BATCH = 32
_MAX_SEALED_BYTES = 1 << 30


def main() -> None:
    """Draw of one model."""
    request = limited.request()
    statement = Statement.from_bytes(canonical.b64decode(request["statement"]))
    study = Study.from_bytes(canonical.b64decode(request["study"]))
    sealed = limited.read_open(request["sealed"], limit=_MAX_SEALED_BYTES, what="payload")
    plaintext = envelope.decrypt(
        sealed,
        canonical.b64decode(request["blueprint_key"]),
        canonical.b64decode(request["blueprint_context"]),
    )
    table = weights.table_from_json(request["table"])
    arrays = weights.read(envelope.part(plaintext, statement, WEIGHTS), table)
    try:
        images = draw(arrays, statement, study, canonical.b64decode(request["secret"]))
    except KitError as error:
        limited.answer(request, refused=str(error))
        return
    key, context = (canonical.b64decode(request[name]) for name in ("key", "context"))
    try:
        limited.write_open(request["drawn"], envelope.encrypt(images.tobytes(), key, context))
    except KitError as error:
        limited.answer(request, failed=str(error))
        return
    limited.answer(request, passed=True)


def draw(arrays: weights.Arrays, statement: Statement, study: Study, secret: bytes) -> Bytes:
    """Return uint8 [classes x images, C, H, W]: the declared classes one after the other.

    Raises:
        KitError: samples are not finite.
    """
    torch.set_num_threads(1)
    architecture = Architecture.from_table(statement.architecture)
    network = build_network(architecture)
    load_weights(network, arrays)
    count = images_per_class(len(statement.outputs), shard_size=study.build.shard_size)
    found = []
    for label in statement.outputs:
        images = sample(
            network,
            architecture,
            torch.full((count,), study.classes.index(label)),
            seed=seeds.seed(secret, label),
            steps=min(_MAX_SAMPLER_STEPS, study.build.sampler_steps),
            batch_size=_BATCH,
        )
        found.append(to_bytes(reduced(images.numpy())))
    return np.concatenate(found)


if __name__ == "__main__":
    main()
