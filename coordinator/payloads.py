"""Payloads and shards at rest: sealed under a key per blueprint that a revocation destroys."""

import numpy as np
from numpy.typing import NDArray

from coordinator import review_records
from coordinator.context import Coordinator
from coordinator.keystore import KeyStore
from federation.blueprint import envelope, weights
from federation.blueprint.statement import WEIGHTS, Statement
from kit import seeds
from pki import kem

BLUEPRINT, RECIPIENT = "blueprint", "recipient"
SHARD, EXPERT, REVIEW = "shard", "expert", "review"  # made of a blueprint, shredded with it
_MAX_SEALED_BYTES = 1 << 30
_DRAWN = "drawn-1"  # another number when something else is drawn


def keystore(coordinator: Coordinator) -> KeyStore:
    """Return the coordinator's key store."""
    return KeyStore(coordinator.home.keystore)


def payload_name(digest: str) -> str:
    """Return the name of a blueprint's payload in its store."""
    return f"{digest}.sealed"


def payload_context(digest: str) -> bytes:
    """Return the encryption context of a blueprint's payload at rest."""
    return b"payload at rest v1 " + bytes.fromhex(digest)


def open_payload(coordinator: Coordinator, statement: Statement) -> bytes:
    """Return a blueprint's plaintext payload; sensitive.

    Raises:
        NotFoundError: its key was destroyed.
        RefusalError: the file was altered.
    """
    digest = statement.digest
    key = keystore(coordinator).get(BLUEPRINT, digest)
    store = coordinator.stores.payloads
    sealed = store.get(payload_name(digest), limit=_MAX_SEALED_BYTES, what="payload")
    return envelope.decrypt(sealed, key, payload_context(digest))


def open_weights(
    coordinator: Coordinator, statement: Statement, table: weights.Table
) -> weights.Arrays:
    """Return a blueprint's tensors as float32; sensitive. Raises as `open_payload`."""
    plaintext = open_payload(coordinator, statement)
    return weights.read(envelope.part(plaintext, statement, WEIGHTS), table)


def save_shard(coordinator: Coordinator, digest: str, name: str, images: NDArray[np.uint8]) -> None:
    """Keep one shard, sealed under a key derived from the blueprint's."""
    _save(coordinator, SHARD, digest, name, images.tobytes())


def load_shard(
    coordinator: Coordinator, digest: str, name: str, shape: tuple[int, ...]
) -> NDArray[np.uint8] | None:
    """Return a kept shard of `shape`, or None when it has to be generated.

    Raises:
        RefusalError: the file was altered.
    """
    data = _load(coordinator, SHARD, digest, name)
    return None if data is None else np.frombuffer(data, dtype=np.uint8).reshape(shape)


def save_expert(coordinator: Coordinator, digest: str, name: str, weights: bytes) -> None:
    """Keep one expert's weights as a shard is kept: with the blueprint's key they are gone."""
    _save(coordinator, EXPERT, digest, name, weights)


def load_expert(coordinator: Coordinator, digest: str, name: str) -> bytes | None:
    """Return a kept expert's weights, or None when it has to be trained.

    Raises:
        RefusalError: the file was altered.
    """
    return _load(coordinator, EXPERT, digest, name)


def _save(coordinator: Coordinator, kind: str, digest: str, name: str, data: bytes) -> None:
    key, context = _derived_key(coordinator, kind, digest, name)
    sealed = envelope.encrypt(data, key, context)
    coordinator.stores.shards.put(_derived_name(digest, name), sealed)


def _load(coordinator: Coordinator, kind: str, digest: str, name: str) -> bytes | None:
    store, entry = coordinator.stores.shards, _derived_name(digest, name)
    if not store.has(entry):
        return None
    key, context = _derived_key(coordinator, kind, digest, name)
    sealed = store.get(entry, limit=_MAX_SEALED_BYTES, what=kind)
    return envelope.decrypt(sealed, key, context)


def drawn_name(digest: str) -> str:
    """Return the name of what was drawn of a blueprint for review: beside its shards."""
    return _derived_name(digest, _DRAWN)


def drawn_key(coordinator: Coordinator, digest: str) -> tuple[bytes, bytes]:
    """Return key (sensitive) and context of what was drawn for review.

    Raises:
        NotFoundError: the blueprint's key was destroyed.
    """
    return _derived_key(coordinator, REVIEW, digest, _DRAWN)


def _derived_name(digest: str, name: str) -> str:
    return f"{digest}/{name}.sealed"


def _derived_key(
    coordinator: Coordinator, kind: str, digest: str, name: str
) -> tuple[bytes, bytes]:
    key = keystore(coordinator).get(BLUEPRINT, digest)
    context = f"{kind} at rest v1 ".encode() + bytes.fromhex(digest) + name.encode()
    return seeds.derive(key, kind, name), context


def destroy(coordinator: Coordinator, digest: str) -> None:
    """Shred a blueprint: its key first, then whatever was sealed under it."""
    keystore(coordinator).destroy(BLUEPRINT, digest)
    coordinator.home.staging(digest).unlink(missing_ok=True)
    coordinator.home.received(digest).unlink(missing_ok=True)
    coordinator.stores.payloads.delete(payload_name(digest))
    coordinator.stores.shards.delete(digest)
    review_records.forget(coordinator, digest)


def content_key(coordinator: Coordinator, wrapped_key: bytes, statement: Statement) -> bytes:
    """Return a received payload's content key (step 17); sensitive.

    Raises:
        NotFoundError: the recipient key was destroyed.
        RefusalError: the wrapped key does not open.
    """
    seed = keystore(coordinator).get(RECIPIENT, statement.context.kid)
    return envelope.unwrap_key(wrapped_key, seed, statement)


def new_recipient(coordinator: Coordinator) -> bytes:
    """Make a recipient key; keeps its seed and returns the public key."""
    seed = kem.new_seed()
    public = kem.public_key(seed)
    keystore(coordinator).put(RECIPIENT, kem.key_id(public), seed)
    return public
