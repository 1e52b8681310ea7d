"""Model check of a payload that passed its byte checks, in 1 GB: step 23.

Loads the network, draws a few images of every declared class, and refuses what shows nothing or
repeats a handful of images: the part of the site's gate that needs no private image, asked again.
Of what passes it makes the sketch by which it would be known again after it was destroyed (A20).
The framework is loaded before the walls go up, and before a byte of the request is read: loading
looks for folders that are out of reach afterwards.
"""

from typing import Any

import torch

from coordinator.intake import limited
from federation.blueprint import envelope, weights
from federation.blueprint.statement import WEIGHTS, Statement
from federation.learning.downstream.support import SupportEstimate
from federation.learning.generator import network as _network  # noqa: F401 - loads diffusers
from federation.learning.generator.architecture import (
    Architecture,
    build_network,
    load_weights,
)
from federation.learning.generator.sampler import sample
from federation.learning.methods import federated_factory
from federation.learning.review import sketch
from federation.study import Study
from kit import canonical, seeds
from kit.errors import KitError

SAMPLES_PER_CLASS = federated_factory.REVIEWED_SAMPLES
_SAMPLER_STEPS = 12
_MAX_SEALED_BYTES = 1 << 30


def main() -> None:
    """Check one model."""
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
        found = check(arrays, statement, study, canonical.b64decode(request["secret"]))
        known = sketched(arrays, statement, study, canonical.b64decode(request["sketch_key"]))
    except KitError as error:
        limited.answer(request, refused=f"step 23: {error}")
        return
    limited.answer(
        request,
        support={label: [s.samples, s.distinct] for label, s in found.items()},
        sketch=known,
    )


def check(
    arrays: weights.Arrays, statement: Statement, study: Study, secret: bytes
) -> dict[str, SupportEstimate]:
    """Run step 23 on the tensors of a generator; returns what every class showed.

    Raises:
        KitError: the samples of a class show nothing, or repeat a handful of images.
    """
    network, architecture = _loaded(arrays, statement)
    found = {}
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
        found[label] = federated_factory.review_class(
            images, minimum_per_class=study.minimum_per_class
        )
    return found


def sketched(
    arrays: weights.Arrays, statement: Statement, study: Study, key: bytes
) -> dict[str, Any]:
    """Return the sketch of a generator, as JSON values.

    Raises:
        KitError: its samples are not finite.
    """
    network, architecture = _loaded(arrays, statement)
    images = {
        label: sample(
            network,
            architecture,
            torch.full((sketch.SKETCHED_IMAGES,), study.classes.index(label)),
            seed=sketch.noise_seed(key, label),
            steps=sketch.SKETCH_STEPS,
            batch_size=sketch.SKETCHED_IMAGES,
        ).numpy()
        for label in statement.outputs
    }
    return sketch.sketch(arrays, images, key).to_table()


def _loaded(arrays: weights.Arrays, statement: Statement) -> tuple[torch.nn.Module, Architecture]:
    torch.set_num_threads(1)
    architecture = Architecture.from_table(statement.architecture)
    network = build_network(architecture)
    load_weights(network, arrays)
    return network, architecture


if __name__ == "__main__":
    main()
