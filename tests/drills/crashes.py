"""kill -9 of either side while a blueprint crosses a slow line, at random bytes."""

import contextlib
import dataclasses
import random
import signal
import threading

from coordinator.home import CONFIG, CoordinatorConfig
from edge_agent.home import CONFIG as SITE_CONFIG
from edge_agent.home import Home
from kit import config
from tests.drills.line import Line
from tests.drills.table import drill
from tests.fakes import runs, site
from tests.fakes.terminal import Terminal, free_ports, stop, wait_for

KILLS = 20
RATE_BIT_S = 16_000_000  # slow enough that a kill lands inside the upload
PRESET, SIDE_PX, CLASSES = "small", 16, ("one", "two")
STUDY = "drill"


@dataclasses.dataclass
class World:
    """A coordinator and a site as processes, with a line between them."""

    federation: site.Federation
    terminal: Terminal
    address: tuple

    @property
    def log(self):
        return self.federation.folder / "serve.log"

    def serving(self):
        return self.terminal.serving(self.log)

    def reach_over(self, line):
        """Let the site reach the coordinator over a line."""
        home = Home(self.federation.folder / "a")
        settings = dataclasses.replace(home.config, exchange_address=f"127.0.0.1:{line.port}")
        config.save(home.config_path, settings)

    def staged(self):
        folder = self.federation.hub / "staging"
        return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

    def submit(self):
        return self.terminal.running("edge-agent", "a", "submit", "--study", STUDY)


def world_of(federation):
    """A study of larger images, a finished run at site a, and ports that processes can take."""
    with federation.serving() as coordinator:
        shape = {"image": (1, SIDE_PX, SIDE_PX), "presets": (PRESET,), "classes": CLASSES}
        study = site.create_study(coordinator, name=STUDY, **shape)
        site.visit(federation.home("a"))
        site.let_one_person_send(federation.home("a"))
        runs.write_run(federation.home("a"), study, CLASSES)
    exchange, enrol = free_ports(2)
    path = federation.hub / CONFIG
    settings = config.load(path, CoordinatorConfig)
    config.save(path, dataclasses.replace(settings, exchange_port=exchange, enrol_port=enrol))
    assert (federation.folder / "a" / SITE_CONFIG).is_file()
    return World(federation, Terminal(federation.folder), ("127.0.0.1", exchange))


def payload_bytes(world):
    """How long the upload will be: the weights, and a little more."""
    return (world.federation.folder / "a" / "runs" / STUDY / "weights.safetensors").stat().st_size


def killed_at(world, byte, victim):
    """Submit, and kill what `victim(agent)` returns once `byte` bytes went up; says if it was."""
    reached = threading.Event()

    def watch(sent):
        if sent >= byte:
            reached.set()

    with Line(world.address, rate_bit_s=RATE_BIT_S, watch=watch) as line:
        world.reach_over(line)
        with world.submit() as agent:
            wait_for(lambda: reached.is_set() or agent.poll() is not None)
            is_killed = agent.poll() is None or victim(agent) is not agent
            if is_killed:
                stop(victim(agent), signal.SIGKILL)
            stop(agent, signal.SIGKILL)
    return is_killed


def finish(world):
    """Submit once more, undisturbed; returns (bytes sent, all bytes, state)."""
    with Line(world.address) as line:
        world.reach_over(line)
        return world.terminal.json("edge-agent", "a", "submit", "--study", STUDY)


def blueprint(federation):
    """The blueprint's state by its own study: the stage may have others."""
    return [r for r in _reviews(federation) if r.study == STUDY]


def _reviews(federation):
    from coordinator import reviews

    with federation.open() as coordinator:
        return reviews.list_reviews(coordinator)


def verdict(world, kills, result, durable):
    """What must hold after any number of kills."""
    assert result["state"] in ("received", "pending"), result
    assert result["bytes_sent"] <= result["payload_bytes"] - durable, (result, durable)
    wait_for(lambda: blueprint(world.federation)[-1].state != "received", timeout_s=300)
    [found] = blueprint(world.federation)
    assert found.state == "pending", found
    return (
        f"{kills} kills; the last submit sent {result['bytes_sent']} of"
        f" {result['payload_bytes']} bytes ({durable} were durable); one blueprint, pending"
    )


def offsets(count, total, *, seed):
    draw = random.Random(seed)
    return [draw.randrange(1, total) for _ in range(count)]


def kill_the_site(federation, count=KILLS, seed=7):
    world, kills = world_of(federation), 0
    with world.serving():
        for byte in offsets(count, payload_bytes(world), seed=seed):
            kills += killed_at(world, min(byte, left(world)), lambda agent: agent)
        durable = world.staged()
        return verdict(world, kills, finish(world), durable)


def left(world):
    """Bytes that have still to go up, so that the next kill lands inside the upload."""
    return max(2, payload_bytes(world) - world.staged())


def kill_the_coordinator(federation, count=KILLS, seed=8):
    world, kills = world_of(federation), 0
    for byte in offsets(count, payload_bytes(world), seed=seed):
        with contextlib.suppress(AssertionError), world.serving() as server:
            kills += killed_at(world, min(byte, left(world)), lambda _, server=server: server)
    with world.serving():
        durable = world.staged()
        return verdict(world, kills, finish(world), durable)


@drill(
    "kill -9 of the site",
    done=f"`edge-agent submit` killed at {KILLS} random bytes of the connection",
    expected="the same command finishes; nothing durable is sent again; one blueprint",
)
def site_killed(federation):
    return kill_the_site(federation)


@drill(
    "kill -9 of the coordinator",
    done=f"`coordinator serve` killed at {KILLS} random bytes of the connection",
    expected="the same command finishes; nothing durable is sent again; one blueprint",
)
def coordinator_killed(federation):
    return kill_the_coordinator(federation)


@drill(
    "a thin line",
    done="4 Mbit/s, 1 % loss, 200 ms round trip: user-space TCP forwarder (loss as stalls)",
    expected="contact, submission and receipt as on a good line",
)
def thin_line(federation):
    world = world_of(federation)
    with (
        world.serving(),
        Line(world.address, rate_bit_s=4_000_000, delay_s=0.1, loss=0.01) as line,
    ):
        world.reach_over(line)
        result = world.terminal.json("edge-agent", "a", "submit", "--study", STUDY)
        assert result["bytes_sent"] == result["payload_bytes"], result
        wait_for(lambda: blueprint(federation)[-1].state != "received", timeout_s=300)
        assert blueprint(federation)[-1].state == "pending"
    return (
        f"{result['payload_bytes']} bytes of payload, {line.up} on the wire, {line.lost} segments"
        " lost; pending"
    )
