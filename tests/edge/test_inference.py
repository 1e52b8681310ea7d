"""Prediction at a site: linted bytes, a runtime that says what runs, honest rows."""

import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edge_agent import inference
from edge_agent.datasets.load import ImageSet, load_images, to_study
from edge_agent.inference import (
    CPU,
    PredictionTable,
    evaluate,
    open_model,
    require_one_runtime,
    tabulate,
)
from federation.release import onnx_lint
from federation.release.onnx_lint import CENTRED, NOTICE, ModelContract
from federation.study import ImageRule
from kit import canonical
from kit.errors import FormatError, KitError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = ("dark", "light")


def contract(channels: int = 1) -> ModelContract:
    return ModelContract(channels=channels, height=8, width=8, labels=LABELS)


def model_bytes(channels: int = 1, *, softness: float = 1.0) -> bytes:
    """Write a classifier by hand: the mean intensity m gives logits (-4m, 4m) / softness."""
    weights = np.tile(np.array([[-4.0], [4.0]], np.float32) / (softness * channels), channels)
    nodes, constants = onnx_lint.preprocessing(height=8, width=8)
    nodes += [
        helper.make_node("GlobalAveragePool", [CENTRED], ["network.mean"], name="network.mean"),
        helper.make_node(
            "Flatten", ["network.mean"], ["network.flat"], name="network.flat", axis=1
        ),
        helper.make_node(
            "Gemm", ["network.flat", "weight"], ["network.logits"], name="network.logits", transB=1
        ),
        helper.make_node(
            "Softmax", ["network.logits"], ["probabilities"], name="probabilities", axis=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        onnx_lint.GRAPH_NAME,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", channels, "h", "w"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(LABELS)])],
        [*constants, numpy_helper.from_array(weights.astype("<f4"), "weight")],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", onnx_lint.OPSET)],
        ir_version=onnx_lint.IR_VERSION,
        producer_name=onnx_lint.PRODUCER,
    )
    table = {"labels": onnx_lint.labels_metadata(LABELS), "notice": NOTICE}
    helper.set_model_props(model, table)
    return bytes(model.SerializeToString(deterministic=True))


def image_set(images: list[np.ndarray], labels: tuple[str, ...] | None = None) -> ImageSet:
    files = tuple(f"{i}.png" for i in range(len(images)))
    return ImageSet(files=files, images=tuple(images), labels=labels, refused=())


def flat(value: float, height: int = 8, width: int = 8, channels: int = 1) -> np.ndarray:
    return np.full((channels, height, width), value, dtype=np.float32)


def test_images_of_any_size_come_back_in_their_order() -> None:
    model = open_model(model_bytes(), contract=contract())
    rng = np.random.default_rng(0)
    values = rng.random(40)
    sizes = rng.integers(3, 40, (40, 2))
    images = [flat(v, int(h), int(w)) for v, (h, w) in zip(values, sizes, strict=True)]
    found = model.predict(images)
    logit = 8 * (2 * values - 1)
    assert found.shape == (40, 2)
    assert np.allclose(found[:, 1], 1 / (1 + np.exp(-logit)), atol=1e-5)


def test_one_image_alone_gives_what_it_gives_in_a_batch(monkeypatch) -> None:
    model = open_model(model_bytes(3), contract=contract(3))
    rng = np.random.default_rng(1)
    images = [rng.random((3, 20, 30), dtype=np.float32) for _ in range(7)]
    together = model.predict(images)
    alone = np.concatenate([model.predict([image]) for image in images])
    monkeypatch.setattr(inference, "MAX_BATCH_PIXELS", 1200)
    in_pairs = model.predict(images)
    assert np.allclose(together, alone, atol=1e-6)
    assert np.allclose(together, in_pairs, atol=1e-6)
    assert model.predict([]).shape == (0, 2)


def test_the_graph_resizes_as_training_did() -> None:
    """The model sees [0, 1] at the file's size; training saw Pillow's resize to [-1, 1]."""
    model = open_model(model_bytes(), contract=contract())
    rule = ImageRule(channels=1, height=8, width=8)
    rng = np.random.default_rng(2)
    for shape in ((1, 8, 8), (1, 31, 17), (1, 5, 64)):
        image = rng.random(shape, dtype=np.float32)
        mean = float(to_study(image, rule).mean())
        found = model.predict([image])[0, 1]
        assert found == pytest.approx(1 / (1 + np.exp(-8 * mean)), abs=1e-4)


def test_bytes_that_break_the_contract_never_reach_a_runtime() -> None:
    good = model_bytes()
    assert open_model(good, contract=contract()).digest == canonical.digest(good)
    other = ModelContract(channels=1, height=8, width=8, labels=("light", "dark"))
    for data, wanted in (
        (good, other),
        (good, contract(3)),
        (good[:-1], contract()),
        (good + b"\x00", contract()),
        (b"", contract()),
        (b"junk", contract()),
    ):
        with pytest.raises(FormatError, match="ONNX"):
            open_model(data, contract=wanted)
    hidden = onnx.load_from_string(good)
    hidden.graph.node[0].doc_string = "/home/user/planted"
    with pytest.raises(FormatError, match="doc_string"):
        open_model(hidden.SerializeToString(deterministic=True), contract=contract())


def test_without_a_gpu_the_cpu_runs_and_says_so() -> None:
    model = open_model(model_bytes(), contract=contract())
    assert model.provider == CPU
    assert "CUDA" in model.why
    assert open_model(model_bytes(), contract=contract(), use_gpu=False).provider == CPU


def test_images_of_another_shape_are_refused() -> None:
    model = open_model(model_bytes(), contract=contract())
    assert model.predict([flat(0.5)]).shape == (1, 2)
    for image in (flat(0.5, channels=3), flat(0.5)[0], flat(0.5)[:, :0]):
        with pytest.raises(KitError, match="has shape"):
            model.predict([flat(0.5), image])


def test_an_output_that_is_no_probability_is_refused() -> None:
    model = open_model(model_bytes(), contract=contract())
    assert model.predict([flat(1.0)])[0, 1] > 0.9
    with pytest.raises(KitError, match="something else than probabilities"):
        model.predict([flat(float("nan"))])


def distribution(folder: Path, name: str) -> Path:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return folder


def test_two_runtimes_side_by_side_are_refused(tmp_path, monkeypatch) -> None:
    (mine,) = {require_one_runtime()}
    (other,) = set(inference.RUNTIMES) - {mine}
    monkeypatch.syspath_prepend(str(distribution(tmp_path / "a", "unrelated")))
    assert open_model(model_bytes(), contract=contract())
    monkeypatch.syspath_prepend(str(distribution(tmp_path / "b", other)))
    with pytest.raises(KitError, match="both `onnxruntime` and `onnxruntime-gpu`"):
        open_model(model_bytes(), contract=contract())


def test_a_missing_runtime_is_one_clear_line(tmp_path, monkeypatch) -> None:
    assert require_one_runtime() in inference.RUNTIMES
    monkeypatch.setattr(sys, "path", [str(distribution(tmp_path / "only", "unrelated"))])
    with pytest.raises(KitError, match="no ONNX runtime"):
        require_one_runtime()


def test_evaluation_compares_columns_by_label() -> None:
    model = open_model(model_bytes(), contract=contract())
    images = [flat(0.9), flat(0.1), flat(0.8), flat(0.2)]
    right = evaluate(model, image_set(images, ("light", "dark", "light", "dark")))
    assert (right.metrics.accuracy, right.metrics.auroc, right.unknown) == (1.0, 1.0, ())
    half = evaluate(model, image_set(images, ("light", "dark", "dark", "light")))
    assert half.metrics.accuracy == 0.5


def test_a_class_that_the_release_lacks_counts_as_wrong_and_is_named() -> None:
    model = open_model(model_bytes(), contract=contract())
    found = evaluate(model, image_set([flat(0.9), flat(0.1)], ("light", "unseen")))
    assert found.unknown == ("unseen",)
    assert found.labels.tolist() == [1, -1]
    assert found.metrics.accuracy == 0.5


def test_evaluation_wants_labels() -> None:
    model = open_model(model_bytes(), contract=contract())
    assert evaluate(model, image_set([flat(0.9)], ("light",))).metrics.images == 1
    with pytest.raises(KitError, match="no labels"):
        evaluate(model, image_set([flat(0.9)]))


def test_rows_say_the_release_the_time_and_what_they_are_not() -> None:
    model = open_model(model_bytes(), contract=contract())
    table = tabulate(model, image_set([flat(0.9), flat(0.1)]), release="sha256:ab", now=NOW)
    (first, second) = csv.DictReader(io.StringIO(table.to_csv()))
    assert (first["file"], first["label"], second["label"]) == ("0.png", "light", "dark")
    assert float(first["p(dark)"]) + float(first["p(light)"]) == pytest.approx(1, abs=1e-5)
    for row in (first, second):
        assert row["release"] == "sha256:ab"
        assert row["time"] == "2026-01-01T00:00:00Z"
        assert row["notice"] == "research use only, not a medical device"
    written = json.loads(table.to_json())
    assert written["notice"] == first["notice"]
    assert written["rows"][0]["label"] == "light"
    assert written["rows"][0]["probabilities"]["light"] == float(first["p(light)"])


@pytest.mark.parametrize(
    "name",
    ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "'=1", "\t=1", "\r=1", "a\x1b[31m", "ok,b"],
)
def test_no_cell_starts_a_formula_or_moves_a_terminal(name: str) -> None:
    model = open_model(model_bytes(), contract=contract())
    images = ImageSet(files=(name,), images=(flat(0.9),), labels=None, refused=())
    text = tabulate(model, images, release="sha256:ab", now=NOW).to_csv()
    (row,) = csv.DictReader(io.StringIO(text))
    for cell in row.values():
        assert cell[0] not in "=+-@\t\r"
        assert cell.isprintable()
    assert row["label"] == "light"


