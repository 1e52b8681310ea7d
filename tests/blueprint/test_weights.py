import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.blueprint import limits, weights
from kit import canonical
from kit.errors import FormatError

safetensors = pytest.importorskip("safetensors", reason="the safetensors package is not installed")

NAMES = st.text("abcdef._0123", min_size=1, max_size=8)
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
TABLES = st.dictionaries(NAMES, SHAPES, min_size=1, max_size=4)


def exact(shape, seed=0):
    """Return values that bfloat16 holds exactly."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32).reshape(shape)


def table_of(tensors):
    return {name: ("BF16", array.shape) for name, array in tensors.items()}


@settings(max_examples=50)
@given(TABLES)
def test_values_that_bfloat16_holds_read_back_exactly(shapes):
    tensors = {name: exact(shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    data = weights.write(tensors)
    back = weights.read(data, table_of(tensors))
    assert set(back) == set(tensors)
    for name, array in tensors.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], array)


@settings(max_examples=30)
@given(TABLES)
def test_one_set_of_tensors_has_one_byte_string(shapes):
    tensors = {name: exact(shape, seed=1) for name, shape in shapes.items()}
    backwards = dict(reversed(tensors.items()))
    assert weights.write(tensors) == weights.write(backwards)


@settings(max_examples=30)
@given(TABLES)
def test_the_safetensors_library_reads_ours(shapes):
    tensors = {name: exact(shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    found = dict(safetensors.deserialize(weights.write(tensors)))
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        assert found[name]["dtype"] == "BF16"
        assert tuple(found[name]["shape"]) == array.shape
        bits = np.frombuffer(bytes(found[name]["data"]), dtype="<u2")
        np.testing.assert_array_equal(bits, (array.view(np.uint32) >> 16).ravel())


def test_the_header_is_sorted_canonical_and_aligned():
    head = weights.header({"b": ("BF16", (2,)), "a": ("BF16", (1, 3))})
    length = int.from_bytes(head[:8], "little")
    assert length == len(head) - 8
    assert length % 8 == 0
    text = head[8:].rstrip(b" ")
    assert canonical.decode(text) == {
        "a": {"data_offsets": [0, 6], "dtype": "BF16", "shape": [1, 3]},
        "b": {"data_offsets": [6, 10], "dtype": "BF16", "shape": [2]},
    }


def test_rounding_is_unbiased():
    """The mean of n roundings is the value within 5 sigma; one rounding has sigma <= ulp / 2."""
    count = 40_000
    for value in (1.0 + 1 / 1024, 0.3, -0.7, 3.14159, 1e-5, -123.4):
        data = weights.write({"x": np.full(count, value, dtype=np.float32)})
        rounded = weights.read(data, {"x": ("BF16", (count,))})["x"].astype(np.float64)
        low, high = rounded.min(), rounded.max()
        exactly = float(np.float32(value))
        assert low < exactly < high
        assert set(np.unique(rounded)) == {low, high}
        share = (exactly - low) / (high - low)
        sigma = (high - low) * math.sqrt(share * (1 - share) / count)
        assert abs(rounded.mean() - exactly) < 5 * sigma


def test_covert_channel_rounding_is_fresh_at_every_write():
    values = {"x": np.full(4096, 0.3, dtype=np.float32)}
    assert weights.write(values) != weights.write(values)


def test_covert_channel_rounding_goes_to_a_neighbour_and_keeps_what_bfloat16_holds():
    values = np.random.default_rng(3).normal(size=5000).astype(np.float32)
    back = weights.read(weights.write({"x": values}), {"x": ("BF16", (5000,))})["x"]
    assert np.all(np.abs(back - values) < np.abs(values) * 2.0**-7)
    zero = weights.read(weights.write({"x": np.zeros(9, np.float32)}), {"x": ("BF16", (9,))})["x"]
    assert not zero.any()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, 1.1e4, -1.1e4, 3.4e38])
def test_values_that_are_not_finite_or_over_the_limit_are_neither_written_nor_read(bad):
    good = {"x": np.array([1.0, 2.0], dtype=np.float32)}
    table = table_of(good)
    data = weights.write(good)
    weights.read(data, table)
    worse = np.array([1.0, bad], dtype=np.float32)
    with pytest.raises(FormatError, match="tensor `x`"):
        weights.write({"x": worse})
    raw = weights.header(table) + (worse.view(np.uint32) >> 16).astype("<u2").tobytes()
    with pytest.raises(FormatError, match="tensor `x`"):
        weights.read(raw, table)


def test_every_nan_pattern_is_refused_before_it_is_rounded():
    for bits in (0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFC00000, 0xFF800001):
        values = np.array([bits], dtype=np.uint32).view(np.float32)
        with pytest.raises(FormatError, match="not finite"):
            weights.write({"x": values})
    assert weights.write({"x": np.array([1e-40], dtype=np.float32)})


def test_what_was_written_can_be_read_even_at_the_limit():
    limit = np.float32(limits.MAX_ABS_WEIGHT)
    table = {"x": ("BF16", (1,))}
    for value in (limit, -limit, np.nextafter(limit, np.float32(0)), np.float32(9984)):
        tensors = {"x": np.array([value], dtype=np.float32)}
        for _ in range(20):
            try:
                data = weights.write(tensors)
            except FormatError:
                continue
            weights.read(data, table)
    assert weights.read(weights.write({"x": np.array([9984], np.float32)}), table)["x"] == 9984


def test_a_norm_over_the_limit_is_refused():
    side = int(limits.MAX_TENSOR_NORM / 9984) ** 2
    within = {"x": np.full(side // 2, 9984, dtype=np.float32)}
    over = {"x": np.full(2 * side, 9984, dtype=np.float32)}
    weights.read(weights.write(within), table_of(within))
    with pytest.raises(FormatError, match="norm over the limit"):
        weights.write(over)


def test_too_many_tensors_and_other_types_are_refused():
    most = {f"t{i}": ("BF16", ()) for i in range(limits.MAX_TENSORS)}
    assert weights.payload_bytes(most) == 2 * limits.MAX_TENSORS
    weights.header(most)
    with pytest.raises(FormatError, match="more than"):
        weights.header(most | {"one-more": ("BF16", ())})
    with pytest.raises(FormatError, match="is not BF16"):
        weights.header({"x": ("F32", (1,))})


def test_a_table_reads_back_from_json():
    table = {"a": ("BF16", (2, 3)), "b": ("BF16", ())}
    as_json = {name: [dtype, list(shape)] for name, (dtype, shape) in table.items()}
    assert weights.table_from_json(as_json) == table
    with pytest.raises(FormatError):
        weights.table_from_json([])
