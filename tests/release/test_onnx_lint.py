"""The ONNX lint: our own export passes, and each hostile model has exactly one fault."""

import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from federation.learning.downstream.classifier import build_classifier, classifiers, initialise
from federation.learning.downstream.export import export_onnx
from federation.release import onnx_lint
from federation.release.onnx_lint import ModelContract, lint
from kit.errors import FormatError

CONTRACT = ModelContract(channels=1, height=8, width=8, labels=("a", "b"))


def _export(name: str = "resnet-small") -> bytes:
    network = build_classifier(name, channels=1, height=8, width=8, num_classes=2)
    initialise(network, torch.Generator().manual_seed(0))
    return export_onnx(
        network.eval(), channels=1, height=8, width=8, labels=("a", "b"), metadata={"study": "s1"}
    )


@pytest.fixture(scope="module")
def exported() -> bytes:
    return _export()


def _bytes(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def _node(model: ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def _set(model: ModelProto, kind: str, name: str, value: object) -> None:
    node = _node(model, kind)
    kept = [a for a in node.attribute if a.name != name]
    node.ClearField("attribute")
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _weights(model: ModelProto) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name.endswith("weight"))


def _replace(tensor: TensorProto, array: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _insert(model: ModelProto, kind: str, name: str = "extra", **attributes: object) -> None:
    """Put a node between the preprocessing and its first reader."""
    reader = model.graph.node[3]
    domain = attributes.pop("domain", None)
    node = helper.make_node(kind, [reader.input[0]], [name], name=name, **attributes)
    if domain:
        node.domain = domain
    reader.input[0] = name
    model.graph.node.insert(3, node)


def _subgraph() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])
    return helper.make_graph([helper.make_node("Identity", ["inner"], ["o"])], "g", [value], [])


def _sparse(model: ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, dtype=np.float32), "extra")
    indices = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def _external(model: ModelProto) -> None:
    tensor = _weights(model)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def _loop(model: ModelProto) -> None:
    _insert(model, "Loop", body=_subgraph())


def _unused(model: ModelProto) -> None:
    freight = np.zeros(9, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(freight, "freight"))


def _second_output(model: ModelProto) -> None:
    value = helper.make_tensor_value_info("preprocessing.centred", TensorProto.FLOAT, None)
    model.graph.output.append(value)


def _skip_resize(model: ModelProto) -> None:
    model.graph.node[3].input[0] = "images"


def _metadata(model: ModelProto, key: str, value: str) -> None:
    table = {entry.key: entry.value for entry in model.metadata_props} | {key: value}
    model.ClearField("metadata_props")
    helper.set_model_props(model, dict(sorted(table.items())))


