"""A federation of four hospitals whose blueprints are a few hundred numbers: class statistics.

Its stages are made once per session and copied. One hospital alone has a class.
"""

from functools import cache

from tests.fakes import intake, runs, site, states

LABELS = {
    "a": ("round", "long"),
    "b": ("long", "dark"),
    "c": ("dark", "pale"),
    "d": ("pale", "lobed"),
}
SOLE_OWNER, SOLE_CLASS = "d", "lobed"
# How a study's classifier is built: a mode more is a line more.
MODES = {"monolithic": {}, "experts": {"mode": "experts"}}
STUDY = {
    "presets": ("moments",),
    "epsilon": 3.0,
    "shard_size": 12,
    "sampler_steps": 2,
    "classifier_steps": 5,
}


def submit(federation, *names):
    """Have blueprints sent, taken in and approved, in this order."""
    with intake.in_this_process(), federation.serving():
        for name in names:
            site.submit(federation.home(name))
            site.wait_for(lambda: site.settled(federation))
    for name in names:
        assert site.approve(federation, name).state == "approved"
    return federation


def copy(stage, mode, target, base):
    """Return a fresh copy of a stage (`enrolled`, `approved`, `released`) at `target`."""
    return _stage(stage, mode, base, states.KINDS.now).clone(target)


@cache
def _stage(stage, mode, base, kind):
    folder = base / f"four-{kind}-{mode}-{stage}"
    if stage == "enrolled":
        federation = _enrolled(folder, mode)
    else:
        before = {"approved": "enrolled", "released": "approved"}[stage]
        federation = _stage(before, mode, base, kind).clone(folder)
        if stage == "approved":
            submit(federation, *LABELS)
        else:
            site.build(federation)
    states.KINDS.keep_newest()
    return federation


def _enrolled(folder, mode):
    folder.mkdir(parents=True)
    federation = site.found(folder)
    with federation.open() as coordinator:
        study = site.create_study(coordinator, **STUDY | MODES[mode])
    with federation.serving() as coordinator:
        for number, (name, labels) in enumerate(LABELS.items()):
            home = site.enrol(coordinator, federation, name)
            runs.write_run(home, study, labels, seed=number)
    return federation
