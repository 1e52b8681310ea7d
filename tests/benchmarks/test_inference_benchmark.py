"""The benchmark of inference compares like with like."""

import argparse

import numpy as np
import pytest

from benchmarks import inference as benchmark

OPTIONS = argparse.Namespace(classifier="resnet-small", side=8, channels=1, threads=1)


def without_compile():
    made = benchmark.ways(OPTIONS)
    return {name: way for name, way in made.items() if name != "torch.compile"}


def test_every_way_gives_what_torch_gives_and_one_that_does_not_ends_it():
    images = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    found = without_compile()
    assert list(benchmark.agree(found, images)) == ["torch eager", "ONNX", "ONNX, `predict`"]
    with pytest.raises(SystemExit, match="wrong differs from torch"):
        benchmark.agree(found | {"wrong": lambda x: found["ONNX"](1 - x)}, images)


def test_the_ways_take_turns_and_a_row_is_relative_to_eager():
    order = []
    ways = {name: lambda _, n=name: order.append(n) for name in ("a", "b")}
    taken = benchmark.seconds(ways, np.zeros(1), 3)
    assert order == ["a", "b"] * 3
    assert [len(times) for times in taken.values()] == [3, 3]
    made = benchmark.row("a", 64, [0.002] * 9, eager_p50=0.004)
    assert (made["p50_ms"], made["images_per_second"], made["p50_of_eager"]) == (2.0, 32000, 0.5)
