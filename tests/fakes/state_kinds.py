"""A plugin: which database the coordinators of the tests have (`-p` in pyproject.toml).

`--state=postgresql`: every one keeps its state there. Without it they use SQLite, and tests marked
`both_states` run on each of the two.
"""

import pytest

from tests.fakes import states


def pytest_addoption(parser):
    parser.addoption(
        "--state",
        choices=(states.SQLITE, states.POSTGRESQL),
        help="where coordinators of the tests keep their state",
    )


def pytest_generate_tests(metafunc):
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if "both_states" in marks and metafunc.config.getoption("--state") is None:
        postgresql = pytest.param(states.POSTGRESQL, marks=pytest.mark.postgresql)
        kinds = [states.SQLITE, postgresql]
        metafunc.parametrize("state_kind", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def state_kind(request):
    """The kind of database that a coordinator made now has."""
    default = request.config.getoption("--state") or states.SQLITE
    with states.KINDS.chosen(getattr(request, "param", default)):
        yield states.KINDS.now


@pytest.fixture(autouse=True)
def _drop_databases(state_kind):
    with states.KINDS.dropped():
        yield


def pytest_unconfigure():
    states.KINDS.stop()
