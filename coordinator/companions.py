"""What lies beside a release's model: its ML-BOM, a signature for outsiders, golden images."""

from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from coordinator import issuance, state
from coordinator.context import Coordinator
from coordinator.plans import Plan
from coordinator.state import Transaction
from federation.blueprint.statement import Statement
from federation.build_policy import Mode
from federation.release import bom, golden, oms
from federation.release.bom import Ancestor, Making
from federation.release.golden import GoldenImages
from federation.release.statement import FILE_NAMES, Artefact, Role
from federation.study import ImageRule
from kit import canonical, clock
from pki import certificates, keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

LICENCE = "research use by the members of the federation"
MODEL_SIGNING = "model-signing"
MEDIA_TYPES = {
    Role.ML_BOM: bom.MEDIA_TYPE,
    Role.MODEL_SIGNATURE: oms.MEDIA_TYPE,
    Role.GOLDEN_IMAGES: golden.MEDIA_TYPE,
}
_LOOKS, _SEED = "all", 2026
_SIZED, _RESIZED = 4, 2  # of the study's size, and of a little larger one that the graph resizes
_LARGER_PX = (7, 5)


def stored_name(digest: str, role: Role) -> str:
    """Return the name of what lies beside a release's model in the store of releases."""
    return f"{digest}.{role}"


def golden_images(model: bytes, image: ImageRule) -> GoldenImages:
    """Return drawn images with what the CPU runtime of this machine makes of them."""
    import onnxruntime

    from federation.release.onnx_lint import INPUT_NAME, OUTPUT_NAME

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    images = _drawn(image)
    rows = []
    for pixels in images:
        batch = pixels.astype(np.float32)[None] / np.float32(255)
        (found,) = session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        rows.append(np.asarray(found[0], dtype=np.float64))
    return GoldenImages(model=canonical.digest(model), images=images, probabilities=np.array(rows))


def _drawn(image: ImageRule) -> "tuple[NDArray[np.uint8], ...]":
    from federation.learning.generator import procedural

    larger = (image.height + _LARGER_PX[0], image.width + _LARGER_PX[1])
    sizes = [(image.height, image.width)] * _SIZED + [larger] * _RESIZED
    chosen = procedural.styles(len(sizes), _LOOKS, seed=_SEED)
    found = []
    for number, size in enumerate(sizes):
        shape = (image.channels, *size)
        drawn = procedural.draw(chosen, [number], shape, seed=[_SEED, number])[0]
        found.append(np.round((drawn + 1) / 2 * 255).astype(np.uint8))
    return tuple(found)


def make(
    coordinator: Coordinator, tx: Transaction, work: Plan, model: Artefact, images: GoldenImages
) -> tuple[Artefact, ...]:
    """Write everything that lies beside a model; returns it as artefacts of its release."""
    made = {
        Role.ML_BOM: bom.write(model, _making(tx, work)),
        Role.MODEL_SIGNATURE: _signature(coordinator, tx, model),
        Role.GOLDEN_IMAGES: images.to_bytes(),
    }
    for role, data in made.items():
        coordinator.stores.releases.put(stored_name(model.sha256, role), data)
    return tuple(
        Artefact(
            role=role,
            media_type=MEDIA_TYPES[role],
            sha256=canonical.digest(data),
            length=len(data),
            licence=LICENCE,
        )
        for role, data in made.items()
    )


def _making(tx: Transaction, work: Plan) -> Making:
    table = state.blueprints
    digests = [entry.blueprint for entry in work.inputs]
    rows = tx.all(sa.select(table.c.statement).where(table.c.digest.in_(digests)))
    return Making(
        study=work.study,
        labels=work.labels,
        plan=work.digest,
        created=clock.rfc3339(tx.now),
        images_per_shard=work.study.build.shard_size,
        classifier=_classifier(work),
        ancestors=[_ancestor(Statement.from_bytes(row.statement)) for row in rows],
    )


def _classifier(work: Plan) -> str:
    policy = work.study.build
    if policy.mode is Mode.EXPERTS:
        return f"product of {len(work.inputs)} experts, each {policy.classifier}"
    return policy.classifier


def _ancestor(statement: Statement) -> Ancestor:
    claim = statement.privacy.gaussian
    return Ancestor(
        digest=statement.digest,
        outputs=statement.outputs,
        unit=statement.privacy.unit,
        mechanism="none" if claim is None else claim.name,
        epsilon=None if claim is None else claim.epsilon,
        delta=None if claim is None else claim.delta,
    )


def _signature(coordinator: Coordinator, tx: Transaction, model: Artefact) -> bytes:
    """Sign a model for outsiders, under a P-256 certificate whose key signs this once and is gone.

    The stock verifier goes by the certificate's first day, so the signature outlives it.
    """
    key, issuing = keys.new_tls_key(), coordinator.issuing
    leaf = certificates.issue_signing(issuing, coordinator.identity, key.public_key(), now=tx.now)
    chain = (leaf, issuing.certificate)
    pem = certificates.pem(*chain)
    issuance.keep(tx, pem, holder=issuance.COORDINATOR, usage=MODEL_SIGNING)
    return oms.sign(model, FILE_NAMES[Role.INFERENCE_MODEL], key, chain)
