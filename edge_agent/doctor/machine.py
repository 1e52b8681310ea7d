"""This machine: disk, permissions, and whether the GPU that is there is the one that computes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kit.errors import KitError
from pki.protecting import Place

MIN_FREE_BYTES = 2 << 30  # a run with its checkpoints, a sealed copy and a release
SELF_TEST_TIMEOUT_S = 180
LARGEST_DIFFERENCE = 1e-2  # between a GPU's product and the CPU's; TF32 is allowed
_MATRIX = 64

_TORCH = f"""
import json, torch
found = {{"version": torch.__version__, "built_for": torch.version.cuda or ""}}
found["available"] = torch.cuda.is_available()
if found["available"]:
    a = torch.linspace(-1, 1, {_MATRIX**2}).reshape({_MATRIX}, {_MATRIX})
    try:
        there = (a.cuda() @ a.cuda()).cpu()
        found["device"] = torch.cuda.get_device_name(0)
        found["difference"] = float((there - a @ a).abs().max())
    except RuntimeError as error:
        found["error"] = str(error).splitlines()[0]
print(json.dumps(found))
"""

_RUNTIME = f"""
import json
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper
names = onnxruntime.get_available_providers()
found = {{"version": onnxruntime.__version__, "available": "CUDAExecutionProvider" in names}}
if found["available"]:
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [{_MATRIX}] * 2)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "a"], ["b"])], "t", [value("a")], [value("b")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    a = np.linspace(-1, 1, {_MATRIX**2}, dtype=np.float32).reshape({_MATRIX}, {_MATRIX})
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CUDAExecutionProvider"]
        )
        found["used"] = session.get_providers()[0]
        found["difference"] = float(np.abs(session.run(None, {{"a": a}})[0] - a @ a).max())
    except Exception as error:
        found["error"] = str(error).splitlines()[0]
print(json.dumps(found))
"""


def disk(home: Path, *, at_least: int = MIN_FREE_BYTES) -> str:
    """Look for free space where the home lies."""
    there = next(
        folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists()
    )
    free = shutil.disk_usage(there).free
    if free < at_least:
        raise KitError(
            f"{free >> 20} MiB are free on the disk of `{home}`, and {at_least >> 20} are wanted",
            hint="free some, or move the home; finished runs under `runs/` are the largest part",
        )
    return f"{free >> 30} GiB free"


def permissions(place: Place) -> str:
    """Look who may read the keys."""
    count = 0
    for path in [place.home / name for name in place.folders] + list(place.files()):
        if not path.exists():
            continue
        count += 1
        found = path.stat()
        if found.st_uid != os.geteuid():
            raise KitError(
                f"`{path}` belongs to another user (uid {found.st_uid})",
                hint=f"run the agent as that user, or `chown -R {os.geteuid()} {place.home}`",
            )
        if found.st_mode & 0o077:
            wanted = "700" if path.is_dir() else "600"
            raise KitError(
                f"`{path}` can be reached by others (mode {found.st_mode & 0o777:o})",
                hint=f"run `chmod {wanted} {path}`; if somebody could have read it, enrol again",
            )
    return f"{count} keys and folders are this user's alone"


def has_gpu() -> bool:
    """Say whether the kernel shows an NVIDIA GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def training_gpu() -> str:
    """Find out what torch computes on, by computing."""
    return judge_torch(_self_test("torch", _TORCH), has_gpu=has_gpu())


def inference_gpu() -> str:
    """Find out what the ONNX runtime computes on, by computing."""
    return judge_runtime(_self_test("onnxruntime", _RUNTIME), has_gpu=has_gpu())


def judge_torch(found: Mapping[str, Any] | None, *, has_gpu: bool) -> str:
    """Say what torch uses; `found` is its self-test's, None without torch.

    Raises:
        KitError: there is a GPU that torch does not use, or not rightly.
    """
    if found is None:
        return "torch is not installed: this machine does not train"
    if not found["available"]:
        if not has_gpu:
            return f"no NVIDIA GPU here; torch {found['version']} uses the CPU"
        if not found["built_for"]:
            raise KitError(
                f"there is a GPU, but torch {found['version']} was built without CUDA",
                hint="install torch's CUDA build: without constraints.txt",
            )
        raise KitError(
            f"there is a GPU, but torch (for CUDA {found['built_for']}) does not reach it",
            hint="`nvidia-smi` says whether the driver answers and is new enough; in a container,"
            " start it with the GPU again (`systemctl daemon-reload` takes it away)",
        )
    return _judged("torch", found)


def judge_runtime(found: Mapping[str, Any] | None, *, has_gpu: bool) -> str:
    """Say what the ONNX runtime uses; `found` is its self-test's, None without one.

    Raises:
        KitError: there is a GPU, or CUDA is listed, and the CPU computes.
    """
    if found is None:
        raise KitError("no ONNX runtime is installed", hint="install the extra `predict` or `gpu`")
    if not found["available"]:
        if has_gpu:
            raise KitError(
                f"there is a GPU, but onnxruntime {found['version']} has no CUDA in it",
                hint="uninstall onnxruntime and install the kit with the extra `gpu`",
            )
        return f"no NVIDIA GPU here; onnxruntime {found['version']} uses the CPU"
    if found.get("used", "CUDAExecutionProvider") != "CUDAExecutionProvider":
        raise KitError(
            f"onnxruntime lists CUDA, and silently computes on `{found['used']}`",
            hint="its CUDA and cuDNN libraries are missing: pip install"
            " onnxruntime-gpu[cuda,cudnn]",
        )
    return _judged("onnxruntime", found)


def _judged(program: str, found: Mapping[str, Any]) -> str:
    if "error" in found:
        raise KitError(
            f"{program} lists CUDA, but failed on the GPU: {found['error']}",
            hint="`nvidia-smi` shows driver and memory; another program may fill the GPU",
        )
    if not found["difference"] <= LARGEST_DIFFERENCE:  # NaN as well
        raise KitError(
            f"{program} on the GPU differs from the CPU by {found['difference']:.2g}",
            hint="do not compute on this GPU; its driver or the device is faulty",
        )
    return f"{program} {found['version']} computes on CUDA ({found.get('device', 'tested')})"


def _self_test(package: str, code: str) -> dict[str, Any] | None:
    """Run a self-test in a process of its own: a driver may crash or hang what asks it."""
    if find_spec(package) is None:
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=SELF_TEST_TIMEOUT_S,
            check=False,
        )
        found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise KitError(
            f"{package} gave no answer to a small computation",
            hint=f"try `{sys.executable} -c 'import {package}'`: its installation is damaged, or"
            " the GPU's driver hangs",
        ) from error
    return found
