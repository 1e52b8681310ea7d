"""A plugin: which database the coordinators of the tests have (`-p` in pyproject.toml).

`--state=postgresql`: every one keeps its state there. Without it they use SQLite, and tests marked
`both_states` run on each of the two. What is marked `sqlite` is about its file, and runs there
only.
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
    if (
        "both_states" in marks
        and "sqlite" not in marks
        and metafunc.config.getoption("--state") is None
    ):
        postgresql = pytest.param(states.POSTGRESQL, marks=pytest.mark.postgresql)
        kinds = [states.SQLITE, postgresql]
        metafunc.parametrize("state_kind", kinds, indirect=True, scope="session")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--state") == states.POSTGRESQL:
        other = [item for item in items if item.get_closest_marker("sqlite")]
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if item not in other]


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
