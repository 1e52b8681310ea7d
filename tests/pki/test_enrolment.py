from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import canonical
from kit.errors import FormatError
from pki import certificates, enrolment, keys
from pki.enrolment import Pins, Token
from tests.fakes.federation import NAME, NOW

PINS = Pins(
    federation=NAME,
    root_der=b"root",
    study_key=b"s" * 32,
    log_origin=f"{NAME}/log",
    log_key=b"l" * 32,
)
TOKEN = Token(
    site="a",
    secret=b"x" * 32,
    enrol_address="hub.example:7001",
    exchange_address="[::1]:7002",
    expires=NOW + timedelta(hours=24),
    pins=PINS,
    checkpoint="riverside/log\n0\n",
)


@given(
    secret=st.binary(min_size=1, max_size=40),
    root=st.binary(max_size=60),
    port=st.integers(1, 65535),
)
def test_a_token_reads_back_from_its_bytes(secret, root, port):
    token = replace(
        TOKEN,
        secret=secret,
        enrol_address=f"192.0.2.1:{port}",
        pins=replace(PINS, root_der=root),
    )
    assert Token.from_bytes(token.to_bytes()) == token


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"site": "A"},
        {"site": "../a"},
        {"secret": "not base64"},
        {"enrol_address": "hub.example"},
        {"expires": "tomorrow"},
        {"pins": {}},
        {"pins": PINS.to_table() | {"study_key": "AAAA"}},
        {"pins": PINS.to_table() | {"log_key": "AAAA"}},
        {"pins": PINS.to_table() | {"federation": "F"}},
        {"pins": PINS.to_table() | {"log_origin": "a\nb"}},
        {"pins": PINS.to_table() | {"extra": ""}},
        {"extra": 1},
    ],
)
def test_a_token_with_one_wrong_field_is_refused(change):
    table = canonical.decode(TOKEN.to_bytes())
    assert Token.from_bytes(canonical.encode(table)) == TOKEN
    with pytest.raises(FormatError):
        Token.from_bytes(canonical.encode(table | change))


def test_a_token_over_its_size_limit_is_refused():
    large = replace(TOKEN, pins=replace(PINS, root_der=bytes(enrolment.MAX_TOKEN_BYTES)))
    assert Token.from_bytes(TOKEN.to_bytes()) == TOKEN
    with pytest.raises(FormatError, match="limit"):
        Token.from_bytes(large.to_bytes())


def test_secrets_are_fresh_and_only_a_hash_of_them_is_kept():
    one, other = enrolment.new_secret(), enrolment.new_secret()
    assert len(one) == 32
    assert one != other
    assert enrolment.secret_hash(one) == enrolment.secret_hash(one)
    assert enrolment.secret_hash(one) != enrolment.secret_hash(other)
    assert one.hex() not in enrolment.secret_hash(one)


def test_a_key_made_from_the_secret_proves_it_to_whoever_holds_the_hash():
    secret, other = enrolment.new_secret(), enrolment.new_secret()
    key = enrolment.token_key(secret)
    public = keys.public_bytes(key)
    assert enrolment.token_hash(public) == enrolment.secret_hash(secret)
    assert enrolment.token_hash(public) != enrolment.secret_hash(other)
    keys.verify(keys.verifying_key(public), key.sign(b"request"), b"request", what="it")
    assert secret.hex() not in public.hex() + enrolment.token_hash(public)


def test_the_spoken_code_is_the_same_for_the_same_keys_and_another_for_others():
    def requests():
        made = keys.new_tls_key(), keys.new_signing_key()
        return [certificates.request(key) for key in made]

    mine, thief = requests(), requests()
    code = enrolment.confirmation_code(*mine, b"w" * 32)
    assert code == enrolment.confirmation_code(*mine, b"w" * 32)
    assert len(code) == 9
    assert code[4] == "-"
    for other in (
        enrolment.confirmation_code(*thief, b"w" * 32),
        enrolment.confirmation_code(mine[0], thief[1], b"w" * 32),
        enrolment.confirmation_code(thief[0], mine[1], b"w" * 32),
        enrolment.confirmation_code(*mine, b"v" * 32),
        enrolment.confirmation_code(mine[1], mine[0], b"w" * 32),
    ):
        assert other != code


def test_the_spoken_code_does_not_join_its_parts():
    assert enrolment.confirmation_code(b"ab", b"c") != enrolment.confirmation_code(b"a", b"bc")


@pytest.mark.parametrize(
    "text", ["hub.example:1", "a-b.c:65535", "192.0.2.1:443", "[::1]:7001", "localhost:80"]
)
def test_host_and_port_are_an_address(text):
    assert enrolment.address(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:080",
        "host:-1",
        "host:8a",
        "host:\u00b2",
        "host:\u0663",
        "host:" + "9" * 5000,
        "host :80",
        "ho/st:80",
        "user@host:80",
        "h\u00f6st:80",
        "host:80\n",
        "\x1b[31m:80",
        None,
        80,
    ],
)
def test_everything_else_is_no_address(text):
    assert enrolment.address("host:80") == "host:80"
    with pytest.raises(FormatError):
        enrolment.address(text)
