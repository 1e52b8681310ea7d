"""Inference of a released classifier: ONNX at a site beside torch eager and torch.compile.

All take the same images in [0, 1] at the study's size and give probabilities, with the same number
of threads. The ways take turns, call by call, so that a busy machine slows all of them alike.
`predict` is the kit's own call around ONNX, with its batching and its check of the answer, and
as many threads as the runtime takes by itself.

    python -m benchmarks.inference [--quick] [--classifier NAME] [--side PX] [--json FILE]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from edge_agent import inference
from federation.learning.downstream.classifier import build_classifier, classifiers, initialise
from federation.learning.downstream.export import export_onnx
from federation.release.onnx_lint import INPUT_NAME, OUTPUT_NAME, ModelContract
from kit.door import columns

BATCHES = (1, 64)
LABELS = tuple(f"class-{i}" for i in range(10))
TOLERANCE = 1e-4
GOAL = 0.5  # of eager's p50

Images = np.ndarray
Way = Callable[[Images], Images]


def network(name: str, *, channels: int, side: int) -> torch.nn.Module:
    """Return a classifier with random weights: its time does not depend on them."""
    found = build_classifier(
        name, channels=channels, height=side, width=side, num_classes=len(LABELS)
    )
    initialise(found, torch.Generator().manual_seed(0))
    return found.eval()


def in_torch(module: Callable[[torch.Tensor], torch.Tensor]) -> Way:
    def run(images: Images) -> Images:
        with torch.inference_mode():
            logits = module(2 * torch.from_numpy(images) - 1)
            return torch.softmax(logits, dim=1).numpy()

    return run


def in_onnx(data: bytes, threads: int) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(data, options, providers=[inference.CPU])
    return lambda images: session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]


def as_predicted(data: bytes, contract: ModelContract) -> Way:
    model = inference.open_model(data, contract=contract, use_gpu=False)
    return lambda images: model.predict(list(images))


def ways(options: argparse.Namespace) -> dict[str, Way]:
    """Return what is compared, the reference first."""
    side, channels = options.side, options.channels
    module = network(options.classifier, channels=channels, side=side)
    data = export_onnx(module, channels=channels, height=side, width=side, labels=LABELS)
    contract = ModelContract(channels=channels, height=side, width=side, labels=LABELS)
    compiled = torch.compile(module, dynamic=False)
    return {
        "torch eager": in_torch(module),
        "torch.compile": in_torch(compiled),
        "ONNX": in_onnx(data, options.threads),
        "ONNX, `predict`": as_predicted(data, contract),
    }


def agree(found: dict[str, Way], images: Images) -> dict[str, Way]:
    """Return the ways that run here; each must give what torch gives."""
    expected, working = next(iter(found.values()))(images), {}
    for name, way in found.items():
        try:
            difference = float(np.abs(way(images) - expected).max())
        except (RuntimeError, OSError) as error:  # torch.compile without a C++ compiler
            print(f"{name}: does not run here: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        if not difference <= TOLERANCE:
            sys.exit(f"{name} differs from torch by {difference:.2g}")
        working[name] = way
    return working


def seconds(found: dict[str, Way], images: Images, calls: int) -> dict[str, list[float]]:
    """Return the seconds of every call, the ways in turns."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(calls):
        for name, way in found.items():
            start = time.perf_counter()
            way(images)
            taken[name].append(time.perf_counter() - start)
    return taken


def row(name: str, batch: int, taken: list[float], eager_p50: float) -> dict[str, object]:
    p50, p99 = (float(np.percentile(taken, q)) for q in (50, 99))
    return {
        "way": name,
        "batch": batch,
        "p50_ms": round(p50 * 1000, 3),
        "p99_ms": round(p99 * 1000, 3),
        "images_per_second": round(batch / p50),
        "p50_of_eager": round(p50 / eager_p50, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--classifier", choices=classifiers(), default=classifiers()[0])
    parser.add_argument("--side", type=int, default=28, help="pixels")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng, rows = np.random.default_rng(0), []
    made = ways(options)
    for batch in BATCHES:
        shape = (batch, options.channels, options.side, options.side)
        images = rng.random(shape, dtype=np.float32)
        found = agree(made, images)
        seconds(found, images, 5)  # warm
        taken = seconds(found, images, (200 if batch == 1 else 40) // (4 if options.quick else 1))
        eager = float(np.percentile(taken["torch eager"], 50))
        rows += [row(name, batch, spent, eager) for name, spent in taken.items()]
    head = tuple(rows[0])
    print(columns([tuple(str(r[k]) for k in head) for r in rows], head))
    met = [r["p50_of_eager"] <= GOAL for r in rows if r["way"] == "ONNX"]
    print(f"goal, ONNX at most {GOAL:.0%} of eager's p50: met at {sum(met)} of {len(met)} batches")
    if options.json is not None:
        table = {"settings": {k: v for k, v in vars(options).items() if k != "json"}, "rows": rows}
        options.json.write_text(json.dumps(table, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
