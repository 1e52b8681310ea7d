"""Mutate blueprints at every layer, and count which step refuses them.

`python -m tests.fuzz.mutation` makes 100,000 of them and prints the table: at least 1,000 refusals
by each of the steps 1 to 22, and nothing accepted that no honest site could have sent. Most are
signed again by the true key, so that the steps behind the signature are reached. The seed decides
every mutation; keys and nonces are fresh.
"""

import argparse
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from federation.blueprint import envelope, limits
from federation.blueprint.errors import RefusalError
from kit import canonical, clock
from kit.errors import FormatError
from pki import certificates, kem
from pki.errors import IdentityError
from tests.fakes.federation import CLASSES, EMBEDDING, NOW
from tests.fakes.forge import TABLE, Case, Forge
from tests.fuzz import truth
from tests.fuzz.edits import edit_bytes, edit_json
from tests.vectors.catalogue import chain_faults, changes

COUNT, LEAST_PER_STEP = 100_000, 1_000
STEPS = range(1, 23)
DEFAULT_SEED = 20261121

P, C = "predicate.", "predicate.context."
Q = P + "privacy.parameters."
Mutator = Callable[[Forge, random.Random], Case]


@dataclass(slots=True)
class Tally:
    """What became of every blueprint; `accepted` holds what should never have opened."""

    seed: int
    made: int = 0
    signed_again: int = 0
    honest: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    by_layer: Counter[tuple[str, int]] = field(default_factory=Counter)
    accepted: list[tuple[str, Case]] = field(default_factory=list)

    def table(self) -> str:
        """Return the table that is printed."""
        layers = list(MUTATORS)
        width = max(map(len, layers))
        lines = [f"{'step':<{width}}" + "".join(f"{step:>6}" for step in STEPS) + "   all"]
        for layer in layers:
            row = [self.by_layer[layer, step] for step in STEPS]
            cells = "".join(f"{n or '.':>6}" for n in row)
            lines.append(f"{layer:<{width}}{cells}{sum(row):>6}")
        totals = [self.refused[step] for step in STEPS]
        lines.append(
            f"{'refused':<{width}}" + "".join(f"{n:>6}" for n in totals) + f"{sum(totals):>6}"
        )
        lines.append(
            f"made {self.made}, signed again {self.signed_again}, refused {sum(totals)}, "
            f"accepted as another honest word of the site {self.honest}, "
            f"accepted otherwise {len(self.accepted)}; seed {self.seed}"
        )
        return "\n".join(lines)


def fuzz(count: int, *, seed: int, forge: Forge | None = None) -> Tally:
    """Make `count` blueprints that differ from the honest one and open each."""
    forge = forge or Forge()
    verifier, tally, rng = forge.verifier, Tally(seed), random.Random(seed)
    verifier.open(forge.honest)
    names, weights = list(MUTATORS), [weight for _, weight, _ in MUTATORS.values()]
    while tally.made < count:
        (layer,) = rng.choices(names, weights)
        mutate, _, signs = MUTATORS[layer]
        case = mutate(forge, rng)
        if case == forge.honest:
            continue
        tally.made += 1
        tally.signed_again += signs
        try:
            verifier.open(case)
        except RefusalError as error:
            tally.refused[error.step] += 1
            tally.by_layer[layer, error.step] += 1
        else:
            if truth.could_be_honest(forge, case):
                tally.honest += 1
            else:
                tally.accepted.append((layer, case))
    verifier.open(forge.honest)
    return tally


# Steps 1 to 4: without the site's key.


def _swollen(forge: Forge, rng: random.Random) -> Case:
    data = forge.honest.envelope
    unit = rng.choice((b" ", b"\0", b"[", b"9", data, rng.randbytes(64)))
    times = 1 + (limits.MAX_ENVELOPE_BYTES - len(data)) // len(unit) + rng.randrange(3)
    at = rng.choice((0, len(data), rng.randrange(len(data))))
    return replace(forge.honest, envelope=data[:at] + unit * times + data[at:])


