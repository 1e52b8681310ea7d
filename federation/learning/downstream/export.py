"""ONNX export: the whole way from decoded pixels to probabilities, in one deterministic file.

The graph is written operator by operator from the network's `torch.fx` trace. torch's own
exporter writes source paths and line numbers into every node and changes its output between
releases; here equal weights give equal bytes, in any folder and process.

Inside the graph: resize to the study's size (bilinear, antialiased, as Pillow's BILINEAR does on
float images), [0, 1] to [-1, 1], the network, softmax. Outside remains only the decoding of a
file into float32 [0, 1] by its bit depth.
"""

import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import torch
import torch.fx
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.fx.passes.shape_prop import ShapeProp

from federation.learning.downstream.numerics import deterministic_algorithms
from federation.release import onnx_lint
from federation.release.onnx_lint import (
    BATCH_SYMBOL,
    CENTRED,
    GRAPH_NAME,
    INPUT_NAME,
    IR_VERSION,
    NOTICE,
    OPSET,
    OUTPUT_NAME,
    PRODUCER,
)
from kit.errors import KitError

PARITY_TOLERANCE = 1e-4  # of a probability; float32 sums in another order differ by about 1e-6
RESERVED_METADATA = frozenset({"labels", "notice", "preprocessing"})
PREPROCESSING = "bilinear antialiased resize inside the graph; input is 0 to 1 by bit depth"


class _Graph:
    """Nodes and initializers, in the order they are added; `sides` holds [H, W] of a result."""

    def __init__(self) -> None:
        self.sides: dict[str, list[int]] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values: Tensor | Sequence[int]) -> str:
        if isinstance(values, Tensor):
            array = values.detach().cpu().numpy().astype("<f4")
        else:
            array = np.asarray(values, dtype="<i8")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name


