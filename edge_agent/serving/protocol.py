"""The Open Inference Protocol (KServe v2, HTTP), as rules over bytes: requests in, answers out.

One input, `images` FP32 [n, C, h, w] in [0, 1]; one output, `probabilities` FP32 [n, classes].
Tensors are JSON, or raw little-endian bytes behind the JSON (the protocol's binary tensor data
extension). Every limit is checked before numbers are made of what came.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.inference import MAX_BATCH_IMAGES, MAX_BATCH_PIXELS
from federation.release.onnx_lint import INPUT_NAME, NOTICE, OUTPUT_NAME, ModelContract
from kit.errors import KitError

MAX_BODY_BYTES = 16 << 20  # one request: an image of 2048 x 2048 px as raw bytes
MAX_JSON_BYTES = 8 << 20  # Python's objects take up to thirty times the bytes of their JSON
MAX_SIDE_PX = 4096
MAX_ID_CHARACTERS = 256
DATATYPE = "FP32"
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data",)
_RAW = np.dtype("<f4")


class RequestError(KitError):
    """A request that is not answered; `status` is HTTP's."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """A request as it was understood: images [n, C, h, w], and how the answer is wanted."""

    images: NDArray[np.float32]
    id: str
    binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A body, and how many bytes of it are JSON where raw tensors follow (else None)."""

    body: bytes
    json_bytes: int | None = None


def parse(body: bytes, contract: ModelContract, *, json_bytes: int | None = None) -> Inference:
    """Return what an inference request asks.

    Args:
        body: the whole body.
        contract: the model's.
        json_bytes: `Inference-Header-Content-Length`; None where all of the body is JSON.

    Raises:
        RequestError: anything about it is off; the message says what.
    """
    table, raw = _split(body, json_bytes)
    images = _tensor(_only(table, "inputs", INPUT_NAME), raw, contract)
    binary, name = _wish(table), table.get("id", "")
    if not isinstance(name, str) or len(name) > MAX_ID_CHARACTERS or not name.isprintable():
        raise RequestError(f"`id` is not text of at most {MAX_ID_CHARACTERS} characters")
    return Inference(images=images, id=name, binary=binary)


def answer(asked: Inference, probabilities: NDArray[np.float32], who: Mapping[str, Any]) -> Answer:
    """Return the answer to an inference request; `who` names model and release."""
    rows = np.ascontiguousarray(probabilities, dtype=_RAW)
    output: dict[str, Any] = {"name": OUTPUT_NAME, "datatype": DATATYPE, "shape": list(rows.shape)}
    table = {**who, "outputs": [output]} | ({"id": asked.id} if asked.id else {})
    if not asked.binary:
        output["data"] = rows.ravel().tolist()
        return Answer(body=encode(table))
    raw = rows.tobytes()
    output["parameters"] = {"binary_data_size": len(raw)}
    head = encode(table)
    return Answer(body=head + raw, json_bytes=len(head))


@dataclass(frozen=True, slots=True)
class Lineage:
    """What answers: `version` is its digest, `parameters` what it says it is made of."""

    version: str
    parameters: Mapping[str, str]


def lineage(digest: str, *, adapted_from: str = "") -> Lineage:
    """Return the lineage of a release, or of a model that this site adapted from one."""
    if not adapted_from:
        return Lineage(digest, {"release": digest})
    return Lineage(digest, {"release": adapted_from, "adapted": digest})


def metadata(model: str, made: Lineage, contract: ModelContract) -> dict[str, Any]:
    """Return a model's metadata; sizes that any request may choose are -1."""
    shape = [-1, contract.channels, -1, -1]
    return {
        "name": model,
        "versions": [made.version],
        "parameters": _parameters_of(made, contract.labels),
        "platform": PLATFORM,
        "labels": list(contract.labels),
        "inputs": [{"name": INPUT_NAME, "datatype": DATATYPE, "shape": shape}],
        "outputs": [
            {"name": OUTPUT_NAME, "datatype": DATATYPE, "shape": [-1, len(contract.labels)]}
        ],
    }


def identity(model: str, made: Lineage, labels: Sequence[str]) -> dict[str, Any]:
    """Return what every answer of a model says of itself."""
    parameters = _parameters_of(made, labels)
    return {"model_name": model, "model_version": made.version, "parameters": parameters}


def encode(table: Mapping[str, Any]) -> bytes:
    """Return JSON without a value that JSON does not have."""
    return json.dumps(table, allow_nan=False).encode()