def _envelope_bytes(forge: Forge, rng: random.Random) -> Case:
    return replace(forge.honest, envelope=edit_bytes(rng, forge.honest.envelope))


def _envelope_json(forge: Forge, rng: random.Random) -> Case:
    table = json.loads(forge.honest.envelope)
    match rng.randrange(4):
        case 0:
            edit_json(rng, table)
        case 1:
            payload = edit_bytes(rng, forge.payload)
            table["payload"] = canonical.b64encode(payload)
        case 2:
            table["signatures"][0]["sig"] = canonical.b64encode(rng.randbytes(64))
        case _:
            sig = edit_bytes(rng, canonical.b64decode(table["signatures"][0]["sig"]))
            table["signatures"][0]["sig"] = canonical.b64encode(sig)
    return replace(forge.honest, envelope=canonical.encode(table))


def _chain(forge: Forge, rng: random.Random) -> Case:
    if rng.random() < 0.5:
        keyid = rng.choice((forge.world.b.keyid, rng.randbytes(32).hex()))
        return replace(forge.honest, envelope=forge.sign(forge.payload, keyid=keyid))
    leaf, *above = forge.honest.chain
    if rng.random() < 0.2:
        chain = rng.choice(list(chain_faults.CHAINS.values()))(forge)
        return replace(forge.honest, chain=chain)
    try:  # bytes of a certificate that still parse prove nobody
        altered = certificates.from_der(edit_bytes(rng, certificates.der(leaf)))
    except IdentityError:
        return replace(forge.honest, chain=tuple(rng.sample([leaf, *above], rng.randrange(2))))
    return replace(forge.honest, chain=(altered, *above))


# Steps 5 to 14: signed again.


def _statement_bytes(forge: Forge, rng: random.Random) -> Case:
    return forge.raw(edit_bytes(rng, forge.payload))


def _statement_json(forge: Forge, rng: random.Random) -> Case:
    table = json.loads(forge.payload)
    edit_json(rng, table)
    try:
        return forge.raw(canonical.encode(table))
    except FormatError:  # what no writer can write, a hostile one writes all the same
        return forge.raw(json.dumps(table, sort_keys=True, separators=(",", ":")).encode())


def _time(rng: random.Random) -> str:
    return clock.rfc3339(NOW.replace(year=rng.choice((1, 1999, 2025, 2027, 2100, 9999))))


def _number(rng: random.Random, low: float, high: float) -> str:
    return canonical.real(rng.uniform(low, high))


def _lengths(rng: random.Random) -> tuple[str, Any]:
    file = rng.choice((1, 2))
    huge = rng.randrange(2 * limits.MAX_PAYLOAD_BYTES + 1, canonical.MAX_INTEGER)
    return rng.choice(
        (
            ("subject.0.annotations.length", huge),
            (f"subject.{file}.annotations.length", rng.choice((0, huge))),
            ("subject.1.annotations.offset", rng.randrange(1, 1 << rng.randrange(1, 50))),
            ("subject.2.annotations.offset", rng.randrange(1 << rng.randrange(1, 50))),
        )
    )


def _tasks(rng: random.Random) -> tuple[str, Any]:
    classes = ["cat", "dog", "eel", "fox", "Cat", "hen"]
    outputs = ["cat"]
    while outputs == [name for name in CLASSES if name in outputs]:  # no untruth of step 12
        outputs = rng.sample(classes, rng.randrange(1, 6))
    return rng.choice(
        (
            (P + "task", "t" + rng.randbytes(4).hex()),
            (P + "outputs", outputs),
            (P + "architecture." + rng.choice(("kind", "preset", "x")), rng.randbytes(4).hex()),
            (P + "architecture.version", rng.choice((0, 2, True, "1", rng.randrange(1 << 40)))),
        )
    )