def _chain(model: ModelProto, weights: dict[str, np.ndarray], layers: list[str]) -> None:
    """Put layers after the preprocessing: names of weights are convolutions, else `Relu`."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    model.graph.initializer.extend(tensors)
    reader = model.graph.node[3]
    x = reader.input[0]
    for number, layer in enumerate(layers):
        name = f"bomb.{number}"
        if layer == "Relu":
            node = helper.make_node("Relu", [x], [name], name=name)
        else:
            pads = [weights[layer].shape[-1] // 2] * 4
            node = helper.make_node("Conv", [x, layer], [name], name=name, pads=pads)
        model.graph.node.insert(3 + number, node)
        x = name
    reader.input[0] = x


def _memory_bomb(model: ModelProto) -> None:
    wide = {"w.first": np.zeros((50_000, 1, 1, 1), dtype=np.float32)}
    wide["w.last"] = np.zeros((1, 50_000, 1, 1), dtype=np.float32)
    _chain(model, wide, ["w.first", *["Relu"] * 30, "w.last"])


def _work_bomb(model: ModelProto) -> None:
    weights = {"w.first": np.zeros((512, 1, 1, 1), dtype=np.float32)}
    weights["w.wide"] = np.zeros((512, 512, 3, 3), dtype=np.float32)
    weights["w.last"] = np.zeros((1, 512, 1, 1), dtype=np.float32)
    _chain(model, weights, ["w.first", *["w.wide"] * 460, "w.last"])


def _swap(model: ModelProto) -> None:
    nodes = list(model.graph.node)
    nodes[4], nodes[5] = nodes[5], nodes[4]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def _bias(model: ModelProto) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name.endswith("bias"))


HOSTILE: dict[str, tuple[str, Callable[[ModelProto], object]]] = {
    "doc string of the model": ("doc_string", lambda m: setattr(m, "doc_string", "x")),
    "doc string of a node": ("doc_string", lambda m: setattr(m.graph.node[4], "doc_string", "x")),
    "doc string of the graph": ("doc_string", lambda m: setattr(m.graph, "doc_string", "x")),
    "trace in a node": (
        "metadata_props",
        lambda m: m.graph.node[4].metadata_props.add(key="pkg.torch", value="/home/x.py"),
    ),
    "value info": (
        "value_info",
        lambda m: m.graph.value_info.append(
            helper.make_tensor_value_info("network.head", TensorProto.FLOAT, ["N", 2])
        ),
    ),
    "local function": ("functions", lambda m: m.functions.add(name="f", domain="d")),
    "training info": ("training_info", lambda m: m.training_info.add()),
    "sparse tensor": ("sparse_initializer", _sparse),
    "quantisation": (
        "quantization_annotation",
        lambda m: m.graph.quantization_annotation.add(tensor_name="x"),
    ),
    "external data": ("data_location|external_data", _external),
    "model version": ("model_version", lambda m: setattr(m, "model_version", 7)),
    "producer version": ("producer_version", lambda m: setattr(m, "producer_version", "2.13")),
    "producer": ("producer", lambda m: setattr(m, "producer_name", "pytorch")),
    "graph name": ("graph name", lambda m: setattr(m.graph, "name", "main_graph")),
    "IR version": ("IR version", lambda m: setattr(m, "ir_version", 10)),
    "custom domain": (
        "operator sets",
        lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
    ),
    "other opset": ("operator sets", lambda m: setattr(m.opset_import[0], "version", 17)),
    "operator of a domain": (
        "field `domain`",
        lambda m: _insert(m, "Relu", domain="com.microsoft"),
    ),
    "operator outside the list": ("operator `Sigmoid`", lambda m: _insert(m, "Sigmoid")),
    "constant bomb": ("operator `ConstantOfShape`", lambda m: _insert(m, "ConstantOfShape")),
    "subgraph": ("field `g`", _loop),
    "second softmax": ("stands at the ends", lambda m: _insert(m, "Softmax", axis=1)),
    "path as a name": ("identifier", lambda m: _insert(m, "Relu", name="/home/a/model.py")),
    "half floats": (
        "neither float32",
        lambda m: _replace(_weights(m), np.zeros((24, 1, 3, 3), dtype=np.float16)),
    ),
    "values not finite": (
        "not finite",
        lambda m: _replace(_weights(m), np.full((24, 1, 3, 3), np.inf, dtype=np.float32)),
    ),
    "bytes not of the shape": (
        "bytes of its shape",
        lambda m: setattr(_weights(m), "raw_data", _weights(m).raw_data[:-4]),
    ),
    "shape over the limits": ("shape over", lambda m: _weights(m).dims.append(-1)),
    "values twice": ("float_data", lambda m: _weights(m).float_data.append(1.0)),
    "freight": ("used by no node", _unused),
    "stride zero": ("`strides`", lambda m: _set(m, "Conv", "strides", [0, 0])),
    "group zero": ("`group`", lambda m: _set(m, "Conv", "group", 0)),
    "padding bomb": ("`pads`", lambda m: _set(m, "Conv", "pads", [1 << 40] * 4)),
    "attribute of another type": ("checker", lambda m: _set(m, "Conv", "group", 1.0)),
    "attribute with two values": (
        "`axis`",
        lambda m: setattr(_node(m, "Flatten").attribute[0], "f", 1.0),
    ),
    "unknown attribute": ("`auto_pad`", lambda m: _set(m, "Conv", "auto_pad", "SAME_UPPER")),
    "weights computed": (
        "not constant",
        lambda m: _node(m, "Conv").input.append("preprocessing.centred"),
    ),
    "second output": ("outputs", _second_output),
    "output name": ("outputs", lambda m: setattr(m.graph.output[0], "name", "logits")),
    "fixed batch": (
        "inputs",
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
    ),
    "integer input": (
        "inputs",
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64),
    ),
    "resize to another size": (
        "preprocessing",
        lambda m: _replace(m.graph.initializer[0], np.array([9, 8], dtype=np.int64)),
    ),
    "no antialiasing": ("preprocessing", lambda m: _set(m, "Resize", "antialias", 0)),
    "other intensities": (
        "preprocessing",
        lambda m: _replace(m.graph.initializer[1], np.array(3, dtype=np.float32)),
    ),
    "around the preprocessing": ("before they are resized", _skip_resize),
    "softmax over the batch": ("softmax", lambda m: _set(m, "Softmax", "axis", 0)),
    "other labels": ("`labels`", lambda m: _metadata(m, "labels", '["a","c"]')),
    "no notice": ("`notice`", lambda m: _metadata(m, "notice", "approved medical device")),
    "path in the metadata": ("path", lambda m: _metadata(m, "study", "see /home/anna/scans")),
    "escape in the metadata": ("printable", lambda m: _metadata(m, "study", "\x1b[2J")),
    "bad metadata key": ("metadata key", lambda m: _metadata(m, "a b", "x")),
    "metadata twice": (
        "metadata keys",
        lambda m: m.metadata_props.add(key="study", value="s2"),
    ),
    "shapes that do not fit": (
        "checker",
        lambda m: _replace(_bias(m), np.zeros(23, dtype=np.float32)),
    ),
    "channels that do not fit": (
        "channels",
        lambda m: _replace(_weights(m), np.zeros((24, 2, 3, 3), dtype=np.float32)),
    ),
    "node out of order": ("checker", _swap),
    "memory bomb": ("intermediate values", _memory_bomb),
    "work bomb": ("multiplications", _work_bomb),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_one_fault_is_enough_to_be_refused(exported: bytes, fault: str) -> None:
    message, break_it = HOSTILE[fault]
    model = onnx.load_from_string(exported)
    assert lint(_bytes(model), contract=CONTRACT)["study"] == "s1"
    break_it(model)
    with pytest.raises(FormatError, match=message):
        lint(_bytes(model), contract=CONTRACT)


@pytest.mark.parametrize("name", classifiers())
def test_every_registered_classifier_passes_and_uses_only_listed_operators(name: str) -> None:
    data = _export(name)
    assert lint(data, contract=CONTRACT)["notice"] == onnx_lint.NOTICE
    used = {node.op_type for node in onnx.load_from_string(data).graph.node}
    assert used <= onnx_lint.OPERATORS


def test_no_operator_is_allowed_that_no_export_needs() -> None:
    used = {
        node.op_type
        for name in classifiers()
        for node in onnx.load_from_string(_export(name)).graph.node
    }
    assert used == onnx_lint.OPERATORS


@pytest.mark.parametrize(
    "contract",
    [
        ModelContract(channels=3, height=8, width=8, labels=("a", "b")),
        ModelContract(channels=1, height=9, width=8, labels=("a", "b")),
        ModelContract(channels=1, height=8, width=8, labels=("b", "a")),
        ModelContract(channels=1, height=8, width=8, labels=("a", "b", "c")),
    ],
)
def test_a_model_of_another_contract_is_refused(exported: bytes, contract: ModelContract) -> None:
    lint(exported, contract=CONTRACT)
    with pytest.raises(FormatError):
        lint(exported, contract=contract)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "IR version"),
        (b"\xff" * 40, "not a model"),
        (b"PK\x03\x04", "not a model"),
    ],
    ids=["empty", "noise", "zip"],
)
def test_bytes_that_are_no_model_are_refused(exported: bytes, data: bytes, message: str) -> None:
    lint(exported, contract=CONTRACT)
    with pytest.raises(FormatError, match=message):
        lint(data, contract=CONTRACT)


def test_too_large_a_file_is_refused_before_it_is_parsed(exported: bytes) -> None:
    lint(exported, contract=CONTRACT)
    with pytest.raises(FormatError, match="over the limit"):
        lint(bytes(onnx_lint.MAX_MODEL_BYTES + 1), contract=CONTRACT)


def test_hidden_bytes_are_refused(exported: bytes) -> None:
    """An unknown field, and a field written twice, parse to a model that looks the same."""
    unknown = exported + b"\xfa\x3e\x04name"
    twice = b"\x08\x08" + exported
    for data in (unknown, twice):
        assert onnx.load_from_string(data).graph == onnx.load_from_string(exported).graph
        with pytest.raises(FormatError, match="unknown fields"):
            lint(data, contract=CONTRACT)


def test_a_mutated_model_is_refused_or_still_keeps_every_rule(exported: bytes) -> None:
    """Flip bytes of structure and weights: the only exception that comes out is FormatError."""
    draws = random.Random(0)
    refused = 0
    heads = [draws.randrange(2000) for _ in range(60)]
    tails = [len(exported) - 1 - draws.randrange(6000) for _ in range(60)]
    for position in heads + tails:
        data = bytearray(exported)
        data[position] ^= 1 << draws.randrange(8)
        try:
            lint(bytes(data), contract=CONTRACT)
        except FormatError:
            refused += 1
    assert refused > 60


def test_truncation_never_passes(exported: bytes) -> None:
    for keep in range(0, len(exported), len(exported) // 40):
        with pytest.raises(FormatError):
            lint(exported[:keep], contract=CONTRACT)


def test_the_lint_loads_neither_torch_nor_a_runtime() -> None:
    program = (
        "import sys, federation.release.onnx_lint;"
        "print([m for m in ('onnx', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['onnx']"
