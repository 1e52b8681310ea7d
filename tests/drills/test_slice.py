"""The drills that take a second, in the suite; `make drills` carries out all of them."""

import time

import pytest

from tests.drills import certificates, clocks_and_logs
from tests.drills.__main__ import bounded
from tests.fakes import site

CHEAP = (
    certificates.expired,
    certificates.wrong_name,
    certificates.wrong_usage,
    certificates.foreign,
    certificates.revoked,
    clocks_and_logs.two_days,
    clocks_and_logs.fork,
)


@pytest.mark.parametrize("drill", CHEAP, ids=lambda drill: drill.__name__)
def test_drill(drill, tmp_path, tmp_path_factory):
    assert drill(site.copy("enrolled", tmp_path, tmp_path_factory.getbasetemp()))


def test_a_drill_that_does_not_end_is_ended():
    with bounded(30):
        time.sleep(0.01)
    with pytest.raises(TimeoutError, match="not done within 1 s"), bounded(1):
        time.sleep(20)
