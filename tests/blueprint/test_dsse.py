import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import dsse
from kit import canonical
from kit.errors import FormatError, KitError
from pki import keys
from pki.errors import IdentityError

KIND = "application/example"
KEY = keys.new_signing_key()
PUBLIC = keys.public_bytes(KEY)
KEYID = canonical.digest(PUBLIC)
SIGNED = dsse.sign(b"payload", KIND, KEY, keyid=KEYID)


def test_the_encoding_that_is_signed_is_that_of_the_dsse_protocol():
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == expected


@given(st.binary(max_size=50), st.text(max_size=10), st.binary(max_size=50), st.text(max_size=10))
def test_two_messages_share_an_encoding_only_if_they_are_the_same(one, kind, other, sort):
    same = (one, kind) == (other, sort)
    assert (dsse.pae(kind, one) == dsse.pae(sort, other)) is same


@given(st.binary(max_size=200))
def test_what_was_signed_opens_under_the_pinned_key(payload):
    envelope = dsse.sign(payload, KIND, KEY, keyid=KEYID)
    assert dsse.open_with_key(envelope, KIND, PUBLIC) == payload


def test_an_envelope_opens_under_no_other_key():
    assert dsse.open_with_key(SIGNED, KIND, PUBLIC) == b"payload"
    other = keys.public_bytes(keys.new_signing_key())
    with pytest.raises(FormatError, match="another key"):
        dsse.open_with_key(SIGNED, KIND, other)
    claimed = dsse.sign(b"payload", KIND, KEY, keyid=canonical.digest(other))
    with pytest.raises(IdentityError):
        dsse.open_with_key(claimed, KIND, other)


def test_an_envelope_of_one_type_is_not_one_of_another():
    assert dsse.open_with_key(SIGNED, KIND, PUBLIC) == b"payload"
    with pytest.raises(FormatError, match="does not hold"):
        dsse.open_with_key(SIGNED, "application/other", PUBLIC)
    relabelled = canonical.encode(canonical.decode(SIGNED) | {"payloadType": "application/other"})
    with pytest.raises(IdentityError):
        dsse.open_with_key(relabelled, "application/other", PUBLIC)


def test_no_flipped_bit_of_an_envelope_opens():
    assert dsse.open_with_key(SIGNED, KIND, PUBLIC) == b"payload"
    for position in range(len(SIGNED)):
        altered = bytearray(SIGNED)
        altered[position] ^= 1 << position % 8
        with pytest.raises(KitError):
            dsse.open_with_key(bytes(altered), KIND, PUBLIC)


TABLE = canonical.decode(SIGNED)
SIGNATURE = TABLE["signatures"][0]


@pytest.mark.parametrize(
    "table",
    [
        {**TABLE, "extra": 1},
        {k: v for k, v in TABLE.items() if k != "payloadType"},
        {**TABLE, "payload": "cGF5bG9hZB=="},
        {**TABLE, "payload": None},
        {**TABLE, "payloadType": 1},
        {**TABLE, "signatures": []},
        {**TABLE, "signatures": [SIGNATURE, SIGNATURE]},
        {**TABLE, "signatures": SIGNATURE},
        {**TABLE, "signatures": [{**SIGNATURE, "cert": ""}]},
        {**TABLE, "signatures": [{"sig": SIGNATURE["sig"]}]},
        {**TABLE, "signatures": [{**SIGNATURE, "keyid": KEYID.upper()}]},
        {**TABLE, "signatures": [{**SIGNATURE, "keyid": ""}]},
        {**TABLE, "signatures": [{**SIGNATURE, "sig": "AAAA"}]},
        {**TABLE, "signatures": [{**SIGNATURE, "sig": SIGNATURE["sig"][:-2]}]},
        [],
        "text",
    ],
)
def test_an_envelope_of_another_form_is_refused(table):
    assert dsse.parse(SIGNED, KIND).payload == b"payload"
    with pytest.raises(FormatError):
        dsse.parse(canonical.encode(table), KIND)


def test_an_envelope_over_its_limit_is_refused():
    assert dsse.parse(SIGNED, KIND, limit=len(SIGNED)).payload == b"payload"
    with pytest.raises(FormatError, match="limit"):
        dsse.parse(SIGNED, KIND, limit=len(SIGNED) - 1)
