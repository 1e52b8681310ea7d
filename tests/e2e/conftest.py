import csv
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pki import keys
from tests.fakes.terminal import Namespace, Terminal, free_ports, stop, wait_for

PATIENT = "Mustermann-Erika"
LABELS = ("round", "long", "square")
PATIENTS, IMAGES_EACH = 20, 2
HALF_AN_UPLOAD = """
import sys, time
from pathlib import Path
from edge_agent import exchange, submission
from edge_agent.home import Home
from kit import clock
exchange.CHUNK_BYTES = 16 << 10
def sent(done, total):
    time.sleep(0.01 if done < 100_000 else 60)
submission.submit(Home.open(Path(sys.argv[1])), "shapes", now=clock.utc_now(), sent=sent)
"""


class Story:
    """What happened, for the tests to judge."""

    def __init__(self, folder, terminal, *, is_offline):
        self.folder, self.terminal, self.is_offline = folder, terminal, is_offline
        self.log = folder / "serve.log"
        self.told = {}

    @property
    def hub(self):
        return self.folder / "hub"

    @property
    def officer_key(self):
        return self.folder / "officer.key"

    @property
    def data(self):
        return self.folder / "data"

    def coordinator(self, *words):
        return self.terminal.json("coordinator", "hub", *words)

    def agent(self, *words, light=False, ranks=1):
        return self.terminal.json("edge-agent", "a", *words, light=light, ranks=ranks)

    def serving(self):
        return self.terminal.serving(self.log)

    def state(self):
        return self.coordinator("list")[0]["state"]


@pytest.fixture(scope="session")
def network():
    """A network with loopback only, where this machine allows one."""
    namespace = Namespace()
    is_offline = namespace.open()
    yield namespace.prefix, is_offline
    namespace.close()


@pytest.fixture(scope="session")
def story(network, tmp_path_factory):
    """One hospital's story through both command lines, with every long command killed once."""
    prefix, is_offline = network
    folder = tmp_path_factory.mktemp("story")
    found = Story(folder, Terminal(folder, tuple(prefix)), is_offline=is_offline)
    write_images(found.data)
    _found(found)
    with found.serving() as server:
        _enrol(found)
        _train(found)
        _submit_until_the_server_dies(found, server)
    with found.serving():
        _submit_and_review(found)
        _build(found)
        _use(found)
    return found