def test_an_undecodable_file_name_is_still_written() -> None:
    name = os.fsdecode(b"b\xff.png")
    table = PredictionTable(labels=LABELS, rows=(), release="r", time="t")
    row = inference.Prediction(file=name, label="dark", probabilities=(1.0, 0.0))
    table = PredictionTable(labels=LABELS, rows=(row,), release="r", time="t")
    assert table.to_csv().encode()
    assert json.loads(table.to_json().encode())["rows"][0]["file"] == name


def test_a_folder_of_files_is_predicted_from_end_to_end(tmp_path) -> None:
    for label, value in (("dark", 20), ("light", 230)):
        (tmp_path / label).mkdir()
        for side in (8, 13):
            Image.new("L", (side, side), value).save(tmp_path / label / f"{side}.png")
    model = open_model(model_bytes(), contract=contract())
    images = load_images(tmp_path, ImageRule(channels=1, height=8, width=8), LABELS)
    assert evaluate(model, images).metrics.accuracy == 1
    assert len(tabulate(model, images, release="sha256:ab", now=NOW).rows) == 4


def test_a_site_that_only_predicts_loads_no_torch() -> None:
    code = (
        "import sys; import edge_agent.inference, edge_agent.ledger, edge_agent.gate; "
        "import edge_agent.datasets.load; "
        "sys.exit(' '.join({'torch', 'onnxruntime', 'diffusers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
