"""A build of 3, 10, 30 and 100 blueprints: seconds of synthesis and training, and peak memory.

A federation grows to each size, and a copy of it builds in a process of its own. What the sites
send are untrained but valid generators, by default class statistics (`--preset moments`): what is
measured is the work, and that does not know what they were trained on. They come in without their
intake, which has limits and tests of its own. Memory is the largest resident set of the process
that builds: up to the end of synthesis, and over all.

`python -m benchmarks.scale [--sizes 3 10 30 100] [--mode experts] [--json FILE] [--quick]`
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import processes
from coordinator import payloads, reviews
from federation.blueprint import envelope
from federation.blueprint.statement import Statement
from kit import door
from tests.fakes import records, runs, site

CLASSES = tuple(f"class-{i}" for i in range(10))
CLASSES_OF_A_SITE = 2
STUDY = {"shard_size": 300, "sampler_steps": 10, "classifier_steps": 100}
QUICK = {"shard_size": 16, "sampler_steps": 2, "classifier_steps": 5}
EPSILON = 3.0

# One build, in a process that does nothing else; prints its figures.
_BUILD = """
import json, sys, time
from benchmarks.processes import peak_mb
from coordinator import builds
from coordinator.context import Coordinator
from pathlib import Path

import federation.learning.downstream.export, federation.learning.methods.product_of_experts
idle_mb, started, phases = peak_mb(), time.perf_counter(), {}

def report(what, done, total):
    phases.setdefault(what, (time.perf_counter(), peak_mb()))

with Coordinator.open(Path(sys.argv[1])) as coordinator:
    made = builds.build(coordinator, sys.argv[2], report=report)
trained = phases.get("experts", phases["classifier"])
print(json.dumps({
    "shards": made.shards,
    "synthesis_s": trained[0] - started,
    "training_s": phases["export"][0] - trained[0],
    "rest_s": time.perf_counter() - phases["export"][0],
    "idle_mb": idle_mb,
    "synthesis_mb": trained[1],
    "peak_mb": peak_mb(),
    "model_mb": made.model_bytes / 1e6,
    "release": made.release,
}))
"""


def grow(federation, study, numbers):
    """Enrol further sites, and bring a blueprint of each to its approval."""
    with federation.serving() as coordinator:
        for number in numbers:
            home = site.enrol(coordinator, federation, f"site-{number}")
            first = number * CLASSES_OF_A_SITE % len(CLASSES)
            labels = CLASSES[first : first + CLASSES_OF_A_SITE]
            runs.write_run(home, study, labels, seed=number)
    for number in numbers:
        digest = records.submit(federation, f"site-{number}")
        put_at_rest(federation, digest)
        records.take_in(federation, digest)
        site.approve(federation, f"site-{number}")


def put_at_rest(federation, digest):
    """Seal a received payload under a key of its own, as the intake does."""
    with federation.open() as coordinator:
        with coordinator.state.read() as tx:
            row = reviews.find(tx, digest)
        statement = Statement.from_bytes(row.statement)
        content_key = payloads.content_key(coordinator, row.wrapped_key, statement)
        received = coordinator.home.received(digest).read_bytes()
        plaintext = envelope.open_payload(received, content_key, statement)
        own = os.urandom(len(content_key))
        payloads.keystore(coordinator).put(payloads.BLUEPRINT, digest, own)
        sealed = envelope.encrypt(plaintext, own, payloads.payload_context(digest))
        coordinator.stores.payloads.put(payloads.payload_name(digest), sealed)


def main():
    """Measure every size and print one line each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 10, 30, 100])
    parser.add_argument("--preset", default="moments", help="of the generators that sites send")
    parser.add_argument("--side", type=int, default=28, help="pixels")
    parser.add_argument("--mode", default="monolithic", help="of the study; or experts")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--quick", action="store_true", help="3 and 6 blueprints, small shards")
    options = parser.parse_args()
    sizes = [3, 6] if options.quick else sorted(options.sizes)
    side = 8 if options.quick else options.side
    found, grown = [], 0
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        federation = site.found(Path(folder) / "growing")
        with federation.open() as coordinator:
            study = site.create_study(
                coordinator,
                classes=CLASSES,
                image=(3, side, side),
                presets=(options.preset,),
                epsilon=EPSILON,
                mode=options.mode,
                **(QUICK if options.quick else STUDY),
            )
        for size in sizes:
            grow(federation, study, range(grown, size))
            grown = size
            copy = federation.clone(Path(folder) / f"of-{size}")
            figures = processes.told(_BUILD, copy.hub, study.id)
            found.append({"blueprints": size} | figures)
            door.note(json.dumps(found[-1]))
            if options.json is not None:
                options.json.write_text(json.dumps(found, indent=2) + "\n")
    heads = ("synthesis_s", "training_s", "rest_s", "idle_mb", "synthesis_mb", "peak_mb")
    rows = [
        (
            str(f["blueprints"]),
            str(f["shards"]),
            f"{f['synthesis_s'] / f['shards']:.3f}",
            *(f"{f[name]:.1f}" for name in heads),
        )
        for f in found
    ]
    shown = ("blueprints", "shards", "s a shard", *(name.replace("_", " ") for name in heads))
    sys.stdout.write(door.columns(rows, shown) + "\n")


if __name__ == "__main__":
    main()
