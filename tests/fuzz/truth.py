"""Whether an honest site could have sent what was accepted: said anew, without the verifier.

A mutation may hit on another true word: a shorter validity, more noise than was needed, another
value of a weight. Everything that differs from the honest blueprint is looked at here by other
means than those of `federation.blueprint`.
"""

import hashlib
import json
import math
import struct
from typing import Any

from cryptography import cobblestone

from federation import accounting
from kit import canonical, clock
from tests.fakes.federation import CLASSES, NOW
from tests.fakes.forge import Case, Forge

_FREE = {
    ("predicate", "gate", "report"),
    ("predicate", "issued"),
    ("predicate", "expires"),
    ("predicate", "outputs"),
    ("predicate", "privacy"),
}
_SEALED = {("subject", index, "digest", "sha256") for index in range(4)}


def could_be_honest(forge: Forge, case: Case) -> bool:
    """Say whether every difference from the honest blueprint is one that a site may make."""
    if case.chain != forge.honest.chain or case.verifier:
        return False
    payload = canonical.b64decode(json.loads(case.envelope)["payload"])
    made, honest = json.loads(payload), json.loads(forge.payload)
    signed = forge.sign(payload) == case.envelope  # Ed25519 is deterministic (RFC 8032)
    return (
        signed
        and _without(made, _FREE | _SEALED) == _without(honest, _FREE | _SEALED)
        and _true_word(made["predicate"], honest["predicate"])
        and _true_payload(forge, case, made["subject"])
    )


def _without(value: Any, paths: set[tuple[Any, ...]], path: tuple[Any, ...] = ()) -> Any:
    if path in paths:
        return None
    if isinstance(value, dict):
        return {k: _without(v, paths, (*path, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_without(v, paths, (*path, i)) for i, v in enumerate(value)]
    return value


def _true_word(made: dict[str, Any], honest: dict[str, Any]) -> bool:
    issued, expires = (clock.parse_rfc3339(made[name]) for name in ("issued", "expires"))
    in_time = (issued - NOW).total_seconds() <= 600 and expires > NOW
    short = 0 < (expires - issued).total_seconds() <= 30 * 86400
    privacy = made["privacy"]
    ledger, known = privacy["ledger"], honest["privacy"]["ledger"]
    kept = ledger == known or ledger["counter"] > known["counter"]
    numbers = {name: float(value) for name, value in privacy["parameters"].items()}
    declared = numbers.pop("epsilon")
    true = accounting.epsilon(**numbers | {"steps": int(numbers["steps"])})  # type: ignore[arg-type]
    enough = true * (1 - 1e-3) <= declared <= 8 and 0 < numbers["delta"] <= 1e-5
    # A site may declare a class more: its row may be zero as well, and is sampled in review.
    declared_more = made["outputs"] in (honest["outputs"], list(CLASSES))
    unit = privacy["unit"] in ("image", "patient")
    return in_time and short and kept and enough and declared_more and unit


def _true_payload(forge: Forge, case: Case, subjects: list[dict[str, Any]]) -> bool:
    digests = [hashlib.sha256(part).hexdigest() for part in (case.ciphertext, case.wrapped_key)]
    if digests != [subjects[0]["digest"]["sha256"], subjects[3]["digest"]["sha256"]]:
        return False
    binding = forge.world.context(forge.world.a).binding
    decryptor = cobblestone.Cobblestone256Decryptor(forge.content_key, binding)
    plaintext = decryptor.update(case.ciphertext) + decryptor.finalize()
    weights = plaintext[: len(forge.weights)]
    values = 3 + 3 * 64
    head = len(weights) - 2 * values
    if weights[:head] != forge.weights[:head] or plaintext[len(weights) :] != forge.architecture:
        return False
    numbers = [
        struct.unpack("<f", b"\0\0" + weights[at : at + 2])[0]
        for at in range(head, len(weights), 2)
    ]
    bounded = all(abs(n) <= 1e4 for n in numbers)  # not a number compares with nothing
    norms = math.hypot(*numbers[:3]) <= 1e5 and math.hypot(*numbers[3:]) <= 1e5
    return bounded and norms and weights[-2 * 64 :] == bytes(2 * 64)
