"""The ONNX lint: what a released model may contain, checked before any runtime opens it.

A runtime executes what it is given: loops, custom operators, constants of 2 GiB, files beside the
model. The lint therefore allows one small vocabulary and names the first fault it finds. Steps:

1. size, and the bytes are the one canonical encoding of the message (no unknown or hidden fields);
2. only the fields of `_FIELDS` are set: no doc strings, functions, training info, external data,
   sparse or quantised tensors, operator domains, metadata inside the graph; one operator set;
3. every name is an identifier, so none is a path;
4. initializers: float32 or int64, raw bytes of their shape, finite, each used by a node;
5. nodes: allow-listed operators, attributes by name and range, so no subgraphs or tensors;
6. inputs, outputs, preprocessing, the closing softmax and metadata are exactly the contract's;
7. the full ONNX checker;
8. every intermediate has a known size per image; their sum and the multiplications are capped.

No torch and no runtime are imported here.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import (
    AttributeProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from kit import canonical
from kit.errors import FormatError

OPSET = 18  # the first whose Resize has `antialias` and `axes`
IR_VERSION = 8  # the one that came with opset 18; every runtime since reads it
PRODUCER = "hospital-edge-kit"
GRAPH_NAME = "classifier"
INPUT_NAME = "images"
CENTRED = "preprocessing.centred"
OUTPUT_NAME = "probabilities"
BATCH_SYMBOL = "N"
NOTICE = "research use only, not a medical device"

MAX_MODEL_BYTES = 64 << 20  # the small classifier has 0.4 MB
MAX_NODES = 8_000  # an expert has 25 to 60
MAX_INITIALIZERS = 16_000
MAX_RANK = 6
MAX_VALUES_PER_IMAGE = 1 << 26  # of all intermediates: 256 MiB of float32
MAX_PRODUCTS_PER_IMAGE = 1 << 36  # multiplications: some seconds on one core
_PROBE_IMAGES = 3
MAX_METADATA = 32
MAX_METADATA_BYTES = 64 << 10  # a thousand labels of 64 characters

# Operator -> attribute -> smallest and largest value. Zero strides or groups would crash a runtime.
_BODY: dict[str, dict[str, tuple[float, float]]] = {
    "Add": {},
    "BatchNormalization": {"epsilon": (1e-12, 1.0)},
    "Conv": {
        "dilations": (1, 64),
        "group": (1, 4096),
        "kernel_shape": (1, 64),
        "pads": (0, 64),
        "strides": (1, 64),
    },
    "Flatten": {"axis": (1, 1)},
    "Gemm": {"transB": (1, 1)},
    "GlobalAveragePool": {},
    "InstanceNormalization": {"epsilon": (1e-12, 1.0)},
    "Mul": {},
    "Relu": {},
    "Reshape": {},
}
OPERATORS = frozenset(_BODY) | {"Resize", "Softmax", "Sub"}  # the latter at the ends only
_FIELDS: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "ModelProto": "ir_version opset_import producer_name graph metadata_props",
        "OperatorSetIdProto": "domain version",
        "StringStringEntryProto": "key value",
        "GraphProto": "node name initializer input output",
        "NodeProto": "input output name op_type attribute",
        "AttributeProto": "name type f i s ints",
        "TensorProto": "dims data_type name raw_data",
        "ValueInfoProto": "name type",
        "TypeProto": "tensor_type",
        "Tensor": "elem_type shape",
        "TensorShapeProto": "dim",
        "Dimension": "dim_value dim_param",
    }.items()
}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}")
_WORD = re.compile(r"[A-Za-z0-9_]{1,48}")
_PATH = re.compile(r"""(?:^|[\s"'=(,])(?:~?/|\.\.?/|[A-Za-z]:[\\/]|file:)|\\\\|\.py\b""")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContract:
    """What a site expects of a classifier: any [N, channels, h, w] in, one column per label out.

    `height` and `width` (pixels) are what the graph itself resizes to.
    """

    channels: int
    height: int
    width: int
    labels: tuple[str, ...]


def lint(data: bytes, *, contract: ModelContract) -> dict[str, str]:
    """Return the metadata of a model that keeps every rule above.

    Raises:
        FormatError: the first rule that `data` breaks, by name.
    """
    model = _parse(data)
    _check_fields(model)
    _check_header(model)
    _check_names(model)
    _check_initializers(model)
    _check_nodes(model)
    _check_contract(model, contract)
    _check_ends(model, contract)
    metadata = _check_metadata(model, contract)
    _run_checker(model)
    _check_sizes(model)
    return metadata


def labels_metadata(labels: Sequence[str]) -> str:
    """Return the text of the `labels` entry: a JSON array in column order."""
    return canonical.encode([canonical.label(text) for text in labels]).decode()


def metadata_text(text: str, *, what: str) -> str:
    """Return `text` if it may stand in a model: printable ASCII without paths.

    Raises:
        FormatError: it may not.
    """
    if not text.isascii() or not text.isprintable() or len(text) > MAX_METADATA_BYTES:
        raise FormatError(f"ONNX: {what} is not printable ASCII of a reasonable length")
    if _PATH.search(text):
        raise FormatError(f"ONNX: {what} contains a path")
    return text


def _parse(data: bytes) -> ModelProto:
    if len(data) > MAX_MODEL_BYTES:
        raise FormatError(f"ONNX: {len(data)} bytes are over the limit of {MAX_MODEL_BYTES}")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise FormatError("ONNX: bytes are not a model") from error
    known = ModelProto()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    if known.SerializeToString(deterministic=True) != data:
        raise FormatError("ONNX: unknown fields or a second encoding of the same model")
    return model


def _check_fields(message: Message) -> None:
    """Refuse, anywhere in the model, a field that is set and not in `_FIELDS`."""
    kind = message.DESCRIPTOR.name
    for field, value in message.ListFields():
        if field.name not in _FIELDS.get(kind, ()):
            raise FormatError(f"ONNX: field `{field.name}` of {kind} is not allowed")
        single = isinstance(value, str | bytes | int | float | Message)
        for inner in [value] if single else value:
            if isinstance(inner, Message):
                _check_fields(inner)
            elif field.type == field.TYPE_STRING and not isinstance(inner, str):
                raise FormatError(f"ONNX: field `{field.name}` of {kind} is not UTF-8")


def _check_header(model: ModelProto) -> None:
    if model.ir_version != IR_VERSION:
        raise FormatError(f"ONNX: IR version is not {IR_VERSION}")
    if [(o.domain, o.version) for o in model.opset_import] != [("", OPSET)]:
        raise FormatError(f"ONNX: operator sets are not exactly the standard one, version {OPSET}")
    if (model.producer_name, model.graph.name) != (PRODUCER, GRAPH_NAME):
        raise FormatError("ONNX: producer or graph name is not the fixed one")


def _check_names(model: ModelProto) -> None:
    graph = model.graph
    named = [*graph.node, *graph.initializer, *graph.input, *graph.output]
    names = [message.name for message in named]
    names += [n for node in graph.node for n in [*node.input, *node.output] if n]
    for name in names:
        if not _IDENTIFIER.fullmatch(name):
            raise FormatError(f"ONNX: name `{canonical.printable(name)}` is not an identifier")


def _check_initializers(model: ModelProto) -> None:
    initializers = model.graph.initializer
    if len(initializers) > MAX_INITIALIZERS:
        raise FormatError(f"ONNX: more than {MAX_INITIALIZERS} initializers")
    used = {name for node in model.graph.node for name in node.input}
    for tensor in initializers:
        what = f"initializer `{tensor.name}`"
        if tensor.name not in used:
            raise FormatError(f"ONNX: {what} is used by no node")
        _check_tensor(tensor, what)


def _check_tensor(tensor: TensorProto, what: str) -> None:
    sizes = {TensorProto.FLOAT: 4, TensorProto.INT64: 8}
    if tensor.data_type not in sizes:
        raise FormatError(f"ONNX: {what} is neither float32 nor int64")
    if len(tensor.dims) > MAX_RANK or any(not 0 <= d <= MAX_MODEL_BYTES for d in tensor.dims):
        raise FormatError(f"ONNX: {what} has a shape over the limits")
    if len(tensor.raw_data) != prod(tensor.dims) * sizes[tensor.data_type]:
        raise FormatError(f"ONNX: {what} does not have the bytes of its shape")
    if not np.isfinite(numpy_helper.to_array(tensor)).all():
        raise FormatError(f"ONNX: {what} has a value that is not finite")


def _check_nodes(model: ModelProto) -> None:
    if len(model.graph.node) > MAX_NODES:
        raise FormatError(f"ONNX: more than {MAX_NODES} nodes")
    for node in model.graph.node:
        if node.op_type not in OPERATORS:
            name = canonical.printable(node.op_type)
            raise FormatError(f"ONNX: operator `{name}` is not allowed")


def _check_body(model: ModelProto, body: Sequence[NodeProto]) -> None:
    """Check each node between preprocessing and softmax against `_BODY`."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in body:
        if node.op_type not in _BODY:
            raise FormatError(f"ONNX: operator `{node.op_type}` stands at the ends only")
        if node.op_type in ("Conv", "Gemm") and not constants.issuperset(node.input[1:]):
            raise FormatError(f"ONNX: `{node.op_type}` has weights that are not constant")
        ranges = _BODY[node.op_type]
        for attribute in node.attribute:
            low, high = ranges.get(attribute.name, (1, 0))
            values = _numbers(attribute)
            if not values or not all(low <= value <= high for value in values):
                name = canonical.printable(attribute.name)
                raise FormatError(f"ONNX: attribute `{name}` of `{node.op_type}` is not allowed")


def _numbers(attribute: AttributeProto) -> list[float]:
    """Return the numbers of an attribute; none if it holds anything else as well."""
    fields = {field.name for field, _ in attribute.ListFields()}
    if attribute.type == AttributeProto.FLOAT and fields == {"name", "type", "f"}:
        return [attribute.f]
    if attribute.type == AttributeProto.INT and fields == {"name", "type", "i"}:
        return [attribute.i]
    if attribute.type == AttributeProto.INTS and fields == {"name", "type", "ints"}:
        return list(attribute.ints)
    return []


def _check_contract(model: ModelProto, contract: ModelContract) -> None:
    inputs = [_signature(value) for value in model.graph.input]
    if inputs != [(INPUT_NAME, (BATCH_SYMBOL, contract.channels, "h", "w"))]:
        raise FormatError(f"ONNX: inputs are not exactly `{INPUT_NAME}` of the contract's shape")
    outputs = [_signature(value) for value in model.graph.output]
    if outputs != [(OUTPUT_NAME, (BATCH_SYMBOL, len(contract.labels)))]:
        raise FormatError(f"ONNX: outputs are not exactly `{OUTPUT_NAME}`, one column per label")


def _check_ends(model: ModelProto, contract: ModelContract) -> None:
    """The first nodes are the contract's preprocessing, and the last is the softmax."""
    nodes = list(model.graph.node)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    expected, constants = preprocessing(height=contract.height, width=contract.width)
    if nodes[: len(expected)] != expected or any(tensors.get(t.name) != t for t in constants):
        raise FormatError("ONNX: the first nodes are not the contract's preprocessing")
    if any(INPUT_NAME in node.input for node in nodes[1:]):
        raise FormatError("ONNX: a node uses the images before they are resized")
    _check_body(model, nodes[len(expected) : -1])
    last = nodes[-1]
    if last != helper.make_node("Softmax", last.input, [OUTPUT_NAME], name=OUTPUT_NAME, axis=1):
        raise FormatError("ONNX: the last node is not the softmax over classes")


def preprocessing(*, height: int, width: int) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants that every model begins with.

    `images` [N, C, h, w] in [0, 1] -> `CENTRED` [N, C, height, width] in [-1, 1]: bilinear with
    antialiasing, as Pillow's BILINEAR. Weights beyond the edge are left out and the rest renormed
    (`exclude_outside`), without which a runtime differs from Pillow by 0.07 at the border.
    """
    constants = [
        numpy_helper.from_array(np.array([height, width], dtype="<i8"), "preprocessing.sizes"),
        numpy_helper.from_array(np.array(2.0, dtype="<f4"), "preprocessing.two"),
        numpy_helper.from_array(np.array(1.0, dtype="<f4"), "preprocessing.one"),
    ]
    resize = helper.make_node(
        "Resize",
        [INPUT_NAME, "", "", "preprocessing.sizes"],
        ["preprocessing.resized"],
        name="preprocessing.resized",
        antialias=1,
        axes=[2, 3],
        coordinate_transformation_mode="half_pixel",
        exclude_outside=1,
        mode="linear",
    )
    steps = [("Mul", "resized", "two", "doubled"), ("Sub", "doubled", "one", "centred")]
    scale = [
        helper.make_node(
            kind,
            [f"preprocessing.{x}", f"preprocessing.{y}"],
            [f"preprocessing.{z}"],
            name=f"preprocessing.{z}",
        )
        for kind, x, y, z in steps
    ]
    return [resize, *scale], constants


def _signature(value: ValueInfoProto) -> tuple[str, tuple[int | str, ...]] | None:
    if value.type.WhichOneof("value") != "tensor_type":
        return None
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        return None
    return value.name, _dimensions(value)


def _dimensions(value: ValueInfoProto) -> tuple[int | str, ...]:
    """Return each dimension as a number, a symbol, or an empty string when unknown."""
    return tuple(
        d.dim_value if d.WhichOneof("value") == "dim_value" else d.dim_param
        for d in value.type.tensor_type.shape.dim
    )


def _check_metadata(model: ModelProto, contract: ModelContract) -> dict[str, str]:
    entries = model.metadata_props
    metadata = {entry.key: entry.value for entry in entries}
    if len(entries) > MAX_METADATA or [e.key for e in entries] != sorted(metadata):
        raise FormatError("ONNX: metadata keys are too many, repeated or out of order")
    for key, value in metadata.items():
        if not _WORD.fullmatch(key):
            raise FormatError(f"ONNX: metadata key `{canonical.printable(key)}` is not a word")
        if key != "labels":
            metadata_text(value, what=f"metadata `{key}`")
    if metadata.get("labels") != labels_metadata(contract.labels):
        raise FormatError("ONNX: metadata `labels` is not the contract's")
    if metadata.get("notice") != NOTICE:
        raise FormatError(f"ONNX: metadata `notice` is not `{NOTICE}`")
    return metadata


def _run_checker(model: ModelProto) -> None:
    with _onnx_errors():
        onnx.checker.check_model(model, full_check=True)


@contextmanager
def _onnx_errors() -> Iterator[None]:
    """Turn what onnx raises into one line of printable text."""
    try:
        yield
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = canonical.printable(" ".join(str(error).split()), width=160)
        raise FormatError(f"ONNX: the checker refuses it: {reason}") from error


def _check_sizes(model: ModelProto) -> None:
    """After the preprocessing all sizes but the batch are known, so inference sees every bomb."""
    shapes = _inferred_shapes(model)
    for name, shape in shapes.items():
        if any(not isinstance(size, int) for size in shape):
            raise FormatError(f"ONNX: the size of `{name}` cannot be known before it runs")
        if shape[:1] != (_PROBE_IMAGES,):
            raise FormatError(f"ONNX: `{name}` does not have the batch as its first dimension")
    values = {name: prod(int(size) for size in shape[1:]) for name, shape in shapes.items()}
    if sum(values.values()) > MAX_VALUES_PER_IMAGE:
        raise FormatError(f"ONNX: over {MAX_VALUES_PER_IMAGE} intermediate values per image")
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    products = sum(values[n.output[0]] * prod(weights[n.input[1]][1:]) for n in layers)
    if products > MAX_PRODUCTS_PER_IMAGE:
        raise FormatError(f"ONNX: over {MAX_PRODUCTS_PER_IMAGE} multiplications per image")
    for node in layers:
        _check_channels(node, shapes[node.input[0]], weights[node.input[1]])


def _check_channels(node: NodeProto, shape: tuple[int | str, ...], weights: Sequence[int]) -> None:
    """Inference does not compare a convolution's channels; a runtime finds out too late."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "Conv" and (
        weights[1] * groups != shape[1] or weights[0] % groups or len(shape) != len(weights)
    ):
        raise FormatError(f"ONNX: weights of `{node.name}` do not fit the channels they read")


def _inferred_shapes(model: ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Return the shape of every node's output for a batch of `_PROBE_IMAGES` of any size."""
    probe = ModelProto()
    probe.CopyFrom(model)
    for value in (probe.graph.input[0], probe.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = _PROBE_IMAGES
    with _onnx_errors():
        inferred = onnx.shape_inference.infer_shapes(
            probe, check_type=True, strict_mode=True, data_prop=True
        )
    known = {v.name: _dimensions(v) for v in [*inferred.graph.value_info, *probe.graph.output]}
    unknown: tuple[int | str, ...] = ("",)
    return {name: known.get(name, unknown) for node in model.graph.node for name in node.output}
