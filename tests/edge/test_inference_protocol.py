"""The Open Inference Protocol over bytes: what is understood, and what is refused."""

import json

import numpy as np
import pytest

from edge_agent.serving import protocol
from edge_agent.serving.protocol import RequestError, answer, parse
from federation.release.onnx_lint import NOTICE, ModelContract

CONTRACT = ModelContract(channels=1, height=8, width=8, labels=("dark", "light"))
IMAGES = np.linspace(0, 1, 2 * 3 * 4, dtype=np.float32).reshape(2, 1, 3, 4)


def tensor(**changes):
    base = {"name": "images", "datatype": "FP32", "shape": [2, 1, 3, 4], "data": IMAGES.tolist()}
    return {k: v for k, v in (base | changes).items() if v is not None}


def request(tensors=None, **changes):
    return json.dumps({"inputs": tensors or [tensor()], **changes}).encode()


def raw(images=IMAGES, **changes):
    size = {"binary_data_size": images.size * 4}
    head = request([tensor(data=None, parameters=size, **changes)])
    return head + images.astype("<f4").tobytes(), len(head)


def test_flat_nested_and_raw_tensors_are_the_same_images():
    flat = parse(request([tensor(data=IMAGES.ravel().tolist())]), CONTRACT)
    nested = parse(request(), CONTRACT)
    body, size = raw()
    binary = parse(body, CONTRACT, json_bytes=size)
    for found in (flat, nested, binary):
        assert np.array_equal(found.images, IMAGES)
        assert (found.id, found.binary) == ("", False)
    assert parse(request(id="a-1"), CONTRACT).id == "a-1"


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]},
    ],
)
def test_an_answer_says_release_and_notice_as_json_and_as_raw_bytes(changes):
    rows = np.array([[0.25, 0.75], [1, 0]], dtype=np.float32)
    who = protocol.identity("shapes", protocol.lineage("ab" * 32), CONTRACT.labels)
    shown = answer(parse(request(id="7"), CONTRACT), rows, who)
    table = json.loads(shown.body)
    assert shown.json_bytes is None
    assert (table["id"], table["model_version"]) == ("7", "ab" * 32)
    assert table["parameters"] == {
        "release": "ab" * 32,
        "notice": NOTICE,
        "labels": '["dark", "light"]',
    }
    assert table["outputs"][0]["data"] == [0.25, 0.75, 1.0, 0.0]
    binary = answer(parse(request(**changes), CONTRACT), rows, who)
    head = json.loads(binary.body[: binary.json_bytes])
    assert head["parameters"]["release"] == "ab" * 32
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(binary.body[binary.json_bytes :], "<f4").tolist() == [0.25, 0.75, 1, 0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"\xff{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "list of one tensor"),
        (request([tensor(), tensor()]), "list of one tensor"),
        (request([tensor(name="pixels")]), "not named `images`"),
        (request([tensor(datatype="FP64")]), "datatype FP32"),
        (request([tensor(shape=[2, 3, 3, 4])]), r"\[n, 1, h, w\]"),
        (request([tensor(shape=[2, 1, 12])]), r"\[n, 1, h, w\]"),
        (request([tensor(shape=[2.0, 1, 3, 4])]), r"\[n, 1, h, w\]"),
        (request([tensor(shape=[True, 1, 3, 4])]), r"\[n, 1, h, w\]"),
        (request([tensor(shape=[2, 1, -3, -4])]), r"\[n, 1, h, w\]"),
        (request([tensor(shape=[2, 1, 1, 5000])]), "sides of 1 to"),
        (request([tensor(shape=[257, 1, 3, 4])]), "1 to 256 images"),
        (request([tensor(shape=[200, 1, 4096, 4096])]), "4194304 px"),
        (request([tensor(shape=[2, 1, 4, 4])]), "shape's size"),
        (request([tensor(data=IMAGES.reshape(2, 1, 4, 3).tolist())]), "shape's size"),
        (request([tensor(data=[[1, 2], [3]])]), "ragged"),
        (request([tensor(data=["0.5"] * 24)]), "not all numbers"),
        (request([tensor(data=[None] * 24)]), "not all numbers"),
        (request([tensor(data=[True] * 24)]), "not all numbers"),
        (request([tensor(data=[{}] * 24)]), "not all numbers"),
        (request([tensor(data="AAAA")]), "no `data`"),
        (request([tensor(data=[float("nan")] * 24)]), "finite"),
        (request([tensor(data=[float("inf")] * 24)]), "finite"),
        (request([tensor(data=[1e400] * 24)]).replace(b"Infinity", b"1e400"), "finite|in \\[0, 1"),
        (request([tensor(data=[10**400] * 24)]), "number|in \\[0, 1"),
        (request([tensor(data=[1.5] * 24)]), r"not in \[0, 1\]"),
        (request([tensor(data=[-0.1] * 24)]), r"not in \[0, 1\]"),
        (request(id=7), "`id`"),
        (request(id="a\x1b[31m"), "`id`"),
        (request(id="x" * 257), "`id`"),
        (request(parameters=[]), "`parameters`"),
        (request(outputs=[{"name": "logits"}]), "not named `probabilities`"),
        (request(parameters={"binary_data_output": "yes"}), "neither true nor false"),
        (request() + b"more", "not JSON"),
    ],
)
def test_what_is_not_such_a_request_is_refused_in_one_line(body, words):
    assert len(parse(request(), CONTRACT).images) == 2
    with pytest.raises(RequestError, match=words) as refusal:
        parse(body, CONTRACT)
    assert "\n" not in str(refusal.value)


def test_raw_bytes_must_be_exactly_those_of_the_shape():
    body, size = raw()
    assert len(parse(body, CONTRACT, json_bytes=size).images) == 2
    hostile = np.where(IMAGES > 0.5, np.float32(np.nan), IMAGES)
    beside = request([tensor(parameters={"binary_data_size": 96})])
    for wrong, length, words in (
        (body[:-4], size, "binary_data_size"),
        (body + b"\0\0\0\0", size, "binary_data_size"),
        (body, size - 1, "not JSON"),
        (body, len(body) + 1, "shorter"),
        (body, 0, "empty"),
        (*raw(hostile), r"not in \[0, 1\]"),
        (*raw(shape=[2, 1, 3, 5]), "binary_data_size"),
        (beside + IMAGES.tobytes(), len(beside), "binary_data_size"),
        (request() + b"1234", len(request()), "bytes follow"),
    ):
        with pytest.raises(RequestError, match=words):
            parse(wrong, CONTRACT, json_bytes=length)


def test_json_over_its_limit_is_refused_before_it_is_read():
    padded = request() + b" " * protocol.MAX_JSON_BYTES
    assert parse(padded[: protocol.MAX_JSON_BYTES], CONTRACT)
    with pytest.raises(RequestError, match="over the limit") as refusal:
        parse(padded, CONTRACT)
    assert refusal.value.status == 413
