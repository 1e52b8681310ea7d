from dataclasses import replace

import numpy as np
import pytest

from federation.release import base as rules
from federation.release.base import Base, Manifest, Origin
from federation.release.statement import Artefact, Release, Role
from kit import canonical
from kit.errors import FormatError
from tests.fakes import federation

TABLE = {"a": ("BF16", (2, 3)), "b": ("BF16", (1,))}
ARCHITECTURE = {"kind": "hand-made", "preset": "tiny"}
TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([0.5], dtype=np.float32),
}
MANIFEST = Manifest(
    study="1" * 64,
    architecture=ARCHITECTURE,
    origin=Origin.PROCEDURAL,
    recipe={"seed": 1},
    numerics="2" * 64,
    weights_sha256="0" * 64,
)


@pytest.fixture(scope="module")
def world():
    return federation.found()


@pytest.fixture
def base():
    return rules.make(TENSORS, MANIFEST)


def test_a_base_reads_back_as_it_was_written(base):
    found = Base.from_bytes(base.to_bytes())
    assert (found, found.digest) == (base, canonical.digest(base.to_bytes()))
    arrays = found.arrays(ARCHITECTURE, TABLE)
    assert all((arrays[name] == TENSORS[name]).all() for name in TABLE)


def test_no_byte_of_a_base_can_be_another(base):
    """Each changes the digest that names it; what still reads says so itself in its manifest."""
    data, survivors = base.to_bytes(), 0
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        try:
            found = Base.from_bytes(changed)
        except FormatError:
            continue
        survivors += 1
        assert found.digest != base.digest
        assert found.manifest != base.manifest
        assert found.weights == base.weights
    assert 0 < survivors < len(data) / 2
    assert Base.from_bytes(data) == base


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[8:],
        lambda data: (rules.MAX_MANIFEST_BYTES + 1).to_bytes(8, "little") + data[8:],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b"procedural", b"a-hospital"),
        lambda data: data.replace(b'"version":1', b'"version":2'),
    ],
)
def test_a_file_that_is_no_base_is_refused(base, change):
    assert Base.from_bytes(base.to_bytes()) == base
    with pytest.raises(FormatError):
        Base.from_bytes(change(base.to_bytes()))


def test_a_base_is_for_one_architecture_and_one_table(base):
    assert base.arrays(ARCHITECTURE, TABLE)
    with pytest.raises(FormatError, match="another architecture") as refusal:
        base.arrays({**ARCHITECTURE, "preset": "small"}, TABLE)
    assert "tiny" in refusal.value.hint
    with pytest.raises(FormatError, match="header"):
        base.arrays(ARCHITECTURE, {**TABLE, "b": ("BF16", (2,))})
    wild = {**TENSORS, "b": np.array([np.inf], dtype=np.float32)}
    with pytest.raises(FormatError, match="not finite"):
        rules.make(wild, MANIFEST)


def test_a_release_of_a_base_has_no_ancestors_and_no_personal_data(world):
    artefact = Artefact(
        role=Role.INITIAL_WEIGHTS,
        media_type=rules.MEDIA_TYPE,
        sha256="3" * 64,
        length=9,
        licence=rules.LICENCE,
    )
    built = federation.release(world, "4" * 64)
    offered = replace(built, artefacts=(artefact,), ancestors=())
    found = Release.from_bytes(offered.to_bytes())
    assert (found.is_base, found.digest) == (True, "3" * 64)
    assert not Release.from_bytes(built.to_bytes()).is_base
    for change in ({"ancestors": ("4" * 64,)}, {"personal_data": True}):
        with pytest.raises(FormatError, match="is no base"):
            Release.from_bytes(replace(offered, **change).to_bytes())
        assert Release.from_bytes(replace(built, **change).to_bytes())
