"""Foreign bytes make a reader return or raise a `KitError`, in bounded time and memory.

`FUZZ_EXAMPLES` sets how many documents each reader gets; `make fuzz` gives many.
"""

import json
import os
import random
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.errors import KitError
from tests.fuzz.edits import edit_bytes, edit_json
from tests.fuzz.parsers import MIB, TARGETS

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "30"))
LONGEST = timedelta(seconds=20)  # one document; a busy machine, and no reader works for seconds


@cache
def seeds(name):
    return TARGETS[name].seeds()


@st.composite
def documents(draw, name):
    """Draw bytes: any at all, or a good document with edits of its bytes or of its JSON."""
    how = draw(st.sampled_from(("any", "bytes", "bytes", "bytes", "fields", "fields")))
    if how == "any":
        return draw(st.binary(max_size=400))
    good = draw(st.sampled_from(seeds(name)))
    rng = random.Random(draw(st.integers(0, (1 << 64) - 1)))
    if how == "fields" and good[:1] == b"{":
        table = json.loads(good)
        for _ in range(draw(st.integers(1, 3))):
            edit_json(rng, table)
            if not isinstance(table, dict) or not table:
                break
        return json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    return edit_bytes(rng, good)


@contextmanager
def memory_bounded(limit):
    """Check that the block's peak of resident memory is at most `limit` bytes over its start."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
    before = resident("VmHWM")
    yield
    grown = resident("VmHWM") - before
    assert grown <= limit, f"{grown / MIB:.0f} MiB more"


def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_its_good_documents(name):
    for good in seeds(name):
        TARGETS[name].read(good)


@pytest.mark.parametrize("name", TARGETS)
def test_foreign_bytes_are_read_or_refused_in_bounded_time_and_memory(name):
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=LONGEST,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(data=documents(name))
    def check(data):
        # The memory of this document, not of all that were drawn; and no other error.
        with memory_bounded(target.memory_bytes), suppress(KitError):
            target.read(data)

    seeds(name)
    check()


def test_the_bound_on_memory_would_notice():
    with memory_bounded(8 * MIB):
        bytearray(1 << 10)
    with pytest.raises(AssertionError, match="MiB more"), memory_bounded(8 * MIB):
        bytearray(os.urandom(64 * MIB))
