"""A federation at each stage of its life, copied for the test that asks for it."""

import pytest

from tests.fakes import site


@pytest.fixture
def enrolled(tmp_path, tmp_path_factory):
    """A study and the enrolled sites a, b and c, each with a finished run."""
    return site.copy("enrolled", tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def pending(tmp_path, tmp_path_factory):
    """Three blueprints that wait for review."""
    return site.copy("pending", tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def approved(tmp_path, tmp_path_factory):
    """Three approved blueprints."""
    return site.copy("approved", tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def released(tmp_path, tmp_path_factory):
    """A release made from all three."""
    return site.copy("released", tmp_path, tmp_path_factory.getbasetemp())
