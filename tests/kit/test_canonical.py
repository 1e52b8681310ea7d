import json
import math
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit import canonical
from kit.errors import FormatError

INTEGERS = st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(VALUES)
def test_what_is_encoded_decodes_to_the_same_value_and_bytes(value):
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


@given(VALUES)
def test_encoding_agrees_with_a_plain_json_reader(value):
    assert json.loads(canonical.encode(value)) == value


def test_the_order_in_which_keys_were_written_does_not_matter():
    assert canonical.encode({"b": 1, "a": 2}) == canonical.encode({"a": 2, "b": 1})
    assert canonical.encode({"b": 1, "a": 2}) == b'{"a":2,"b":1}'


@pytest.mark.parametrize(
    "other",
    [
        b'{"b":2,"a":1}',
        b'{"a":1, "b":2}',
        b'{"a":1,"b":2}\n',
        b' {"a":1,"b":2}',
        b'{"a":1,"a":1,"b":2}',
        b'{"a":1,"b":2,"b":2}',
        b'{"\\u0061":1,"b":2}',
        b'{"a":1,"b":2.0}',
        b'{"a":1,"b":2e0}',
        b'{"a":1,"b":02}',
        b'{"a":1,"b":+2}',
        b'{"a":1,"b":NaN}',
        b'{"a":1,"b":Infinity}',
        b'{"a":1,"b":2}{}',
        b'\xef\xbb\xbf{"a":1,"b":2}',
        '{"a":1,"b":2}'.encode("utf-16"),
        b'{"a":1,"b":"\xff"}',
        b'{"a":1,"b":"\\u00E9"}',
        '{"a":1,"b":"é"}'.encode(),
        b'{"a":1,"b":9007199254740992}',
        b'{"a":1,"b":' + b"9" * 5000 + b"}",
        b"",
        b"{",
    ],
)
def test_decode_refuses_every_other_spelling(other):
    assert canonical.decode(b'{"a":1,"b":2}') == {"a": 1, "b": 2}
    with pytest.raises(FormatError):
        canonical.decode(other)


