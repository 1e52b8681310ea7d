"""Nothing that differs in one bit from a sealed blueprint opens, signed again or not."""

from dataclasses import replace

import pytest

from federation import dsse
from federation.blueprint import envelope
from federation.blueprint.errors import RefusalError
from federation.blueprint.statement import PAYLOAD_TYPE
from kit import canonical
from tests.fakes.federation import claims, mechanism


@pytest.fixture(scope="module")
def honest(world):
    """Sealed with every unit in every step: that epsilon is one formula, and checked at once."""
    gaussian = mechanism(sample_rate=1.0, noise_multiplier=20.0)
    return world.seal(world.a, claimed=claims(gaussian=gaussian))


def flips(data):
    """Yield `data` with one bit flipped in each byte."""
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        yield bytes(altered)


def never_opens(world, sealed, latest):
    with pytest.raises(RefusalError) as caught:
        world.open(world.a, sealed)
    assert caught.value.step <= latest


def test_no_flipped_bit_of_the_envelope_opens(world, honest):
    assert world.open(world.a, honest)
    for altered in flips(honest.envelope):
        never_opens(world, replace(honest, envelope=altered), latest=4)


def test_no_flipped_bit_of_the_wrapped_key_opens(world, honest):
    assert world.open(world.a, honest)
    for altered in flips(honest.wrapped_key):
        never_opens(world, replace(honest, wrapped_key=altered), latest=15)


def test_no_flipped_bit_of_the_ciphertext_opens(world, honest):
    assert world.open(world.a, honest)
    for altered in flips(honest.ciphertext):
        never_opens(world, replace(honest, ciphertext=altered), latest=16)


def test_no_cut_or_lengthened_part_opens(world, honest):
    assert world.open(world.a, honest)
    for part in ("envelope", "wrapped_key", "ciphertext"):
        data = getattr(honest, part)
        for altered in (b"", data[:-1], data[1:], data + b"\0", data * 2):
            never_opens(world, replace(honest, **{part: altered}), latest=16)


def test_no_flipped_bit_of_a_wrapped_key_opens_even_when_it_is_signed_again(world, honest, resign):
    assert world.open(world.a, honest)
    for altered in list(flips(honest.wrapped_key))[::16]:

        def vouch(table, altered=altered):
            table["subject"][3]["digest"]["sha256"] = canonical.digest(altered)

        signed = replace(resign(honest, vouch), wrapped_key=altered)
        world.verify(world.a, signed)
        never_opens(world, signed, latest=17)


def test_no_flipped_bit_of_a_ciphertext_opens_even_when_it_is_signed_again(world, honest, resign):
    assert world.open(world.a, honest)
    for altered in list(flips(honest.ciphertext))[::3]:

        def vouch(table, altered=altered):
            table["subject"][0]["digest"]["sha256"] = canonical.digest(altered)

        signed = replace(resign(honest, vouch), ciphertext=altered)
        world.verify(world.a, signed)
        never_opens(world, signed, latest=18)


# What a site may say otherwise about the same weights: its own word, which no byte contradicts.
FREE = {
    ("predicate", "gate", "report"),
    ("predicate", "privacy", "ledger", "head"),
    ("predicate", "privacy", "ledger", "counter"),
    ("predicate", "privacy", "parameters", "epsilon"),
    ("predicate", "privacy", "parameters", "steps"),
    ("predicate", "privacy", "parameters", "delta"),
}


def leaves(value, path=()):
    """Yield the path of every string, number and boolean of a JSON value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


def altered(value):
    """Return other values of the same kind."""
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return ["0" * 64]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return [value + "0", ("1" if value[:1] == "0" else "0") + value[1:], value.upper() + "X"]


def test_no_changed_field_opens_even_when_it_is_signed_again(world, honest, resign):
    assert world.open(world.a, honest)
    table = canonical.decode(dsse.parse(honest.envelope, PAYLOAD_TYPE).payload)
    paths = [path for path in leaves(table) if path not in FREE]
    assert len(paths) == len(list(leaves(table))) - len(FREE)
    for path in paths:
        place = table
        for name in path[:-1]:
            place = place[name]
        for value in altered(place[path[-1]]):

            def change(other, path=path, value=value):
                for name in path[:-1]:
                    other = other[name]
                other[path[-1]] = value

            with pytest.raises(RefusalError):
                world.open(world.a, resign(honest, change))


def test_parts_of_two_blueprints_do_not_mix(world, honest):
    other = world.seal(world.a, context=world.context(world.a, seq=8, id="b-2"))
    assert world.open(world.a, honest) == world.open(world.a, other)
    for part in ("envelope", "wrapped_key", "ciphertext"):
        never_opens(world, replace(honest, **{part: getattr(other, part)}), latest=16)


def test_a_plaintext_opens_under_no_other_statement(world, honest):
    other = world.seal(world.a, context=world.context(world.a, seq=8, id="b-2"))
    key = envelope.unwrap_key(honest.wrapped_key, world.recipient_seed, honest.statement)
    assert envelope.open_payload(honest.ciphertext, key, honest.statement)
    moved = replace(
        other.statement,
        ciphertext_sha256=honest.statement.ciphertext_sha256,
        ciphertext_length=honest.statement.ciphertext_length,
    )
    with pytest.raises(RefusalError) as caught:
        envelope.open_payload(honest.ciphertext, key, moved)
    assert caught.value.step == 18
