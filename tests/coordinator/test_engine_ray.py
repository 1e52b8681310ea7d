"""Ray: same plan, same bits; nodes that compute others are refused; ids travel, nothing else."""

import dataclasses
import json

import pytest

from coordinator.home import CONFIG, CoordinatorConfig
from kit import config
from tests.fakes import clusters, site
from tests.fakes.terminal import Terminal

THREADS = 2  # Ray exports OMP_NUM_THREADS=1


def set_threads(federation, threads):
    path = federation.hub / CONFIG
    settings = config.load(path, CoordinatorConfig)
    config.save(path, dataclasses.replace(settings, threads=threads))


@pytest.mark.ray
@pytest.mark.netns
def test_a_cluster_makes_the_same_bits_on_several_workers_and_refuses_other_nodes(
    approved, tmp_path
):
    set_threads(approved, THREADS)
    reference = approved.clone(tmp_path / "reference")
    here = site.build(reference)
    with clusters.running() as cluster:
        cluster.start(processors=2 * THREADS)
        cluster.start(processors=THREADS, ATEN_CPU_CAPABILITY="default")
        terminal = cluster.terminal(approved.folder)
        words = ("build", site.STUDY, "--engine", "ray", "--ray-address", cluster.address)
        made = terminal.json("coordinator", "hub", *words, timeout_s=clusters.START_S)
        assert (made["release"], made["plan"]) == (here.release, here.plan)
        assert made["shards_generated"] == made["shards"] == here.shards
        assert names(approved) == names(reference)
        set_threads(approved, 64)
        nobody = terminal.run("coordinator", "hub", *words, timeout_s=clusters.START_S)
        set_threads(approved, THREADS)
        assert (nobody.code, nobody.out) == (1, "")
        assert "no node of the Ray cluster computes the bits" in nobody.err
        stranger = with_another_token(cluster, approved)
        refused = stranger.run("coordinator", "hub", *words, timeout_s=clusters.START_S)
        assert refused.code == 1
        assert "cannot be joined" in refused.err
    record = Terminal(approved.folder).json("coordinator", "hub", "builds", "show", "1")
    workers = {e["details"]["pid"] for e in record["events"] if "generated" in e["details"]}
    assert len(workers) == 2  # processes of the cluster, not this one's
    [release] = [e for e in record["events"] if e["kind"] == "done" and e["job"] == here.shards]
    assert release["details"]["pid"] not in workers
    [other] = [e["details"] for e in record["events"] if e["kind"] == "refused"]
    assert "cpu_capability is `DEFAULT`" in other["reason"]
    assert record["events"][0]["details"] == {"engine": "ray"}
    no_node = Terminal(approved.folder).json("coordinator", "hub", "builds", "show", "2")
    reasons = [e["details"]["reason"] for e in no_node["events"] if e["kind"] == "refused"]
    assert len(reasons) == 2
    assert all("the plan wants 64 threads" in reason for reason in reasons)


def names(federation):
    """The shards' names: each by all that its bits depend on."""
    return sorted(path.name for path in (federation.hub / "shards").rglob("*.sealed"))


def with_another_token(cluster, federation):
    bad = cluster.folder / "other-token"
    bad.write_text("0" * 64)
    bad.chmod(0o600)
    environment = cluster.environment | {"RAY_AUTH_TOKEN_PATH": str(bad)}
    return clusters.ClusterTerminal(federation.folder, tuple(cluster.prefix), environment)


def test_engine_and_address_go_together(tmp_path):
    terminal = Terminal(tmp_path)
    site.found(tmp_path)
    for words in (("--engine", "ray"), ("--ray-address", "127.0.0.1:1")):
        done = terminal.run("coordinator", "hub", "build", "x", *words)
        assert (done.code, done.out) == (1, "")
        assert "go together" in done.err
    control = terminal.run("coordinator", "hub", "build", "x", "--engine", "in-process")
    assert "no study `x`" in control.err


def test_what_travels_to_a_node_names_a_job_and_what_comes_back_is_plain(approved):
    from coordinator import builds, jobs, plans
    from coordinator.engines import tasks
    from coordinator.jobs import JobKind, Owner

    with approved.open() as coordinator, Owner(coordinator).living() as owner:
        number = jobs.join(coordinator, plans.propose(coordinator, site.STUDY), engine="test")
        job = jobs.lease(coordinator, number, JobKind.SHARD, owner)
        told = tasks.make_part(str(approved.hub), number, job.number)
        assert told["generated"]
        assert json.loads(json.dumps(told)) == told
        jobs.finish(coordinator, job, owner, **told)
        assert "error" in tasks.make_part(str(approved.hub), number, 99)
        made = builds.build(coordinator, site.STUDY, report=lambda *_: None)
        assert (made.build, made.shards_generated) == (number, made.shards - 1)
