from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import clock
from kit.errors import FormatError

MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda t: t.replace(microsecond=0))


@given(MOMENTS)
def test_a_time_reads_back_what_was_written(moment):
    assert clock.parse_rfc3339(clock.rfc3339(moment)) == moment


@given(MOMENTS, MOMENTS)
def test_text_sorts_as_time_does(one, other):
    assert (clock.rfc3339(one) < clock.rfc3339(other)) is (one < other)


def test_other_zones_are_written_in_utc():
    moment = datetime(2026, 1, 31, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    assert clock.rfc3339(moment) == "2026-01-31T12:00:00Z"


def test_a_time_without_a_zone_is_a_programming_error():
    with pytest.raises(RuntimeError):
        clock.rfc3339(datetime(2026, 1, 31))


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00Z",
        "2026-01-31t12:00:00z",
        "2026-01-31T12:00:00+00:00",
        "2026-01-31T12:00:00.0Z",
        "2026-1-31T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:60Z",
        "0000-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n",
        "\u0662\u0660\u0662\u0666-01-31T12:00:00Z",
        "\uff12026-01-31T12:00:00Z",
        None,
        1769860800,
    ],
)
def test_every_other_spelling_of_a_time_is_refused(text):
    assert clock.parse_rfc3339("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(FormatError):
        clock.parse_rfc3339(text)


def test_now_has_a_zone_and_whole_seconds():
    now = clock.utc_now()
    assert now.tzinfo is UTC
    assert now.microsecond == 0
    assert abs(datetime.now(UTC) - now) < timedelta(seconds=5)