def export_onnx(
    network: nn.Module,
    *,
    channels: int,
    height: int,
    width: int,
    labels: Sequence[str],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return the ONNX file of a classifier: opset 18, input `images`, output `probabilities`.

    `images` is float32 [N, channels, h, w] in [0, 1] with free N, h and w; `probabilities` is
    float32 [N, len(labels)]. The file passes `federation.release.onnx_lint.lint`.

    Args:
        network: in evaluation mode, on the CPU, weights in float32.
        channels: 1 or 3.
        height: the study's, pixels.
        width: the study's, pixels.
        labels: class labels in column order.
        metadata: further entries, lower-case words to printable text without paths.

    Raises:
        KitError: the network has an operator that has no ONNX form here.
        FormatError: a label or an entry of `metadata` is not allowed.
    """
    if network.training:
        raise RuntimeError("only a network in evaluation mode is exported")
    extra = dict(metadata or {})
    if RESERVED_METADATA & set(extra):
        raise KitError(f"metadata `{min(RESERVED_METADATA & set(extra))}` is set by the export")
    graph = _Graph()
    graph.nodes, graph.initializers = onnx_lint.preprocessing(height=height, width=width)
    logits = _write_network(graph, network, CENTRED, shape=(channels, height, width))
    graph.add("Softmax", [logits], OUTPUT_NAME, axis=1)
    contract = onnx_lint.ModelContract(
        channels=channels, height=height, width=width, labels=tuple(labels)
    )
    data = _assemble(graph, contract, extra)
    onnx_lint.lint(data, contract=contract)
    return data


def _write_network(
    graph: _Graph, network: nn.Module, x: str, *, shape: tuple[int, int, int]
) -> str:
    """Write each traced step in order; return the name of the logits."""
    traced = torch.fx.symbolic_trace(network)
    ShapeProp(traced).propagate(torch.zeros(1, *shape))
    modules = dict(traced.named_modules())
    names: dict[torch.fx.Node, str] = {}
    for node in traced.graph.nodes:
        inputs = [names[n] for n in node.all_input_nodes]
        name = f"network.{node.name}"
        if node.op == "placeholder":
            names[node] = x
        elif node.op == "output":
            return inputs[0]
        elif node.op == "call_module":
            names[node] = _write_module(graph, modules[str(node.target)], inputs[0], name)
        elif node.op == "call_function" and node.target in _FUNCTIONS:
            names[node] = graph.add(_FUNCTIONS[node.target], inputs, name)
        else:
            raise KitError(f"`{node.target}` has no ONNX form here")
        graph.sides[names[node]] = list(node.meta["tensor_meta"].shape[2:])
    raise RuntimeError("a trace ends with its output")


_FUNCTIONS: dict[object, str] = {operator.add: "Add", torch.add: "Add", torch.relu: "Relu"}


def _write_module(graph: _Graph, module: nn.Module, x: str, name: str) -> str:
    if isinstance(module, nn.Identity | nn.Dropout):
        return x
    for kind, write in _MODULES.items():
        if isinstance(module, kind):
            return write(graph, module, x, name)
    raise KitError(f"a {type(module).__name__} has no ONNX form here")


def _write_convolution(graph: _Graph, module: nn.Conv2d, x: str, name: str) -> str:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise KitError("only convolutions with zero padding have an ONNX form here")
    inputs = [x, graph.constant(f"{name}.weight", module.weight)]
    if module.bias is not None:
        inputs.append(graph.constant(f"{name}.bias", module.bias))
    return graph.add(
        "Conv",
        inputs,
        name,
        dilations=list(module.dilation),
        group=module.groups,
        kernel_shape=list(module.kernel_size),
        pads=[*module.padding, *module.padding],
        strides=list(module.stride),
    )


def _write_batch_norm(graph: _Graph, module: nn.BatchNorm2d, x: str, name: str) -> str:
    parts = ("weight", "bias", "running_mean", "running_var")
    inputs = [x, *(graph.constant(f"{name}.{p}", getattr(module, p)) for p in parts)]
    return graph.add("BatchNormalization", inputs, name, epsilon=module.eps)


def _write_group_norm(graph: _Graph, module: nn.GroupNorm, x: str, name: str) -> str:
    """GroupNorm (Wu and He 2018): InstanceNormalization of [N, groups, values], then the affine."""
    groups, channels = module.num_groups, module.num_channels
    split = graph.constant(f"{name}.split", [0, groups, -1])
    ones = graph.constant(f"{name}.ones", torch.ones(groups))
    zeros = graph.constant(f"{name}.zeros", torch.zeros(groups))
    h = graph.add("Reshape", [x, split], f"{name}.groups")
    h = graph.add("InstanceNormalization", [h, ones, zeros], f"{name}.unit", epsilon=module.eps)
    joined = graph.constant(f"{name}.joined", [0, channels, *graph.sides[x]])
    h = graph.add("Reshape", [h, joined], f"{name}.channels")
    for kind, values in (("Mul", module.weight), ("Add", module.bias)):
        factors = graph.constant(f"{name}.{kind.lower()}", values.reshape(channels, 1, 1))
        h = graph.add(kind, [h, factors], name if kind == "Add" else f"{name}.scaled")
    return h


def _write_linear(graph: _Graph, module: nn.Linear, x: str, name: str) -> str:
    inputs = [x, graph.constant(f"{name}.weight", module.weight)]
    if module.bias is not None:
        inputs.append(graph.constant(f"{name}.bias", module.bias))
    return graph.add("Gemm", inputs, name, transB=1)


def _write_relu(graph: _Graph, module: nn.ReLU, x: str, name: str) -> str:
    return graph.add("Relu", [x], name)


def _write_mean(graph: _Graph, module: nn.AdaptiveAvgPool2d, x: str, name: str) -> str:
    if module.output_size not in (1, (1, 1)):
        raise KitError("only the mean over all positions has an ONNX form here")
    return graph.add("GlobalAveragePool", [x], name)


def _write_flatten(graph: _Graph, module: nn.Flatten, x: str, name: str) -> str:
    return graph.add("Flatten", [x], name, axis=1)


_MODULES: dict[type[nn.Module], Callable[..., str]] = {
    nn.Conv2d: _write_convolution,
    nn.BatchNorm2d: _write_batch_norm,
    nn.GroupNorm: _write_group_norm,
    nn.Linear: _write_linear,
    nn.ReLU: _write_relu,
    nn.AdaptiveAvgPool2d: _write_mean,
    nn.Flatten: _write_flatten,
}


def _assemble(graph: _Graph, contract: onnx_lint.ModelContract, extra: Mapping[str, str]) -> bytes:
    shape_in = [BATCH_SYMBOL, contract.channels, "h", "w"]
    shape_out = [BATCH_SYMBOL, len(contract.labels)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            GRAPH_NAME,
            [onnx.helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape_in)],
            [onnx.helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shape_out)],
            graph.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
    )
    table = {
        **extra,
        "labels": onnx_lint.labels_metadata(contract.labels),
        "notice": NOTICE,
        "preprocessing": PREPROCESSING,
    }
    onnx.helper.set_model_props(model, dict(sorted(table.items())))
    return bytes(model.SerializeToString(deterministic=True))


def preprocess(images: Tensor, *, height: int, width: int) -> Tensor:
    """Return what the graph makes of [N, C, h, w] in [0, 1]: [N, C, height, width] in [-1, 1]."""
    resized = F.interpolate(
        images, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized * 2 - 1


@torch.no_grad()
def check_parity(
    network: nn.Module,
    data: bytes,
    images: np.typing.NDArray[np.float32],
    *,
    height: int,
    width: int,
    tolerance: float = PARITY_TOLERANCE,
) -> float:
    """Run the file and the network on the same images; return the largest difference.

    Args:
        network: what `data` was exported from.
        data: the ONNX file.
        images: float32 [N, C, h, w] in [0, 1], of any size.
        height: the study's, pixels.
        width: the study's, pixels.
        tolerance: largest allowed difference of a probability.

    Raises:
        KitError: a probability differs by more than `tolerance`, or is not finite.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT_NAME], {INPUT_NAME: images})
    with deterministic_algorithms():
        x = preprocess(torch.from_numpy(images), height=height, width=width)
        expected = torch.softmax(network(x), dim=1).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:  # a NaN is refused as well
        raise KitError(
            f"the ONNX file and the network differ by {difference:.3g} in a probability,"
            f" more than {tolerance:.3g}",
            hint="do not release it; rebuild, and report the versions in the numerics fingerprint",
        )
    return difference
