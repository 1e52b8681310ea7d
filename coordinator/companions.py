"""What lies beside a release's model: ML-BOM, a signature, golden images, a synthetic set.

The set only where the study says so: `synthetic_set` makes it, and `is_public` decides.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from coordinator import experts, issuance, shards, state
from coordinator.context import Coordinator
from coordinator.plans import Plan
from coordinator.state import Transaction
from federation.blueprint.statement import Statement
from federation.build_policy import Mode
from federation.release import bom, golden, oms, synthetic
from federation.release.bom import Ancestor, Making
from federation.release.golden import GoldenImages
from federation.release.statement import FILE_NAMES, Artefact, Role
from federation.release.synthetic import SyntheticSet
from federation.study import ImageRule, SyntheticSets
from kit import canonical, clock, seeds
from pki import certificates, keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

LICENCE = "research use by the members of the federation"
MODEL_SIGNING = "model-signing"
MEDIA_TYPES = {
    Role.ML_BOM: bom.MEDIA_TYPE,
    Role.MODEL_SIGNATURE: oms.MEDIA_TYPE,
    Role.GOLDEN_IMAGES: golden.MEDIA_TYPE,
    Role.SYNTHETIC_SET: synthetic.MEDIA_TYPE,
}
_LOOKS, _SEED = "all", 2026
_SIZED, _RESIZED = 4, 2  # of the study's size, and of a little larger one that the graph resizes
_LARGER_PX = (7, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a build made beside its model; `synthetic` is None where the study withholds it."""

    golden: GoldenImages
    synthetic: SyntheticSet | None


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


def synthetic_set(coordinator: Coordinator, work: Plan) -> SyntheticSet | None:
    """Return the synthetic set of a build whose shards are kept, a class as large as one shard.

    None where the study withholds it. One shard at a time is in memory, beside the set.

    Raises:
        StateError: a shard is gone from its store.
    """
    study = work.study
    if study.sharing.synthetic_sets is SyntheticSets.WITHHELD:
        return None
    secret, version = coordinator.study_secret(study.digest), str(study.build.version)
    images: dict[str, synthetic.Images] = {}
    for shard in shards.of(work):
        own = experts.whole(coordinator, work.setting, shard)
        before = [images[shard.label]] if shard.label in images else []
        key = seeds.derive(secret, "synthetic set", shard.label, version)
        most = study.build.shard_size
        images[shard.label] = synthetic.chosen([*before, own], most=most, secret=key)
    chosen = tuple(images[label] for label in work.labels)
    return SyntheticSet(study=study.digest, labels=work.labels, images=chosen)


def is_public(rule: SyntheticSets, *, personal_data: bool) -> bool:
    """Say whether a release publishes its synthetic set under a study's rule."""
    return rule is SyntheticSets.PERSONAL_DATA or (
        rule is SyntheticSets.PRIVATE and not personal_data
    )


def make(
    coordinator: Coordinator, tx: Transaction, work: Plan, model: Artefact, beside: Beside
) -> tuple[Artefact, ...]:
    """Write everything that lies beside a model; returns it as artefacts of its release."""
    made = {}
    if beside.synthetic is not None:
        made[Role.SYNTHETIC_SET] = beside.synthetic.to_bytes()
    named = {role: canonical.digest(data) for role, data in made.items()}
    made |= {
        Role.ML_BOM: bom.write(model, _making(tx, work, named.get(Role.SYNTHETIC_SET))),
        Role.MODEL_SIGNATURE: _signature(coordinator, tx, model),
        Role.GOLDEN_IMAGES: beside.golden.to_bytes(),
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


def _making(tx: Transaction, work: Plan, synthetic_set: str | None) -> Making:
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
        synthetic_set=synthetic_set,
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