def _claims(rng: random.Random) -> tuple[str, Any]:
    return rng.choice(
        (
            (P + "privacy.unit", "u" + rng.randbytes(4).hex()),
            (P + "gate.passed", False),
            (Q + "sample_rate", rng.choice((_number(rng, -2, 0), _number(rng, 1.001, 9)))),
            (Q + "noise_multiplier", rng.choice((_number(rng, -50, 0.1), _number(rng, 0.1, 19)))),
            (Q + "steps", rng.randrange(60, 10_000_000)),
            (Q + "epsilon", rng.choice((_number(rng, -9, 0.2), _number(rng, 8.001, 1e6)))),
            (Q + "delta", rng.choice((_number(rng, -1, 0), _number(rng, 1.001e-5, 2)))),
        )
    )


def _freshness(rng: random.Random) -> tuple[str, Any]:
    return rng.choice(
        (
            (C + "seq", rng.randrange(1, 7)),
            (P + "privacy.ledger.counter", rng.randrange(3)),
            (P + "privacy.ledger.head", rng.randbytes(32).hex()),
        )
    )


_UNTRUTHS: dict[int, Callable[[random.Random], tuple[str, Any]]] = {
    6: lambda rng: rng.choice(
        ((C + "version", rng.randrange(2, 1001)), (C + "suite", "S" + rng.randbytes(9).hex()))
    ),
    7: lambda rng: rng.choice(
        (
            (C + "sender", f"spiffe://riverside/site/{rng.randbytes(3).hex()}"),
            (C + "sender_cert", rng.randbytes(32).hex()),
        )
    ),
    8: lambda rng: rng.choice(
        (
            (C + "recipient", f"spiffe://{rng.randbytes(3).hex()}"),
            (C + "kid", rng.randbytes(32).hex()),
        )
    ),
    9: lambda rng: rng.choice(
        (
            (C + "study_digest", rng.randbytes(32).hex()),
            (C + "base", rng.randbytes(32).hex()),
            (C + "round", rng.randrange(2, 1_000_001)),
        )
    ),
    10: lambda rng: rng.choice(((P + "issued", _time(rng)), (P + "expires", _time(rng)))),
    11: _lengths,
    12: _tasks,
    13: _claims,
    14: _freshness,
}


def _untruth(step: int) -> Mutator:
    def mutate(forge: Forge, rng: random.Random) -> Case:
        return forge.signed(changes.setting(*_UNTRUTHS[step](rng)))

    return mutate


# Steps 15 and 16: beside the signature. Steps 17 to 22: sealed and signed again.


def _wrapped_bytes(forge: Forge, rng: random.Random) -> Case:
    return replace(forge.honest, wrapped_key=edit_bytes(rng, forge.honest.wrapped_key))


def _ciphertext_bytes(forge: Forge, rng: random.Random) -> Case:
    return replace(forge.honest, ciphertext=edit_bytes(rng, forge.honest.ciphertext))


def _wrapped_signed(forge: Forge, rng: random.Random) -> Case:
    def wrap(key: bytes, binding: bytes) -> bytes:
        match rng.randrange(4):
            case 0:
                return kem.wrap(key, forge.world.recipient, info=edit_bytes(rng, binding))
            case 1:
                return rng.randbytes(kem.WRAPPED_BYTES)
            case _:
                altered = edit_bytes(rng, forge.wrap(key, binding))
                return (altered + bytes(kem.WRAPPED_BYTES))[: kem.WRAPPED_BYTES]

    return forge.seal(wrap=wrap)


def _binding(forge: Forge, rng: random.Random) -> Case:
    """A context that is not the one of the encryption: other words for the same bytes."""
    word = rng.choice(
        ((C + "seq", rng.randrange(8, limits.MAX_SEQUENCE)), (C + "id", rng.randbytes(5).hex()))
    )
    return forge.signed(changes.setting(*word))


def _ciphertext_signed(forge: Forge, rng: random.Random) -> Case:
    def encrypt(plaintext: bytes, key: bytes, binding: bytes) -> bytes:
        match rng.randrange(4):
            case 0:
                return envelope.encrypt(plaintext, rng.randbytes(32), binding)
            case 1:
                return envelope.encrypt(plaintext, key, edit_bytes(rng, binding))
            case _:
                return edit_bytes(rng, envelope.encrypt(plaintext, key, binding))

    return forge.seal(encrypt=encrypt)