def test_decode_refuses_input_over_its_limit_and_nesting_over_the_depth():
    assert canonical.decode(b"[1]", limit=3) == [1]
    with pytest.raises(FormatError, match="limit of 2"):
        canonical.decode(b"[1]", limit=2)
    deep = canonical.MAX_DEPTH
    assert canonical.decode(b"[" * deep + b"]" * deep)
    for depth in (deep + 2, 100_000):
        with pytest.raises(FormatError):
            canonical.decode(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("value", [0.5, {1: "a"}, b"bytes", 1 << 53, -(1 << 53), object(), {"a"}])
def test_encode_refuses_what_has_no_canonical_form(value):
    assert canonical.encode(["a", 1, None, True]) == b'["a",1,null,true]'
    with pytest.raises(FormatError):
        canonical.encode(value)


@given(st.binary(max_size=80))
def test_base64_reads_back_what_it_wrote(data):
    assert canonical.b64decode(canonical.b64encode(data)) == data


@pytest.mark.parametrize(
    "text",
    ["YQ", "YQ=", "YR==", "YQ==\n", " YQ==", "Y Q==", "YQ===", "-_==", "Ã¡==", None, 5, b"YQ=="],
)
def test_base64_refuses_every_other_spelling(text):
    assert canonical.b64decode("YQ==") == b"a"
    with pytest.raises(FormatError):
        canonical.b64decode(text)


def test_base64_refuses_text_over_its_limit():
    assert canonical.b64decode("YQ==", limit=4) == b"a"
    with pytest.raises(FormatError, match="too long"):
        canonical.b64decode("YQ==", limit=3)


@given(FINITE)
def test_a_real_reads_back_exactly(value):
    back = canonical.to_float(canonical.real(value))
    assert back == value
    assert math.copysign(1, back) == math.copysign(1, value + 0.0)  # zero has no sign


@given(FINITE, FINITE)
@example(0.0, -0.0)
def test_two_reals_share_a_spelling_only_if_they_are_equal(one, other):
    same = one == other  # zero has no sign
    assert (canonical.real(one) == canonical.real(other)) is same


@pytest.mark.parametrize(
    "text",
    [
        *("1", "1.50", "01.5", "1.5 ", "1,5", "1.5e+3", "1e5", "15e-1", "nan", "inf", "-inf"),
        *("1e999", "0x1p3", "1_0.0", "1\u066b5", "", "+1.5", ".5", 1.5, 1, None),
    ],
)
def test_to_float_refuses_every_other_spelling(text):
    assert canonical.to_float("1.5") == 1.5
    with pytest.raises(FormatError):
        canonical.to_float(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_real_refuses_what_is_not_finite(value):
    assert canonical.real(1e-6) == "1e-06"
    with pytest.raises(FormatError):
        canonical.real(value)


@given(st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True))
def test_names_of_the_closed_set_pass_unchanged(text):
    if ".." in text:
        with pytest.raises(FormatError):
            canonical.name(text)
    else:
        assert canonical.name(text) == text


@given(st.text(max_size=70))
def test_a_name_never_carries_anything_but_its_closed_set(text):
    try:
        name = canonical.name(text)
    except FormatError:
        return
    assert set(name) <= set(string.ascii_lowercase + string.digits + "._-")
    assert 0 < len(name) <= 63
    assert ".." not in name


HOSTILE = [
    "",
    "\x1b[31mred",
    "cat\n",
    "cat\x00",
    "=cmd()",
    "+1",
    "-1",
    "@x",
    " cat",
    "cat ",
    "ca\u202et",
    "c\u0430t",
    "x" * 65,
    "ca\u200bt",
    "\uff43\uff41\uff54",
    "cat;",
    "a\tb",
    None,
    7,
    ["cat"],
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_no_label_and_no_name(text):
    assert canonical.label("Cardiomegaly (mild)") == "Cardiomegaly (mild)"
    assert canonical.name("site-a") == "site-a"
    for check in (canonical.label, canonical.name):
        with pytest.raises(FormatError) as caught:
            check(text)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["..", "a..b", "../a", "a/b", "A", "-a", "a-", ".a", "a" * 64])
def test_a_name_is_no_path_and_has_no_capitals(text):
    assert canonical.name("a.b-c_9") == "a.b-c_9"
    with pytest.raises(FormatError):
        canonical.name(text)


@pytest.mark.parametrize("text", ["A" * 64, "0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n", None, 0])
def test_a_digest_is_64_lower_case_hexadecimal_digits(text):
    assert canonical.sha256_hex("0a" * 32) == "0a" * 32
    with pytest.raises(FormatError):
        canonical.sha256_hex(text)


@given(st.text())
def test_printable_shows_only_printable_ascii(text):
    shown = canonical.printable(text, width=20)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 23


@pytest.mark.parametrize("value", [True, False, 0, 4, 1.0, "1", None])
def test_integer_refuses_booleans_reals_and_what_is_out_of_range(value):
    assert canonical.integer(1, low=1, high=3, what="n") == 1
    assert canonical.integer(3, low=1, high=3, what="n") == 3
    with pytest.raises(FormatError):
        canonical.integer(value, low=1, high=3, what="n")


@pytest.mark.parametrize("value", [{}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, [], "ab", None])
def test_fields_wants_exactly_the_expected_keys(value):
    assert canonical.fields({"a": 1, "b": 2}, {"a", "b"}, what="it") == {"a": 1, "b": 2}
    with pytest.raises(FormatError):
        canonical.fields(value, {"a", "b"}, what="it")


@pytest.mark.parametrize("value", [True, 2, 0, "1", None, 1.0])
def test_a_version_is_one_integer_and_not_true(value):
    canonical.version(1, expected=1, what="thing")
    with pytest.raises(FormatError, match="thing version is not 1"):
        canonical.version(value, expected=1, what="thing")