def write_images(folder):
    """Class folders of small images whose names, and whose patients, name somebody."""
    draw = np.random.default_rng(3)
    rows = []
    for number in range(PATIENTS * 2):
        for copy in range(IMAGES_EACH):
            label = LABELS[number % len(LABELS)]
            pixels = draw.normal(60, 12, (8, 8))
            bright = np.s_[2:6, :] if label == "long" else np.s_[2:6, 2:6]
            pixels[bright] += draw.normal(120, 15, pixels[bright].shape)
            path = folder / label / f"{PATIENT}-{number}-{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
            rows.append((path.relative_to(folder).as_posix(), f"{PATIENT}-{number}"))
    with (folder / "patients.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "patient"), *rows])


def _found(story):
    exchange, enrol = free_ports(2)
    ports = ["--exchange-port", exchange, "--enrol-port", enrol]
    options = ["--federation", "north", "--grace-hours", "0", "--threads", "1"]
    story.told["init"] = story.coordinator("init", *options, *ports)
    small = ["--shard-size", "64", "--sampler-steps", "6", "--classifier-steps", "4"]
    shape = ["--channels", "1", "--height", "8", "--width", "8", "--classes", ",".join(LABELS)]
    story.told["study create"] = story.coordinator("study", "create", "shapes", *shape, *small)
    story.told["serve too early"] = story.terminal.run("coordinator", "hub", "serve")
    (story.folder / "safe").mkdir()
    (story.folder / "hub-roots").rename(story.folder / "safe" / "medium")


def _enrol(story):
    token = story.folder / "a.token"
    story.told["token"] = story.coordinator("token", "a", "--out", token)
    keys.save(story.officer_key, keys.new_signing_key())
    officer = keys.public_bytes(keys.load_signing(story.officer_key)).hex()
    waiting = story.terminal.run(
        "edge-agent", "a", "enroll", "--token", token, "--officer", f"dr-o={officer}", "--json"
    )
    story.told["waiting"] = waiting
    code = re.search(r"[A-Z2-7]{4}-[A-Z2-7]{4}", waiting.err)[0]
    story.told["sites confirm"] = story.coordinator("sites", "confirm", "a", "--code", code)
    story.told["enroll"] = story.agent("enroll", "--token", token)


def train_words(story):
    options = ["--labels", ",".join(LABELS), "--declared-count", "36", "--steps", "60"]
    options.append("--accept-expected-loss")  # sixty patients are noise at best
    return ["train", "--study", "shapes", "--data", story.data, *options]


def _train(story):
    terminal, log = story.terminal, story.folder / "train.log"
    run = story.folder / "a" / "runs" / "shapes"
    for number in (signal.SIGINT, signal.SIGKILL):
        log.write_bytes(b"")
        with terminal.running("edge-agent", "a", *train_words(story), log=log) as process:
            wait_for(lambda: b"training: " in log.read_bytes(), process)
            story.told[f"train {number.name}"] = (stop(process, number), log.read_text())
            assert not (run / "weights.safetensors").exists()
    story.told["train"] = story.agent(*train_words(story), ranks=2)  # begun by one process
    inspect = ["inspect", "--study", "shapes"]
    story.told["inspect"] = story.agent(*inspect, light=True)
    story.told["submit unsigned"] = terminal.run("edge-agent", "a", "submit", "--study", "shapes")
    digest = ["--digest", story.told["inspect"]["statement"][:8]]
    story.told["sign"] = story.agent(*inspect, "--sign", story.officer_key, *digest, light=True)


def _submit_until_the_server_dies(story, server):
    staging = story.hub / "staging"

    def staged():
        return sum(path.stat().st_size for path in staging.glob("*")) if staging.exists() else 0

    half = story.terminal.python(HALF_AN_UPLOAD, story.folder / "a")
    wait_for(lambda: staged() >= 64 << 10, half)
    stop(server, signal.SIGKILL)
    stop(half, signal.SIGKILL)
    story.told["durable"] = staged()
    story.told["submit down"] = story.terminal.run("edge-agent", "a", "submit", "--study", "shapes")
    story.told["status down"] = story.terminal.run("edge-agent", "a", "status")
    story.told["fetch down"] = story.terminal.run("edge-agent", "a", "fetch", "--study", "shapes")


def _submit_and_review(story):
    story.told["submit"] = story.agent("submit", "--study", "shapes", light=True)
    story.told["second serve"] = story.terminal.run("coordinator", "hub", "serve")
    wait_for(lambda: story.state() != "received")
    story.told["list"] = story.coordinator("list")
    digest = story.told["list"][0]["digest"]
    story.told["show"] = story.coordinator("show", digest[:12])
    key = story.folder / "safe" / "medium" / Path(story.told["init"]["reviewer_key"]).name
    decide = ["--key", key, "--reason", "fine"]
    story.told["approve"] = story.coordinator("approve", digest[:12], *decide)


def _build(story):
    _stop_build(story, signal.SIGINT)
    _stop_build(story, signal.SIGKILL)
    story.told["shards kept"] = shards(story)
    story.told["build"] = story.coordinator("build", "shapes")
    story.told["releases"] = story.coordinator("releases")


def _stop_build(story, number):
    """Stop a build after one more shard, if there is one more to make before the last."""
    log, before = story.folder / "build.log", shards(story)
    with story.terminal.running("coordinator", "hub", "build", "shapes", log=log) as process:
        wait_for(lambda: shards(story) > before, process)
        story.told[f"build {number.name}"] = (stop(process, number), log.read_text())


def shards(story):
    """How many whole shards there are."""
    return len(list((story.hub / "shards").rglob("*.sealed")))


def _use(story):
    told, images = story.told, ["--study", "shapes", "--data", story.data]
    told["fetch"] = story.agent("fetch", "--study", "shapes", light=True)
    told["status"] = story.agent("status", light=True)
    out = story.folder / "predictions.csv"
    told["predict"] = story.terminal.run(
        "edge-agent", "a", "predict", *images, "--out", out, light=True
    )
    told["predictions"] = out.read_text()
    told["evaluate"] = story.agent("evaluate", *images, light=True)
    told["edge audit"] = story.agent("audit", "verify", light=True)
    told["edge audit offline"] = story.agent("audit", "verify", "--offline", light=True)
    for name in ("sites list", "study list", "audit verify", "audit list"):
        told[name] = story.coordinator(*name.split())
    told["study show"] = story.coordinator("study", "show", "shapes")
    for name in ("outbox", "releases"):  # what left, and what came back, before it is shredded
        shutil.copytree(story.folder / "a" / name, story.folder / "wire" / name)
    shutil.copytree(story.hub, story.folder / "wire" / "hub")
    asked = ("withdraw", "--study", "shapes", "--reason", PATIENT)
    told["withdraw unasked"] = story.terminal.run("edge-agent", "a", *asked)
    told["withdraw"] = story.agent(*asked, "--yes", light=True)
    told["predict after"] = story.terminal.run("edge-agent", "a", "predict", *images)
    told["audit list after"] = story.coordinator("audit", "list")


def leaves(story):
    """The log as text."""
    return json.dumps(story.told["audit list after"])