def _plaintext(forge: Forge, rng: random.Random) -> Case:
    if rng.random() < 0.2:
        file = rng.choice((1, 2))
        digest = changes.setting(f"subject.{file}.digest.sha256", rng.randbytes(32).hex())
        return forge.seal(change=digest)
    return forge.seal(plaintext=edit_bytes(rng, forge.weights + forge.architecture))


def _architecture(forge: Forge, rng: random.Random) -> Case:
    return forge.seal(file=edit_bytes(rng, forge.architecture) or b"\0")


HEADER_BYTES = len(envelope.weights.header(TABLE))


def _layout(forge: Forge, rng: random.Random) -> Case:
    head, data = forge.weights[:HEADER_BYTES], forge.weights[HEADER_BYTES:]
    if rng.random() < 0.2:
        return forge.seal(data=head + data + rng.randbytes(rng.randrange(1, 99)))
    return forge.seal(data=edit_bytes(rng, head) + data)


def _values(forge: Forge, rng: random.Random) -> Case:
    def change(bits: dict[str, Any]) -> None:
        name = rng.choice(sorted(bits))
        match rng.randrange(4):
            case 0:  # exponent of all ones: not finite
                bits[name].flat[rng.randrange(bits[name].size)] |= 0x7F80
            case 1:  # over the limit
                value = 0x4680 + rng.randrange(0x3900 - 1)
                bits[name].flat[rng.randrange(bits[name].size)] = value | rng.choice((0, 0x8000))
            case 2:  # a hidden branch
                bits[EMBEDDING][2, rng.randrange(64)] = rng.randrange(1, 1 << 16)
            case _:
                bits[name].flat[rng.randrange(bits[name].size)] = rng.randrange(1 << 16)

    return forge.seal(data=forge.raw_weights(change))


# layer -> (mutator, share, whether the true key signs what was made)
MUTATORS: dict[str, tuple[Mutator, int, bool]] = {
    "swollen envelope": (_swollen, 3, False),
    "envelope bytes": (_envelope_bytes, 8, False),
    "envelope fields": (_envelope_json, 9, False),
    "certificates": (_chain, 4, False),
    "statement bytes": (_statement_bytes, 10, True),
    "statement fields": (_statement_json, 20, True),
    **{f"step {step} untrue": (_untruth(step), 3, True) for step in _UNTRUTHS},
    "wrapped key": (_wrapped_bytes, 5, False),
    "ciphertext": (_ciphertext_bytes, 5, False),
    "wrapped key, signed": (_wrapped_signed, 4, True),
    "binding, signed": (_binding, 2, True),
    "ciphertext, signed": (_ciphertext_signed, 5, True),
    "plaintext, signed": (_plaintext, 5, True),
    "architecture, signed": (_architecture, 4, True),
    "layout, signed": (_layout, 5, True),
    "values, signed": (_values, 6, True),
}


def main() -> int:
    """Fuzz and print the table; 0 only if all of it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="0 draws one")
    options = parser.parse_args()
    began = time.monotonic()
    tally = fuzz(options.count, seed=options.seed or secrets.randbits(32))
    print(tally.table())
    print(f"{time.monotonic() - began:.0f} s")
    least = min(LEAST_PER_STEP, LEAST_PER_STEP * options.count // COUNT)
    rare = [step for step in STEPS if tally.refused[step] < least]
    for layer, case in tally.accepted:
        print(f"accepted: {layer}: {case.envelope.decode(errors='replace')}", file=sys.stderr)
    if rare:
        print(f"steps that refused fewer than {least}: {rare}", file=sys.stderr)
    return 1 if rare or tally.accepted or 2 * tally.signed_again < tally.made else 0


if __name__ == "__main__":
    sys.exit(main())