def _parameters_of(made: Lineage, labels: Sequence[str]) -> dict[str, str]:
    """Return the protocol's parameters, whose values may be text: the labels are JSON in it."""
    return {**made.parameters, "notice": NOTICE, "labels": json.dumps(list(labels))}


def _split(body: bytes, json_bytes: int | None) -> tuple[dict[str, Any], memoryview]:
    size = len(body) if json_bytes is None else json_bytes
    if not 0 < size <= len(body):
        raise RequestError("the body is empty, or shorter than its JSON is said to be")
    if size > MAX_JSON_BYTES:
        raise RequestError(
            f"JSON of {size} bytes is over the limit of {MAX_JSON_BYTES}; send tensors as raw"
            " bytes, or fewer images",
            status=413,
        )
    try:
        table = json.loads(body[:size], parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON with finite numbers") from error
    if not isinstance(table, dict):
        raise RequestError("the body is not a JSON object")
    return table, memoryview(body)[size:]


def _no_number(text: str) -> float:
    raise ValueError(text)  # NaN and infinities, which Python would read


def _only(table: Mapping[str, Any], field: str, name: str) -> dict[str, Any]:
    found = table.get(field)
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        raise RequestError(f"`{field}` is not a list of one tensor")
    if found[0].get("name") != name:
        raise RequestError(f"the tensor of `{field}` is not named `{name}`")
    return found[0]


def _tensor(
    tensor: Mapping[str, Any], raw: memoryview, contract: ModelContract
) -> NDArray[np.float32]:
    if tensor.get("datatype") != DATATYPE:
        raise RequestError(f"`{INPUT_NAME}` is not of datatype {DATATYPE}")
    shape = _shape(tensor.get("shape"), contract.channels)
    binary = _parameters(tensor).get("binary_data_size")
    if binary is None:
        values = _from_json(tensor.get("data"), shape)
        if len(raw):
            raise RequestError("bytes follow the JSON, but no tensor has a `binary_data_size`")
    elif "data" in tensor or binary != len(raw) or binary != prod(shape) * _RAW.itemsize:
        raise RequestError("`binary_data_size` is not the bytes of the shape that follow the JSON")
    else:
        values = np.frombuffer(raw, dtype=_RAW)
    images = values.astype(np.float32).reshape(shape)
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise RequestError(f"`{INPUT_NAME}` has a value that is not in [0, 1]")
    return images


def _shape(value: Any, channels: int) -> tuple[int, int, int, int]:
    if not isinstance(value, list) or len(value) != 4 or any(type(n) is not int for n in value):
        raise RequestError(f"the shape of `{INPUT_NAME}` is not [n, {channels}, h, w]")
    n, c, h, w = value
    if c != channels or not (0 < h <= MAX_SIDE_PX and 0 < w <= MAX_SIDE_PX):
        raise RequestError(
            f"the shape of `{INPUT_NAME}` is not [n, {channels}, h, w] with sides of 1 to"
            f" {MAX_SIDE_PX} px"
        )
    if not 0 < n <= MAX_BATCH_IMAGES or (n > 1 and n * h * w > MAX_BATCH_PIXELS):
        raise RequestError(
            f"a request holds 1 to {MAX_BATCH_IMAGES} images and {MAX_BATCH_PIXELS} px in all;"
            " send several requests",
            status=413,
        )
    return n, c, h, w


def _from_json(data: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the numbers of a flat or nested JSON array; text and truth values are none."""
    if not isinstance(data, list):
        raise RequestError(f"`{INPUT_NAME}` has no `data`")
    try:
        values = np.array(data)
    except (ValueError, OverflowError) as error:
        raise RequestError(f"the `data` of `{INPUT_NAME}` is ragged or no number") from error
    if values.dtype.kind not in "iuf":
        raise RequestError(f"the `data` of `{INPUT_NAME}` is not all numbers")
    if values.size != prod(shape) or values.shape not in ((values.size,), shape):
        raise RequestError(f"the `data` of `{INPUT_NAME}` does not have the shape's size")
    return values.astype(np.float64)


def _wish(table: Mapping[str, Any]) -> bool:
    """Return whether the one output is wanted as raw bytes."""
    binary = _parameters(table).get("binary_data_output", False)
    if "outputs" in table:
        binary = _parameters(_only(table, "outputs", OUTPUT_NAME)).get("binary_data", binary)
    if not isinstance(binary, bool):
        raise RequestError("whether the output is binary is neither true nor false")
    return binary


def _parameters(table: Mapping[str, Any]) -> dict[str, Any]:
    found = table.get("parameters", {})
    if not isinstance(found, dict):
        raise RequestError("`parameters` is not a JSON object")
    return found
