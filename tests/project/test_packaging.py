"""What an installation holds: one ONNX runtime, no torch where nothing is trained."""

import json
import re
import subprocess
import sys
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

PACKAGE = "hospital-edge-kit"


def selected(*extras: str) -> set[str]:
    """The distributions pip takes: the base ones always, then those of each extra."""
    names = set()
    for text in requires(PACKAGE) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
            names.add(requirement.name)
    return names


@pytest.mark.parametrize(
    ("extras", "runtime"),
    [
        (("predict",), "onnxruntime"),
        (("train",), "onnxruntime"),
        (("coordinator",), "onnxruntime"),
        (("train", "coordinator"), "onnxruntime"),
        (("gpu",), "onnxruntime-gpu"),
    ],
)
def test_every_flavour_brings_exactly_one_onnx_runtime(
    extras: tuple[str, ...], runtime: str
) -> None:
    assert {n for n in selected(*extras) if n.startswith("onnxruntime")} == {runtime}


def test_gpu_holds_all_that_the_other_extras_hold() -> None:
    others = selected("train", "coordinator") - {"onnxruntime"}
    assert others <= selected("gpu")
    assert "torch" in others


def test_a_site_that_only_predicts_gets_no_torch() -> None:
    assert not {"torch", "diffusers", "opacus", "sqlalchemy"} & selected("predict")


@pytest.mark.parametrize("program", ["edge_agent.cli", "coordinator.cli"])
def test_help_loads_nothing_heavy(program: str) -> None:
    code = (
        f"import sys, json; import {program} as cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = ['torch', 'diffusers', 'opacus', 'onnxruntime', 'sqlalchemy', 'grpc']\n"
        "print('\\n' + json.dumps([m for m in heavy if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Usage" in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert json.loads(done.stdout.strip().splitlines()[-1]) == []


def test_no_archive_or_pickle_is_used_by_the_product() -> None:
    """No zip, tar, pickle or torch.load anywhere but in the reader of MedMNIST archives."""
    from pathlib import Path

    root = Path(__file__).parents[2]
    word = re.compile(
        r"^\s*(?:import|from) (zipfile|tarfile|pickle|shelve|marshal)\b|torch\.load\(", re.M
    )
    packages = ("kit", "pki", "protos", "federation", "edge_agent", "coordinator")
    users = {
        str(path.relative_to(root))
        for package in packages
        for path in (root / package).rglob("*.py")
        if word.search(path.read_text())
    }
    assert users == {"edge_agent/datasets/npz.py"}
