"""Forgetting one blueprint: revoke and rebuild, against a full build of the same release.

A federation grows to each size, every hospital with a generator of one class (random weights: what
is timed is the work, and that does not know what they were trained on). At each size one blueprint
is revoked and the study is built again, and then once more with an empty store of shards, which is
what forgetting would cost if shards depended on more than their own blueprint. Both must give one
release, bit for bit, and the first must generate no shard.

`python -m benchmarks.forgetting [--sizes 4 16 64] [--work DIR] [--json FILE] [--quick]`
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from coordinator import builds
from kit import door
from tests.fakes import intake, runs, site

CLASSES = ("round", "long", "dark", "pale")
STUDY = {"presets": ("tiny",), "shard_size": 32, "sampler_steps": 8, "classifier_steps": 100}
QUICK = {"presets": ("tiny",), "shard_size": 16, "sampler_steps": 4, "classifier_steps": 20}


def grow(federation, study, sites):
    """Enrol further hospitals, and bring a blueprint of each to its approval."""
    with intake.in_this_process(), federation.serving() as coordinator:
        for number in sites:
            name = f"site-{number}"
            home = site.enrol(coordinator, federation, name)
            runs.write_run(home, study, (CLASSES[number % len(CLASSES)],), seed=number)
            site.submit(home)
            site.wait_for(lambda: site.settled(federation))
    for number in sites:
        assert site.approve(federation, f"site-{number}").state == "approved"


def build(federation):
    """Build in this process; returns the result, its seconds, and those of the shards alone."""
    started, seen = time.perf_counter(), {}

    def report(what, _done, _total):
        seen.setdefault(what, time.perf_counter())

    with federation.open() as coordinator:
        made = builds.build(coordinator, site.STUDY, report=report)
    ended = time.perf_counter()
    return made, ended - started, seen["classifier"] - started


def revoke(federation, name):
    """Revoke one blueprint to the end of its shredding; returns the seconds."""
    digest = federation.digest(name)
    started = time.perf_counter()
    with federation.open() as coordinator:
        done = site.revocation_of(federation, coordinator, name)
    assert done.done
    assert not (federation.hub / "keystore" / f"blueprint-{digest}.key").exists()
    return time.perf_counter() - started


def measure(federation, size):
    """Return the figures of one size."""
    first, first_s, _ = build(federation)
    assert first.shards_generated == first.shards == size
    revoke_s = revoke(federation, f"site-{size - 1}")
    again, again_s, again_shards_s = build(federation)
    shutil.rmtree(federation.hub / "shards")
    full, full_s, full_shards_s = build(federation)
    if (again.shards_generated, full.shards_generated) != (0, size - 1):
        raise SystemExit("a shard was generated that nothing asked for, or one was not")
    if (again.release, again.plan) != (full.release, full.plan) or again.release == first.release:
        raise SystemExit("the rebuilt release is not the one of a full build")
    return {
        "blueprints": size,
        "first_build_s": first_s,
        "revoke_s": revoke_s,
        "rebuild_s": again_s,
        "rebuild_shards_s": again_shards_s,
        "rebuild_shards_generated": again.shards_generated,
        "full_build_s": full_s,
        "full_shards_s": full_shards_s,
        "full_shards_generated": full.shards_generated,
        "release": again.release,
        "load_average": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--work", type=Path, help="a folder to keep the federation in")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--quick", action="store_true", help="4 and 8 blueprints, small shards")
    options = parser.parse_args()
    sizes = [4, 8] if options.quick else sorted(options.sizes)
    found = []
    with tempfile.TemporaryDirectory(prefix="forgetting-") as folder:
        root = options.work or Path(folder)
        federation = site.found(root / "growing")
        with federation.open() as coordinator:
            study = site.create_study(
                coordinator, classes=CLASSES, **(QUICK if options.quick else STUDY)
            )
        enrolled = 0
        for size in sizes:
            grow(federation, study, range(enrolled, size))
            enrolled = size
            found.append(measure(federation.clone(root / f"of-{size}"), size))
            door.note(f"{size} blueprints: {found[-1]['rebuild_s']:.1f} s to rebuild")
            if options.json is not None:
                options.json.write_text(json.dumps(found, indent=2) + "\n")
    rows = [
        (
            str(f["blueprints"]),
            f"{f['revoke_s']:.2f}",
            f"{f['rebuild_s']:.1f}",
            str(f["rebuild_shards_generated"]),
            f"{f['full_build_s']:.1f}",
            str(f["full_shards_generated"]),
            f"{f['full_build_s'] / f['rebuild_s']:.1f}",
        )
        for f in found
    ]
    heads = ("blueprints", "revoke s", "rebuild s", "shards", "full s", "shards", "times")
    sys.stdout.write(door.columns(rows, heads) + "\n")


if __name__ == "__main__":
    main()
