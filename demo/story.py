"""The demo's story: one coordinator and three hospitals, each a process of its own, over mTLS.

Everything is done through the two command lines, as a person would; each command is printed before
it runs. What this module adds is only the order of events and the sums at the end.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from demo.data import HELD_OUT, SITES, TRAIN
from federation.learning.downstream.metrics import evaluate
from federation.learning.generator.architecture import default_preset
from kit.door import note
from kit.errors import KitError
from pki import keys

FEDERATION = "demo"
REVOKED = "c"
REVIEWER = "first"
APPROVED, OFFICER = "a", "officer"  # the hospital where a second person signs what leaves
PRIVATE, NON_PRIVATE = "private", "non-private"
INTAKE_TIMEOUT_S = 900
DECLARED_STEP = 50  # counts are declared as the next lower multiple: round, and surely met
# The whole story in a minute or two: every step happens, nothing is learnt.
QUICK_STUDY = ("--shard-size", "32", "--sampler-steps", "6", "--classifier-steps", "40")
QUICK_TRAINING = ["--steps", "2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One study of the demo."""

    name: str
    personal_data: str
    preset: str


@dataclass
class Clock:
    """Seconds per phase, summed over both settings."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's seconds to a phase."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


class Shell:
    """Runs the two commands with their homes, prints each first, and gives back its JSON."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._bin = Path(sys.executable).parent
        self.peak_mib: dict[str, int] = {}  # largest resident memory of each command

    def run(self, program: str, who: str, *words: str, quiet: bool = False) -> Any:
        """Run one command to its end and return its `--json` result.

        Raises:
            KitError: it did not exit with 0.
        """
        status, out, err = self.attempt(program, who, *words, quiet=quiet)
        if status != 0:
            raise KitError(f"`{program} {words[0]}` ended with {status}: {err.strip()}")
        return json.loads(out) if out.startswith(("{", "[")) else out

    def attempt(
        self, program: str, who: str, *words: str, quiet: bool = False
    ) -> tuple[int, str, str]:
        """Run one command; returns exit status, stdout and stderr."""
        command = self.command(program, who, *words)
        note(f"[{who}] $ {self.shown(program, who, *words)}")
        errors: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        ) as process:
            follower = threading.Thread(target=self._follow, args=(process, who, errors, quiet))
            follower.start()
            out = process.stdout.read() if process.stdout else ""
            follower.join()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        name = f"{program} {words[0]}"
        self.peak_mib[name] = max(self.peak_mib.get(name, 0), usage.ru_maxrss // 1024)
        return process.returncode, out, "".join(errors)

    def command(self, program: str, who: str, *words: str) -> list[str]:
        """Return the full argument list."""
        return [str(self._bin / program), *words, "--home", str(self.home(who))]

    def shown(self, program: str, who: str, *words: str) -> str:
        """Return the command as a person would type it."""
        words = tuple(w.replace(f"{self.work}/", "") for w in words)
        return shlex.join([program, *words, "--home", self.home(who).name])

    def home(self, who: str) -> Path:
        """Return a party's home."""
        return self.work / who

    @staticmethod
    def _follow(process: "subprocess.Popen[str]", who: str, errors: list[str], quiet: bool) -> None:
        for line in process.stderr or ():
            errors.append(line)
            if not quiet:
                note(f"[{who}] {line.rstrip()}")


def environment() -> dict[str, str]:
    """Return the environment of every process: one thread each, so that three share two cores."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@contextmanager
def serving(shell: Shell, who: str) -> Iterator[None]:
    """Run `coordinator serve` beside the block and end it by its process id."""
    note(f"[{who}] $ {shell.shown('coordinator', who, 'serve')} &")
    log_path = shell.work / f"{who}-serve.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            shell.command("coordinator", who, "serve"),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment(),
        )
    try:
        _wait_for_port(shell.home(who), process, log_path)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def _wait_for_port(home: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    from coordinator.home import CoordinatorConfig
    from kit import config

    settings = config.load(home / "config.toml", CoordinatorConfig)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise KitError(f"`coordinator serve` ended; see `{log}`")
        try:
            with socket.create_connection(("127.0.0.1", settings.enrol_port), timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise KitError("`coordinator serve` does not listen")


def free_port() -> int:
    """Return a port on the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Story:
    """The demo from founding to the rebuilt release."""

    def __init__(
        self, work: Path, data: dict[str, Any], *, settings: Collection[str], quick: bool
    ) -> None:
        self.shell, self.data, self.quick = Shell(work), data, quick
        self.work, self.clock = work, Clock()
        preset = default_preset(data["height"], data["width"])
        wide = "tiny-wide" if preset == "tiny" else preset
        both = (
            Setting(name=PRIVATE, personal_data="refused", preset=preset),
            Setting(name=NON_PRIVATE, personal_data="allowed", preset=wide),
        )
        self.settings = tuple(setting for setting in both if setting.name in settings)
        self.reviewer_key = ""
        self.officer_key = work / "officer.key"

    # Set-up ----------------------------------------------------------------------------------

    def found(self) -> None:
        """Found the federation and open the two studies."""
        made = self.shell.run(
            "coordinator",
            "hub",
            *("init", "--federation", FEDERATION, "--reviewer", REVIEWER),
            *("--exchange-port", str(free_port()), "--enrol-port", str(free_port())),
            *("--grace-hours", "0", "--threads", "1", "--json"),
        )
        self.reviewer_key = made["reviewer_key"]
        for setting in self.settings:
            self.shell.run(
                "coordinator",
                "hub",
                *("study", "create", setting.name, "--classes", ",".join(self.data["classes"])),
                *("--channels", str(self.data["channels"]), "--height", str(self.data["height"])),
                *("--width", str(self.data["width"]), "--unit", "image"),
                *("--personal-data", setting.personal_data, "--preset", setting.preset, "--json"),
                *(QUICK_STUDY if self.quick else ()),
            )

    def enrol(self, site: str) -> None:
        """Invite a site, enrol it, and confirm the code that it reads out."""
        token = self.work / f"{site}.token"
        self.shell.run("coordinator", "hub", "token", site, "--out", str(token), "--json")
        words = ("enroll", "--token", str(token), *self._second_person(site), "--json")
        status, _, err = self.shell.attempt("edge-agent", site, *words)
        if status != 3:
            raise KitError(f"enrolment of {site} does not wait for confirmation")
        code = err.partition("the code of this site is ")[2][:9]
        self.shell.run("coordinator", "hub", "sites", "confirm", site, "--code", code, "--json")
        self.shell.run("edge-agent", site, *words)

    def _second_person(self, site: str) -> tuple[str, ...]:
        """One hospital has an officer without whose signature nothing leaves; the others say no."""
        if site != APPROVED:
            return ("--without-outbound-approval",)
        if not self.officer_key.is_file():
            keys.save(self.officer_key, keys.new_signing_key())
        public = keys.public_bytes(keys.load_signing(self.officer_key)).hex()
        return ("--officer", f"{OFFICER}={public}")

    # The hospitals' work ---------------------------------------------------------------------

    def train(self, setting: Setting) -> list[dict[str, Any]]:
        """Train the three hospitals' generators side by side."""
        rows: dict[str, dict[str, Any]] = {}
        failures: list[str] = []

        def one(site: str) -> None:
            started = time.monotonic()
            status, out, err = self.shell.attempt("edge-agent", site, *self._train(setting, site))
            if status != 0:
                failures.append(f"{site}: {err.strip()}")
                return
            result = json.loads(out)
            rows[site] = self._site_row(site, result, time.monotonic() - started)

        with self.clock.phase("train"):
            threads = [threading.Thread(target=one, args=(site,)) for site in SITES]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise KitError("; ".join(failures))
        return [rows[site] for site in SITES]

    def _train(self, setting: Setting, site: str) -> list[str]:
        described = self.data["sites"][site]
        count = sum(described["train"].values())
        words = ["train", "--study", setting.name, "--data", str(self.images(site, TRAIN))]
        words += ["--labels", ",".join(described["classes"]), "--json"]
        words += QUICK_TRAINING if self.quick else []
        if setting.name == NON_PRIVATE:
            return [*words, "--without-privacy"]
        declared = max(count // DECLARED_STEP * DECLARED_STEP, min(count, DECLARED_STEP))
        if self.quick:  # two steps learn nothing, as asked
            words.append("--accept-expected-loss")
        return [*words, "--declared-count", str(declared)]

    def _site_row(self, site: str, result: dict[str, Any], seconds: float) -> dict[str, Any]:
        privacy = result["privacy"]
        weights = Path(result["folder"]) / "weights.safetensors"
        return {
            "site": site,
            "classes": self.data["sites"][site]["classes"],
            "images": result["images"],
            "unit": privacy["unit"],
            "epsilon": privacy.get("epsilon"),
            "delta": privacy.get("delta"),
            "seconds": round(seconds, 1),
            "blueprint_bytes": weights.stat().st_size,
        }

    def images(self, site: str, part: str) -> Path:
        """Return a hospital's folder of images."""
        return self.work / "data" / site / part

    def submit(self, setting: Setting, hub: str, sites: tuple[str, ...]) -> int:
        """Submit in the order of `sites`, wait for intake; returns the bytes sent."""
        with self.clock.phase("submit"):
            sent = [self._send(setting, site) for site in sites]
            self._wait_for_intake(setting, hub, len(sites))
        return sum(int(item["bytes_sent"]) for item in sent)

    def _send(self, setting: Setting, who: str) -> Any:
        """Let an officer look and sign, where the hospital has one, and submit."""
        study = ("--study", setting.name)
        if who.startswith(APPROVED):
            shown = self.shell.run("edge-agent", who, "inspect", *study, "--json")
            signing = ("--sign", str(self.officer_key), "--digest", shown["statement"][:8])
            self.shell.run("edge-agent", who, "inspect", *study, *signing, "--json")
        return self.shell.run("edge-agent", who, "submit", *study, "--json")

    def _wait_for_intake(self, setting: Setting, hub: str, count: int) -> None:
        deadline = time.monotonic() + INTAKE_TIMEOUT_S
        while time.monotonic() < deadline:
            rows = self._blueprints(hub, setting)
            refused = [row for row in rows if row["state"] == "refused"]
            if refused:
                raise KitError(f"a blueprint was refused: {refused[0]['reason']}")
            if sum(row["state"] == "pending" for row in rows) == count:
                return
            time.sleep(2)
        raise KitError("intake did not end")

    def _blueprints(self, hub: str, setting: Setting) -> list[dict[str, Any]]:
        rows = self.shell.run("coordinator", hub, "list", "--json", quiet=True)
        return [row for row in rows if row["study"] == setting.name]

    # The coordinator's work ------------------------------------------------------------------

    def approve(self, setting: Setting, hub: str, *, sheets: bool) -> None:
        """Look at every pending blueprint and approve it."""
        for row in self._blueprints(hub, setting):
            if row["state"] != "pending":
                continue
            if sheets:
                sheet = str(self.work / f"review-{setting.name}-{row['site']}.png")
                self.shell.run(
                    "coordinator", hub, "show", row["digest"][:16], "--samples", sheet, "--json"
                )
            words = ("approve", row["digest"][:16], "--key", self.reviewer_key)
            self.shell.run("coordinator", hub, *words, "--reason", "samples look right", "--json")

    def build(self, setting: Setting, hub: str) -> dict[str, Any]:
        """Build a release."""
        with self.clock.phase("build"):
            result: dict[str, Any] = self.shell.run(
                "coordinator", hub, "build", setting.name, "--json"
            )
        return result

    def evaluate(self, setting: Setting) -> dict[str, float]:
        """Fetch and evaluate at every hospital; pool the predictions for the table."""
        probabilities, truth = [], []
        self._vouch()
        for site in SITES:
            held_out = str(self.images(site, HELD_OUT))
            study = ("--study", setting.name)
            self.shell.run("edge-agent", site, "fetch", *study, "--json")
            csv = str(self.work / f"predictions-{setting.name}-{site}.csv")
            self.shell.run("edge-agent", site, "predict", *study, "--data", held_out, "--out", csv)
            scores = self.work / f"probabilities-{setting.name}-{site}.json"
            words = ("evaluate", *study, "--data", held_out, "--probabilities", str(scores))
            self.shell.run("edge-agent", site, *words, "--json")
            rows = json.loads(scores.read_text())
            probabilities += rows["probabilities"]
            truth += [rows["labels"].index(label) for label in rows["truth"]]
        metrics = evaluate(np.array(probabilities), np.array(truth, dtype=np.int64))
        return {
            "accuracy": round(metrics.accuracy, 4),
            "balanced_accuracy": round(metrics.balanced_accuracy, 4),
            "auroc": round(metrics.auroc or 0.0, 4),
        }

    def revoke(self, setting: Setting) -> dict[str, Any]:
        """Revoke one hospital's blueprint, rebuild, and fetch again elsewhere."""
        row = next(r for r in self._blueprints("hub", setting) if r["site"] == REVOKED)
        with self.clock.phase("revoke_rebuild"):
            self.shell.run(
                "coordinator",
                "hub",
                *("revoke", row["digest"][:16], "--key", self.reviewer_key),
                *("--reason", "the hospital asked", "--yes", "--json"),
            )
            study = ("--study", setting.name)
            self.shell.run("edge-agent", "a", "status", "--json")
            held_out = str(self.images("a", HELD_OUT))
            status, _, err = self.shell.attempt(
                "edge-agent", "a", "predict", *study, "--data", held_out
            )
            if status == 0 or "withdrawn" not in err:
                raise KitError("a withdrawn release still predicts")
            built: dict[str, Any] = self.shell.run(
                "coordinator", "hub", "build", setting.name, "--json"
            )
        self._vouch()
        for site in SITES[:2]:
            self.shell.run("edge-agent", site, "fetch", *study, "--json")
        return built

    def _vouch(self) -> None:
        """Let every hospital see the log: none takes a release that no other one vouches for."""
        for site in SITES:
            self.shell.run("edge-agent", site, "status", "--json")

    def audit(self) -> None:
        """Verify the log on both sides."""
        self.shell.run("coordinator", "hub", "audit", "verify", "--json")
        for site in SITES:
            self.shell.run("edge-agent", site, "audit", "verify", "--json")

    # A federation that never had the revoked hospital ----------------------------------------

    def keep_copy(self, who: str, name: str) -> None:
        """Copy a home as it is now."""
        shutil.copytree(self.shell.home(who), self.shell.home(name))

    def move_copies(self) -> None:
        """Give the copies ports of their own, so that both federations run at once."""
        names = ("hub-before", *(f"{site}-before" for site in SITES if site != REVOKED))
        paths = [self.shell.home(name) / "config.toml" for name in names]
        settings = tomllib.loads(paths[0].read_text())
        for old in (settings["exchange_port"], settings["enrol_port"]):
            new = str(free_port())
            for path in paths:
                path.write_text(re.sub(rf"\b{old}\b", new, path.read_text()))

    def never_had(self, setting: Setting) -> str:
        """Build in a federation that never had the revoked hospital; returns the digest."""
        others = tuple(site for site in SITES if site != REVOKED)
        for site in reversed(others):
            self._send(setting, f"{site}-before")
        self._wait_for_intake(setting, "hub-before", len(others))
        self.approve(setting, "hub-before", sheets=False)
        built = self.shell.run("coordinator", "hub-before", "build", setting.name, "--json")
        return str(built["release"])
