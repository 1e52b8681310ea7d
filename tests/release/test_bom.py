"""The ML-BOM, held against the validator of the format's own library."""

import json
from dataclasses import replace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from federation.release import bom
from federation.release.bom import Ancestor, Making
from kit.errors import FormatError
from tests.fakes import federation

WORLD = federation.found()
A, B = "a" * 64, "b" * 64
PRIVATE = Ancestor(
    digest=B, outputs=("cat",), unit="patient", mechanism="gaussian", epsilon=8.0, delta=1e-6
)
OPEN = Ancestor(
    digest=A, outputs=("dog",), unit="image", mechanism="none", epsilon=None, delta=None
)
MODEL = federation.release(WORLD, A, B).model


def making(*ancestors):
    return Making(
        study=WORLD.study,
        labels=("cat", "dog"),
        plan="c" * 64,
        created="2026-01-01T00:00:00Z",
        images_per_shard=16,
        classifier="small",
        ancestors=ancestors,
    )


def errors(data):
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode())


def figures(component):
    return {entry["name"].split(":")[1]: entry["value"] for entry in component["properties"]}


def test_an_ml_bom_is_valid_cyclonedx_and_a_broken_one_is_not():
    data = bom.write(MODEL, making(PRIVATE, OPEN))
    assert errors(data) is None
    assert errors(data.replace(b"machine-learning-model", b"machine")) is not None
    assert errors(data.replace(b'"specVersion"', b'"specification"')) is not None


def test_ancestors_are_blueprint_digests_with_what_was_declared():
    data = bom.write(MODEL, making(PRIVATE, OPEN))
    component = json.loads(data)["metadata"]["component"]
    assert bom.ancestors_in(data) == (A, B)
    first, second = component["pedigree"]["ancestors"]
    assert figures(first) == {"mechanism": "none", "outputs": "dog", "unit": "image"}
    assert figures(second) | {"epsilon": "8.0", "delta": "1e-06"} == figures(second)
    assert component["hashes"] == [{"alg": "SHA-256", "content": MODEL.sha256}]
    assert component["licenses"] == [{"license": {"name": MODEL.licence}}]
    assert component["modelCard"]["modelParameters"]["datasets"][0]["classification"] == "synthetic"


def test_a_bound_for_the_model_is_claimed_only_where_every_ancestor_declares_one():
    stronger = replace(PRIVATE, digest="d" * 64, epsilon=2.5)
    both = json.loads(bom.write(MODEL, making(PRIVATE, stronger)))["metadata"]["component"]
    mixed = json.loads(bom.write(MODEL, making(PRIVATE, OPEN)))["metadata"]["component"]
    assert figures(both)["largest-ancestor-epsilon"] == "8.0"
    assert "largest-ancestor-epsilon" not in figures(mixed)


def test_one_release_gives_one_file_in_any_order_of_ancestors():
    assert bom.write(MODEL, making(PRIVATE, OPEN)) == bom.write(MODEL, making(OPEN, PRIVATE))
    later = replace(making(OPEN), created="2026-01-02T00:00:00Z")
    serials = [json.loads(bom.write(MODEL, m))["serialNumber"] for m in (making(OPEN), later)]
    assert len(set(serials)) == 2


def test_bytes_that_are_no_ml_bom_are_refused():
    with pytest.raises(FormatError):
        bom.ancestors_in(b"{")
    with pytest.raises(KeyError):
        bom.ancestors_in(b"{}")


def test_a_published_synthetic_set_stands_in_it():
    data = bom.write(MODEL, replace(making(PRIVATE), synthetic_set="d" * 64))
    assert errors(data) is None
    [dataset] = json.loads(data)["metadata"]["component"]["modelCard"]["modelParameters"][
        "datasets"
    ]
    assert dataset["contents"]["properties"][0]["value"] == "d" * 64
    assert "d" * 64 not in bom.write(MODEL, making(PRIVATE)).decode()
