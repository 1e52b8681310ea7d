"""The systemd units: well-formed, sandboxed, and starting commands that exist."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from coordinator import cli as coordinator_cli
from edge_agent import cli as edge_agent_cli

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
TIMERS = sorted((DEPLOY / "systemd").glob("*.timer"))
APPS = {"coordinator": coordinator_cli.app, "edge-agent": edge_agent_cli.app}
INSTALLED = "/opt/hospital-edge-kit/bin/"
EXPOSURE_LIMIT = 1.5  # of 10; a unit without any sandbox has 9.6


def systemd_analyze(*words):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    done = subprocess.run(
        ["systemd-analyze", *map(str, words)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def named(path):
    return path.name


def read(unit):
    found = configparser.RawConfigParser(strict=False)
    found.optionxform = str
    found.read_string(unit.read_text())
    return found


def as_installed(folder):
    """The units with programs that exist here; their own live where they will be installed."""
    for path in (*UNITS, *TIMERS):
        (folder / path.name).write_text(path.read_text().replace(INSTALLED, "/bin/"))
    text = "\n".join(path.read_text() for path in folder.iterdir())
    for program in APPS:
        assert f"/bin/{program} " in text
    for path in folder.iterdir():
        path.write_text(re.sub(r"/bin/(coordinator|edge-agent) ", "/bin/true ", path.read_text()))
    return sorted(folder.iterdir())


def test_every_unit_is_well_formed(tmp_path):
    code, said = systemd_analyze("verify", *as_installed(tmp_path))
    assert (code, said) == (0, "")
    broken = tmp_path / "broken.service"
    broken.write_text("[Service]\nExecStart=/bin/true\nProtectSystm=strict\n")
    _, said = systemd_analyze("verify", broken)
    assert "ProtectSystm" in said


def exposure(unit):
    _, said = systemd_analyze("security", "--offline=yes", unit)
    return float(re.search(r"Overall exposure level for \S+ ([\d.]+)", said.replace(":", ""))[1])


@pytest.mark.parametrize("unit", UNITS, ids=named)
def test_every_unit_is_sandboxed(unit, tmp_path):
    assert exposure(unit) <= EXPOSURE_LIMIT
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare) > 5


@pytest.mark.parametrize("unit", UNITS, ids=named)
def test_every_unit_runs_an_existing_command_under_its_own_account(unit):
    service = read(unit)["Service"]
    program, *words = shlex.split(service["ExecStart"].removeprefix(INSTALLED))
    command = typer.main.get_command(APPS[program])
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {name for option in command.params for name in option.opts}
    given = {word for word in words if word.startswith("--")}
    assert given
    assert given <= known
    accounts = (DEPLOY / "sysusers.d" / "hospital-edge-kit.conf").read_text()
    assert re.search(rf"^u {service['User']} ", accounts, re.MULTILINE)
    assert service["Group"] == service["User"]


def test_every_folder_a_unit_writes_is_made_for_its_account():
    made = (DEPLOY / "tmpfiles.d" / "hospital-edge-kit.conf").read_text()
    folders = {}
    for line in made.splitlines():
        if line.startswith("d "):
            _, path, mode, user, *_ = line.split()
            folders[path] = (mode, user)
    for unit in UNITS:
        service = read(unit)["Service"]
        for path in service.get("ReadWritePaths", "").split():
            assert folders[path][1] == service["User"], (unit.name, path)
    homes = [mode for path, (mode, _) in folders.items() if "metrics" not in path]
    assert set(homes) == {"0700"}


def test_every_timer_starts_a_unit_that_is_there():
    assert {path.stem for path in TIMERS} <= {path.stem for path in UNITS}
    assert len(TIMERS) == 3


def test_only_backups_have_no_network_and_nothing_listens_at_a_site():
    for unit in UNITS:
        service = read(unit)["Service"]
        is_cut_off = service.get("PrivateNetwork") == "yes"
        assert is_cut_off == ("backup" in unit.name), unit.name
    assert not list((DEPLOY / "systemd").glob("*.socket"))
