"""HKDF against the vectors of RFC 5869 appendix A (the SHA-256 ones), and the seed tree's laws."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kit import seeds

RFC5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x00, 0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6"
        "5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "0b" * 22,
        "",
        "",
        42,
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]
LABELS = st.lists(st.text(max_size=6), min_size=1, max_size=4)


@pytest.mark.parametrize(("secret", "salt", "info", "length", "expected"), RFC5869)
def test_hkdf_gives_the_values_of_rfc_5869(secret, salt, info, length, expected):
    key = seeds.hkdf(
        bytes.fromhex(secret), bytes.fromhex(info), length=length, salt=bytes.fromhex(salt)
    )
    assert key.hex() == expected


@pytest.mark.parametrize("length", [0, -1, 255 * 32 + 1])
def test_hkdf_refuses_lengths_that_it_cannot_give(length):
    assert len(seeds.hkdf(b"s", b"i", length=255 * 32)) == 255 * 32
    with pytest.raises(RuntimeError):
        seeds.hkdf(b"s", b"i", length=length)


@given(LABELS, LABELS)
def test_two_paths_share_a_seed_only_if_they_are_the_same(one, other):
    assume(one != other)
    assert seeds.derive(b"secret", *one) != seeds.derive(b"secret", *other)


def test_labels_are_not_joined():
    assert seeds.derive(b"s", "ab", "c") != seeds.derive(b"s", "a", "bc")
    assert seeds.derive(b"s", "ab") != seeds.derive(b"s", "a", "b")
    assert seeds.derive(b"s", "ab") == seeds.derive(b"s", b"ab")
    assert seeds.derive(b"s", "ab") != seeds.derive(b"t", "ab")


@given(st.binary(max_size=40), LABELS)
def test_a_seed_fits_63_bits(secret, labels):
    assert 0 <= seeds.seed(secret, *labels) < 1 << 63


def test_the_seed_of_a_path_never_changes():
    assert seeds.seed(b"secret", "shard", "cat") == 291316920133715829
