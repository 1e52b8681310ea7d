import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import kem
from pki.errors import IdentityError

SEED = bytes(range(32))
PUBLIC = kem.public_key(SEED)
KEY, INFO = b"k" * 32, b"info"


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=60))
def test_a_wrapped_key_opens_for_its_seed_and_info(key, info):
    wrapped = kem.wrap(key, PUBLIC, info=info)
    assert len(wrapped) == kem.WRAPPED_BYTES
    assert kem.unwrap(wrapped, SEED, info=info) == key


def test_wrapping_twice_gives_different_bytes():
    assert kem.wrap(KEY, PUBLIC, info=INFO) != kem.wrap(KEY, PUBLIC, info=INFO)


def test_a_wrapped_key_opens_for_nobody_and_nothing_else():
    wrapped = kem.wrap(KEY, PUBLIC, info=INFO)
    assert kem.unwrap(wrapped, SEED, info=INFO) == KEY
    for info in (b"", b"Info", b"info\0"):
        with pytest.raises(IdentityError):
            kem.unwrap(wrapped, SEED, info=info)
    with pytest.raises(IdentityError):
        kem.unwrap(wrapped, kem.new_seed(), info=INFO)


def test_no_flipped_bit_cut_or_added_byte_of_a_wrapped_key_opens():
    wrapped = kem.wrap(KEY, PUBLIC, info=INFO)
    assert kem.unwrap(wrapped, SEED, info=INFO) == KEY
    for position in range(len(wrapped)):
        altered = bytearray(wrapped)
        altered[position] ^= 1 << position % 8
        with pytest.raises(IdentityError):
            kem.unwrap(bytes(altered), SEED, info=INFO)
    for length in (0, 1, 32, 1120, 1136, len(wrapped) - 1):
        with pytest.raises(IdentityError):
            kem.unwrap(wrapped[:length], SEED, info=INFO)
    with pytest.raises(IdentityError):
        kem.unwrap(wrapped + b"\0", SEED, info=INFO)


def test_bytes_that_are_no_public_key_are_refused():
    kem.wrap(KEY, PUBLIC, info=INFO)
    out_of_range = b"\xff" * 1184 + PUBLIC[1184:]  # coefficients not below 3329
    low_order = PUBLIC[:1184] + bytes(32)
    for public in (b"", PUBLIC[:-1], PUBLIC + b"\0", out_of_range, low_order):
        with pytest.raises(IdentityError):
            kem.wrap(KEY, public, info=INFO)


def test_a_seed_has_32_bytes():
    assert len(kem.new_seed()) == kem.SEED_BYTES
    assert kem.new_seed() != kem.new_seed()
    for seed in (b"", SEED[:-1], SEED + b"\0"):
        with pytest.raises(IdentityError):
            kem.public_key(seed)


def test_a_public_key_is_a_function_of_its_seed():
    assert len(PUBLIC) == kem.PUBLIC_BYTES
    assert kem.public_key(SEED) == PUBLIC
    assert kem.public_key(SEED[::-1]) != PUBLIC
    assert kem.key_id(PUBLIC) != kem.key_id(kem.public_key(SEED[::-1]))
