"""What is revoked is forgotten exactly: the release is that of a federation that never had it."""

from coordinator import revocation
from federation.learning.generator import architecture as networks
from tests.fakes import runs, site
from tests.fakes.terminal import Terminal

STUDY = {"shard_size": 12, "sampler_steps": 3, "classifier_steps": 5}


def submit(federation, *names):
    with federation.serving():
        for name in names:
            site.submit(federation.home(name))
            site.wait_for(lambda: site.settled(federation))
    for name in names:
        assert site.approve(federation, name).state == "approved"


def build_in_a_fresh_process(federation):
    return Terminal(federation.folder).json("coordinator", "hub", "build", site.STUDY)


def copy(federation, target):
    """Copy every home of a federation, as a backup of the machines would."""
    return federation.clone(target)


def test_a_rebuilt_release_is_that_of_a_federation_that_never_had_the_blueprint(tmp_path):
    labels = {"a": ("round",), "b": ("dark",), "c": ("lobed",)}
    federation = site.found(tmp_path / "one")
    with federation.open() as coordinator:
        study = site.create_study(coordinator, **STUDY)
    with federation.serving() as coordinator:
        for number, name in enumerate("ab"):
            runs.write_run(
                site.enrol(coordinator, federation, name), study, labels[name], seed=number
            )
    never = copy(federation, tmp_path / "never")  # before C enrolled

    with federation.serving() as coordinator:
        runs.write_run(site.enrol(coordinator, federation, "c"), study, labels["c"], seed=7)
    submit(federation, "a", "b", "c")
    before = site.build(federation)
    with federation.open() as coordinator:
        gone = federation.digest("c")
        key = federation.reviewer()
        done = revocation.revoke(coordinator, gone, reviewer_key=key, reason="withdrawn")
        assert done.withdrawn_releases == (before.release,)
    after = site.build(federation)

    submit(never, "b")
    control = copy(never, tmp_path / "control")
    submit(never, "a")  # in the opposite order, with an empty shard store, in another process
    assert not (never.hub / "shards").exists()
    never_had = build_in_a_fresh_process(never)
    assert never_had["release"] == after.release != before.release
    assert never_had["shards_generated"] == never_had["shards"] == 2
    assert (never_had["plan"], tuple(never_had["labels"])) == (after.plan, ("round", "dark"))

    table = networks.expected_tensors(networks.architecture_for(study, "tiny"))
    runs.change_one_weight(control.home("a"), site.STUDY, table)
    submit(control, "a")
    changed = site.build(control)
    assert changed.labels == after.labels
    assert changed.release != after.release
