"""Nothing of the rest depends on what was revoked: a federation of four, each of them in turn.

"Never had" is meant in full: the homes were copied before anything was sent, the others came in the
opposite order, nothing lay in the store, and another process built.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from coordinator import registry
from federation.learning.generator import architecture as networks
from federation.release import onnx_lint
from federation.study import Study
from tests.fakes import clusters, four, runs, site
from tests.fakes.terminal import TIMEOUT_S, environment

# Builds the release of every hub that is named, in a process that has done nothing before.
_BUILD = """
import dataclasses, json, sys
from pathlib import Path
from coordinator import builds
from coordinator.context import Coordinator
for hub in sys.argv[2:]:
    with Coordinator.open(Path(hub)) as coordinator:
        made = builds.build(coordinator, sys.argv[1], report=lambda *_: None)
    print(json.dumps(dataclasses.asdict(made)))
"""


# `make forgetting` takes every hospital on a cluster too; the suite the one that is hardest.
ON_A_CLUSTER = tuple(four.LABELS) if os.environ.get("FORGETTING") == "whole" else ("d",)


@pytest.fixture(params=four.MODES)
def mode(request):
    return request.param


@pytest.fixture
def stage(mode, tmp_path, tmp_path_factory):
    """Return copies of a stage of the federation of four."""
    return lambda name, folder: four.copy(
        name, mode, tmp_path / folder, tmp_path_factory.getbasetemp()
    )


def in_a_fresh_process(federations):
    hubs = [str(federation.hub) for federation in federations]
    words = [sys.executable, "-c", _BUILD, site.STUDY, *hubs]
    done = subprocess.run(
        words, env=environment(), capture_output=True, timeout=TIMEOUT_S, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def without(stage, gone):
    """A federation that never had a hospital's blueprint; the others came last to first."""
    never = stage("enrolled", f"never-{gone}")
    others = [name for name in reversed(four.LABELS) if name != gone]
    assert not (never.hub / "payloads").exists()
    return four.submit(never, *others)


def revoked(stage, name):
    federation = stage("released", f"without-{name}")
    with federation.open() as coordinator:
        assert site.revocation_of(federation, coordinator, name).done
    return federation


def check_contract(federation, made):
    """Want the ONNX file itself to state these labels, and a column for each."""
    with federation.open() as coordinator:
        data = site.release_file(coordinator, made.release).read_bytes()
    contract = onnx_lint.ModelContract(channels=1, height=8, width=8, labels=made.labels)
    onnx_lint.lint(data, contract=contract)


def test_no_blueprint_of_four_leaves_a_bit_behind_in_the_others_release(stage):
    never = {name: without(stage, name) for name in four.LABELS}
    expected = dict(zip(never, in_a_fresh_process(never.values()), strict=True))
    found = {}
    for name in four.LABELS:
        federation = revoked(stage, name)
        after, wanted = site.build(federation), expected[name]
        assert (after.release, after.plan) == (wanted["release"], wanted["plan"])
        assert after.shards_generated == after.experts_trained == 0  # read, not made again
        assert wanted["shards_generated"] == wanted["shards"] == after.shards == 6
        found[name] = after
        check_contract(federation, after)
    assert len({made.release for made in found.values()}) == len(four.LABELS)
    is_smaller = {name: four.SOLE_CLASS not in made.labels for name, made in found.items()}
    assert is_smaller == {name: name == four.SOLE_OWNER for name in four.LABELS}


def test_one_changed_weight_of_another_site_changes_the_release(stage):
    """The control: the digests above are equal because the inputs are, not whatever they are."""
    gone, *others = four.LABELS
    control = stage("enrolled", "control")
    with control.open() as coordinator, coordinator.state.read() as tx:
        study = Study.from_bytes(registry.find_study(tx, site.STUDY).manifest)
    table = networks.expected_tensors(networks.architecture_for(study, "moments"))
    runs.change_one_weight(control.home(others[0]), site.STUDY, table)
    changed = site.build(four.submit(control, *others))
    same = site.build(revoked(stage, gone))
    assert changed.labels == same.labels
    assert changed.release != same.release


@pytest.mark.ray
@pytest.mark.netns
def test_a_cluster_leaves_no_bit_behind_either(stage):
    """Built on Ray, and after a revocation again with an empty store: as never had, in process."""
    federation = stage("approved", "on-ray")
    with clusters.running() as cluster:
        cluster.start(processors=2)

        def build(of):
            words = ("build", site.STUDY, "--engine", "ray", "--ray-address", cluster.address)
            terminal = cluster.terminal(of.folder)
            return terminal.json("coordinator", "hub", *words, timeout_s=clusters.START_S)

        before = build(federation)
        for gone in ON_A_CLUSTER:
            rebuilt = federation.clone(federation.folder.parent / f"on-ray-without-{gone}")
            with rebuilt.open() as coordinator:
                assert site.revocation_of(rebuilt, coordinator, gone).done
            shutil.rmtree(rebuilt.hub / "shards")
            after, wanted = build(rebuilt), site.build(without(stage, gone))
            assert after["shards_generated"] == after["shards"] == wanted.shards
            assert (after["release"], after["plan"]) == (wanted.release, wanted.plan)
            assert after["release"] != before["release"]
