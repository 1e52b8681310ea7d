"""Every hostile vector is refused by the step in its name, and every control opens."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from federation.blueprint.errors import RefusalError
from federation.learning.generator.architecture import (
    Architecture,
    class_embedding_name,
    expected_tensors,
)
from tests.fakes.forge import MEANS, STATISTICS, STATISTICS_TABLE, Forge
from tests.vectors import hostile
from tests.vectors.write_hostile import catalogue

ROOT = Path(__file__).parents[2]
CATALOGUE = catalogue()
COMMITTED = [path for paths in hostile.committed().values() for path in paths]
SHARED = {folder: hostile.read_shared(folder) for folder in hostile.FOLDERS}


def step_that_refuses(verifier, case):
    """Return the number of the step that refuses a case, 0 if it opens."""
    try:
        verifier.open(case)
    except RefusalError as error:
        return error.step
    return 0


@cache
def committed(path):
    return hostile.read(path, SHARED[path.parent][1])


@cache
def controls_open(folder, family):
    vectors = [committed(path) for path in COMMITTED if path.parent == folder]
    controls = [v for v in vectors if (v.step, v.family) == (0, family)]
    verifier = SHARED[folder][0]
    return bool(controls) and all(step_that_refuses(verifier, v.case) == 0 for v in controls)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_committed_vector_is_refused_by_the_step_in_its_name(path):
    vector = committed(path)
    assert controls_open(path.parent, vector.family)
    assert int(path.stem[:2]) == vector.step
    assert step_that_refuses(SHARED[path.parent][0], vector.case) == vector.step


def test_vectors_made_today_are_refused_by_the_same_steps():
    forge = Forge()
    found = {v.name: step_that_refuses(forge.verifier, v.make(forge)) for v in CATALOGUE}
    assert found == {vector.name: vector.step for vector in CATALOGUE}


def test_every_vector_of_the_script_is_committed():
    assert set(hostile.committed()) == {vector.name for vector in CATALOGUE}


def test_every_step_has_three_vectors_and_all_have_150():
    count = Counter(vector.step for vector in CATALOGUE)
    assert len({vector.name for vector in CATALOGUE}) == len(CATALOGUE)
    assert all(count[step] >= 3 for step in range(1, 23))
    assert sum(count.values()) - count[0] > 350  # what the specification says; 150 are wanted


def test_the_readme_knows_every_advisory_and_names_only_what_exists():
    readme = (hostile.FOLDER.parent / "README.md").read_text()
    section = readme.partition("## What other platforms accepted")[2].partition("\n## ")[0]
    names = {vector.name for vector in CATALOGUE}
    known = names | {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/*/*.py")}
    shown = re.findall(r"`([^` ]+)`", section)
    assert len(shown) > 30
    assert [name for name in shown if name not in known] == []
    said = " ".join(vector.peer for vector in CATALOGUE)
    advisories = set(re.findall(r"CVE-[0-9]+-[0-9]+|GHSA-[a-z0-9-]{14}", said))
    assert len(advisories) > 15
    assert {name for name in advisories if name not in section} == set()


def test_the_second_kind_is_forged_with_the_table_that_the_registry_derives():
    architecture = Architecture.from_table(STATISTICS)
    assert expected_tensors(architecture) == STATISTICS_TABLE
    assert class_embedding_name(architecture) == MEANS


def test_every_family_has_its_control():
    families = {vector.family for vector in CATALOGUE}
    assert families == {vector.family for vector in CATALOGUE if vector.step == 0}


def test_writing_a_set_and_reading_it_changes_nothing(tmp_path):
    forge = Forge()
    ends = ("again", "cut-off", "limit", "no-certificate", "last-tag", "end")
    chosen = [v for v in CATALOGUE if v.name.endswith(ends)]
    hostile.write(tmp_path / "set", forge, chosen)
    verifier, shared = hostile.read_shared(tmp_path / "set")
    assert verifier == forge.verifier
    assert len(chosen) > 5
    for vector in chosen:
        written = hostile.read(tmp_path / "set" / f"{vector.name}.json", shared)
        assert step_that_refuses(verifier, written.case) == vector.step
