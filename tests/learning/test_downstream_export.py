"""The ONNX file: pixels to probabilities, the same bytes everywhere, nothing of the machine."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from federation.learning.downstream.classifier import build_classifier, classifiers, initialise
from federation.learning.downstream.export import check_parity, export_onnx, preprocess
from federation.release.onnx_lint import NOTICE, ModelContract, lint
from kit.errors import FormatError, KitError

ROOT = Path(__file__).parents[2]
LABELS = ("benign", "lymphoma (B-cell)", "other/unknown")

_PROGRAM = """
import hashlib, torch
from federation.learning.downstream.classifier import build_classifier, initialise
from federation.learning.downstream.export import export_onnx
network = build_classifier("resnet-small", channels=1, height=8, width=8, num_classes=2)
initialise(network, torch.Generator().manual_seed(0))
data = export_onnx(network.eval(), channels=1, height=8, width=8, labels=["a", "b"],
                   metadata={"study": "s1", "digest": "0" * 64})
print(hashlib.sha256(data).hexdigest())
"""


def _network(name: str = "resnet-small", *, channels: int, side: int, seed: int = 0):
    network = build_classifier(
        name, channels=channels, height=side, width=side, num_classes=len(LABELS)
    )
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def _export(network: torch.nn.Module, *, channels: int, side: int, **metadata: str) -> bytes:
    return export_onnx(
        network, channels=channels, height=side, width=side, labels=LABELS, metadata=metadata
    )


@pytest.mark.parametrize("name", classifiers())
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 28)])
def test_the_file_agrees_with_the_network_for_images_of_any_size(
    name: str, channels: int, side: int
) -> None:
    network = _network(name, channels=channels, side=side)
    data = _export(network, channels=channels, side=side)
    draws = np.random.default_rng(0)
    for height, width in [(side, side), (3 * side + 1, side // 2), (5, 2 * side), (97, 130)]:
        images = draws.random((3, channels, height, width), dtype=np.float32)
        assert check_parity(network, data, images, height=side, width=side) < 1e-5


def test_a_perturbed_network_fails_parity() -> None:
    network = _network(channels=1, side=8)
    data = _export(network, channels=1, side=8)
    images = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    check_parity(network, data, images, height=8, width=8)
    with torch.no_grad():
        network.head.bias[0] += 0.01
    with pytest.raises(KitError, match="differ"):
        check_parity(network, data, images, height=8, width=8)


@pytest.mark.parametrize("size", [(25, 17), (8, 8), (5, 7), (200, 9)])
def test_the_graph_resizes_as_pillow_does(size: tuple[int, int]) -> None:
    model = onnx.load_from_string(_export(_network(channels=1, side=8), channels=1, side=8))
    name = "preprocessing.centred"
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image = np.random.default_rng(0).random(size, dtype=np.float32)
    (found,) = session.run([name], {"images": image[None, None]})
    resized = Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR)
    expected = 2 * np.asarray(resized) - 1
    assert np.abs(found[0, 0] - expected).max() < 1e-5
    ours = preprocess(torch.from_numpy(image)[None, None], height=8, width=8)[0, 0].numpy()
    assert np.abs(ours - expected).max() < 1e-5


def test_equal_weights_give_equal_bytes_in_every_process_folder_and_hash_seed(
    tmp_path: Path,
) -> None:
    def digest(folder: Path, hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    first = digest(ROOT, "1")
    assert first == digest(tmp_path, "2")
    network = build_classifier("resnet-small", channels=1, height=8, width=8, num_classes=2)
    initialise(network, torch.Generator().manual_seed(0))

    def here() -> str:
        metadata = {"digest": "0" * 64, "study": "s1"}
        shape = {"channels": 1, "height": 8, "width": 8}
        data = export_onnx(network.eval(), **shape, labels=["a", "b"], metadata=metadata)
        return hashlib.sha256(data).hexdigest()

    assert here() == first
    with torch.no_grad():
        weight = network.head.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert here() != first


def test_the_file_holds_labels_and_notice_and_nothing_of_the_machine() -> None:
    data = _export(_network(channels=3, side=16), channels=3, side=16, study="s1")
    contract = ModelContract(channels=3, height=16, width=16, labels=LABELS)
    metadata = lint(data, contract=contract)
    assert metadata["notice"] == NOTICE
    assert metadata["labels"] == '["benign","lymphoma (B-cell)","other/unknown"]'
    assert metadata["study"] == "s1"
    text = b"\n".join(re.findall(rb"[\x20-\x7e]{4,}", data)).decode()
    for trace in (str(ROOT), str(Path.home()), ".py", sys.prefix, "torch", "line "):
        assert trace not in text
    assert "resnet" not in text
    assert "preprocessing.resized" in text


def test_batch_and_size_are_free_and_rows_sum_to_one() -> None:
    data = _export(_network(channels=1, side=8), channels=1, side=8)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [i.shape for i in session.get_inputs()] == [["N", 1, "h", "w"]]
    for count, size in [(1, 8), (7, 31)]:
        images = np.random.default_rng(0).random((count, 1, size, size), dtype=np.float32)
        (rows,) = session.run(["probabilities"], {"images": images})
        assert rows.shape == (count, len(LABELS))
        assert np.allclose(rows.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"labels": "[]"}, "set by the export"),
        ({"origin": "/home/someone/run"}, "path"),
        ({"origin": "caf\u00e9"}, "printable"),
        ({"not a word": "x"}, "word"),
    ],
)
def test_metadata_that_does_not_belong_is_refused(metadata: dict[str, str], message: str) -> None:
    network = _network(channels=1, side=8)
    assert _export(network, channels=1, side=8, origin="build 7")
    with pytest.raises(KitError, match=message):
        _export(network, channels=1, side=8, **metadata)


def test_a_label_outside_the_closed_set_is_refused() -> None:
    network = _network(channels=1, side=8)
    shape = {"channels": 1, "height": 8, "width": 8}
    assert export_onnx(network, **shape, labels=LABELS)
    with pytest.raises(FormatError, match="label"):
        export_onnx(network, **shape, labels=("a", "=cmd", "b"))


class _Foreign(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.flatten = torch.nn.Flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.flatten(self.layer(x))


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Sigmoid(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
    ],
    ids=["operator", "pooling", "padding"],
)
def test_a_network_outside_the_vocabulary_is_refused(layer: torch.nn.Module) -> None:
    shape = {"channels": 1, "height": 3, "width": 3}
    labels = tuple("abcdefghi")
    assert export_onnx(_Foreign(torch.nn.ReLU()).eval(), **shape, labels=labels)
    with pytest.raises(KitError, match="ONNX form"):
        export_onnx(_Foreign(layer).eval(), **shape, labels=labels)


def test_a_network_in_training_mode_is_refused() -> None:
    network = _network(channels=1, side=8)
    assert _export(network, channels=1, side=8)
    with pytest.raises(RuntimeError, match="evaluation"):
        _export(network.train(), channels=1, side=8)
