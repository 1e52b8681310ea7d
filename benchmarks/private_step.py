"""One private training step against its rivals, at equal rows: seconds and peak memory.

Each way runs in a process of its own, so that its peak memory is its own, and they step in turns,
so that what else the machine does falls on all alike; a ratio is the median over turns of this
way's seconds over the plain step's in the same turn:

- `plain`: forward and backward of the mean loss, Adam; no privacy.
- `ours`: K draws summed inside each layer, clipping, secret noise (`edge_agent.training`).
- `hooks`: Opacus' `GradSampleModule`; a gradient per draw, K times as many, summed per unit after.
- `functorch`: the same, each layer's rows by `torch.func.vmap` over `grad`.

The rivals get Opacus' own optimiser and a seeded generator's noise, which is cheaper than ours.

`python -m benchmarks.private_step [--preset tiny] [--units 128] [--draws 4] [--quick]`
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

WAYS = ("plain", "ours", "hooks", "functorch")
SIDE_PX = {"tiny": 8, "tiny-wide": 8, "small": 28, "large": 64}
_CLASSES = 8
_LEARNING_RATE = 2e-3
_SIGMA = 3.0


def main() -> int:
    """Run every way in its own process and print the table; exit 0 only if all of them ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.private_step", description=__doc__)
    parser.add_argument("--preset", choices=SIDE_PX, default="tiny")
    parser.add_argument("--units", type=int, default=128, help="units in a step")
    parser.add_argument("--draws", type=int, default=4, help="draws per unit, K")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--quick", action="store_true", help="a few steps of fewer units")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.units, chosen.steps = min(chosen.units, 16), 2
    if chosen.one:
        _take_steps(chosen)
        return 0
    rows = _rows(chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(
        f"{'':12}{'s/step':>10}{'x plain':>10}{'CPU s':>10}{'x plain':>10}{'MiB':>8}{'x plain':>10}"
    )
    for way, row in rows.items():
        print(
            f"{way:12}{row['seconds']:>10.3f}{row['seconds_ratio']:>10.2f}"
            f"{row['cpu']:>10.3f}{row['cpu_ratio']:>10.2f}"
            f"{row['peak_mib']:>8.0f}{row['peak_mib'] / rows['plain']['peak_mib']:>10.2f}"
        )
    return 0


def _rows(chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Let every way take a step in each of `--steps` turns."""
    with ExitStack() as stack:
        ways = {way: stack.enter_context(_apart(way, chosen)) for way in WAYS}
        for process in ways.values():
            _ask(process)  # the first steps choose algorithms and fill caches
            _ask(process)
        turns = [{way: _ask(process) for way, process in ways.items()} for _ in range(chosen.steps)]
    return {
        way: {
            "seconds": round(median(turn[way]["seconds"] for turn in turns), 4),
            "seconds_ratio": _ratio(turns, way, "seconds"),
            "cpu": round(median(turn[way]["cpu"] for turn in turns), 4),
            "cpu_ratio": _ratio(turns, way, "cpu"),
            "peak_mib": max(turn[way]["peak_mib"] for turn in turns),
        }
        for way in WAYS
    }


def _ratio(turns: list[dict[str, dict[str, float]]], way: str, of: str) -> float:
    return round(median(turn[way][of] / turn["plain"][of] for turn in turns), 3)


def _ask(process: subprocess.Popen[str]) -> dict[str, float]:
    """Let one way take one step; returns its seconds, its processor seconds and its peak so far."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        sys.exit("a way ended before its time")
    told: dict[str, float] = json.loads(line)
    return told


def _apart(way: str, chosen: argparse.Namespace) -> subprocess.Popen[str]:
    words = ["--preset", chosen.preset, "--threads", str(chosen.threads), "--one", way]
    for name in ("units", "draws", "steps"):
        words += [f"--{name}", str(getattr(chosen, name))]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.private_step", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _take_steps(chosen: argparse.Namespace) -> None:
    """Take a step for every line that comes in, and say what it took."""
    import torch

    torch.set_num_threads(chosen.threads)
    step = _step(chosen)
    for _ in sys.stdin:
        used, started = time.process_time(), time.perf_counter()
        step()
        told = {
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - used,
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
        print(json.dumps(told), flush=True)


def _step(chosen: argparse.Namespace) -> Callable[[], None]:
    """Return one whole step of the way that was asked for."""
    import torch
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    from edge_agent.training import gradients
    from edge_agent.training.loop import rows_per_pass
    from edge_agent.training.optimizer import private_adam
    from federation.learning.generator.architecture import (
        DIFFUSION,
        Architecture,
        build_network,
    )

    side, units, draws = SIDE_PX[chosen.preset], chosen.units, chosen.draws
    network: torch.nn.Module = build_network(
        Architecture(
            kind=DIFFUSION.name,
            version=DIFFUSION.version,
            preset=chosen.preset,
            channels=1,
            height=side,
            width=side,
            num_classes=_CLASSES,
        )
    )
    width = max(1, rows_per_pass(torch.device("cpu"), side_px=side) // draws)
    passes = [min(width, units - at) for at in range(0, units, width)]

    if chosen.one == "ours":
        ours = private_adam(
            network,
            learning_rate=_LEARNING_RATE,
            noise_multiplier=_SIGMA,
            max_grad_norm=1.0,
            expected_batch_size=units,
        )
        gradients.attach(network, draws=draws)

        def private() -> None:
            for some in passes:
                (_loss(network, some * draws, side).sum() / draws).backward()
                ours.accumulate()
            ours.noisy_step(network)

        return private

    adam = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    if chosen.one == "plain":

        def plain() -> None:
            adam.zero_grad(set_to_none=True)
            for some in passes:
                (_loss(network, some * draws, side).sum() / (units * draws)).backward()
            adam.step()

        return plain

    warnings.filterwarnings("ignore", module="(opacus|torch|__main__).*")  # hooks, autocast
    use_functorch = chosen.one == "functorch"
    wrapped = GradSampleModule(network, loss_reduction="sum", force_functorch=use_functorch)
    opacus = DPOptimizer(
        adam, noise_multiplier=_SIGMA, max_grad_norm=1.0, expected_batch_size=units
    )

    def rival() -> None:
        for at, some in enumerate(passes):
            (_loss(wrapped, some * draws, side).sum() / draws).backward()
            for parameter in network.parameters():
                rows = parameter.grad_sample
                parameter.grad_sample = rows.reshape(draws, some, *parameter.shape).sum(dim=0)
            opacus.signal_skip_step(do_skip=at + 1 < len(passes))
            opacus.step()
            opacus.zero_grad(set_to_none=True)

    return rival


def _loss(network: Any, rows: int, side_px: int) -> Any:
    import torch

    from federation.learning.generator import edm

    clean = torch.rand(rows, 1, side_px, side_px) * 2 - 1
    labels = torch.randint(0, _CLASSES, (rows,))
    sigma = edm.sigma_of(torch.randn(rows), p_mean=-0.5, p_std=1.2)
    noisy = clean + sigma.reshape(-1, 1, 1, 1) * torch.randn_like(clean)
    return edm.denoising_loss(network(noisy, sigma, labels), clean, sigma)


if __name__ == "__main__":
    sys.exit(main())
