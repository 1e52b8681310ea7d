"""The layout of a Triton model repository, read back with protobuf's own text parser."""

import json

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from edge_agent import installed, rollout, triton
from federation.release.onnx_lint import NOTICE
from kit import clock
from kit.errors import KitError
from tests.fakes import site

# Field names and numbers of Triton's `model_config.proto` (ModelConfig), those that are used here.
_FIELDS = {
    "Tensor": [("name", 1, "string", 0), ("data_type", 2, "Type", 0), ("dims", 3, "int64", 1),
               ("label_filename", 4, "string", 0)],
    "Batching": [("preferred_batch_size", 1, "int32", 1)],
    "All": [],
    "Policy": [("all", 2, "All", 0)],
    "Parameter": [("string_value", 1, "string", 0)],
    "Entry": [("key", 1, "string", 0), ("value", 2, "Parameter", 0)],
    "ModelConfig": [("name", 1, "string", 0), ("platform", 2, "string", 0),
                    ("version_policy", 3, "Policy", 0), ("max_batch_size", 4, "int32", 0),
                    ("input", 5, "Tensor", 1), ("output", 6, "Tensor", 1),
                    ("dynamic_batching", 11, "Batching", 0), ("parameters", 14, "Entry", 1)],
}  # fmt: skip
_SCALARS = {"string": 9, "int64": 3, "int32": 5}


def model_config():
    """Return an empty ModelConfig of a small schema that knows the fields above and no others."""
    file = descriptor_pb2.FileDescriptorProto(name="m.proto", package="t", syntax="proto2")
    kind = file.enum_type.add(name="Type")
    for name, number in (("TYPE_INVALID", 0), ("TYPE_FP32", 11)):
        kind.value.add(name=name, number=number)
    for message, fields in _FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, of, repeated in fields:
            field = made.field.add(name=name, number=number, label=3 if repeated else 1)
            field.type = _SCALARS.get(of, 14 if of == "Type" else 11)
            if of not in _SCALARS:
                field.type_name = f".t.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))()


def test_a_release_stands_in_the_layout_that_triton_reads(released, tmp_path):
    home, now = released.home("a"), clock.utc_now()
    with released.serving():
        digest = installed.fetch(home, site.STUDY, got=lambda *_: None).release
    rollout.accept(home, site.STUDY, digest[:8], unevaluated=True, now=now)
    done = triton.export(home, site.STUDY, tmp_path / "repository", now=now)
    folder = tmp_path / "repository" / site.STUDY
    assert (done.release, done.accepted, done.folder) == (digest, True, folder)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "1/model.onnx", "config.pbtxt", "labels.txt", "release.json",
    ]  # fmt: skip
    model = installed.folder_of(home, digest) / installed.MODEL
    assert (folder / "1" / "model.onnx").read_bytes() == model.read_bytes()
    assert (folder / "labels.txt").read_text().split() == list(site.CLASSES)
    found = text_format.Parse((folder / "config.pbtxt").read_text(), model_config())
    assert (found.name, found.platform) == (site.STUDY, "onnxruntime_onnx")
    assert found.max_batch_size > 1
    [images], [output] = found.input, found.output
    assert (images.name, images.data_type, list(images.dims)) == ("images", 11, [1, -1, -1])
    assert (output.name, list(output.dims)) == ("probabilities", [len(site.CLASSES)])
    assert output.label_filename == "labels.txt"
    said = {entry.key: entry.value.string_value for entry in found.parameters}
    assert said == {"release": digest, "notice": NOTICE, "study": site.STUDY}
    about = json.loads((folder / "release.json").read_bytes())
    assert (about["release"], about["notice"]) == (digest, NOTICE)
    with pytest.raises(KitError, match="is there already"):
        triton.export(home, site.STUDY, tmp_path / "repository", now=now)


def test_what_may_not_answer_is_not_exported(released, tmp_path):
    home = released.home("a")
    with released.serving() as coordinator:
        installed.fetch(home, site.STUDY, got=lambda *_: None)
        first = triton.export(home, site.STUDY, tmp_path / "one", now=clock.utc_now())
        assert (first.accepted, first.folder.is_dir()) == (False, True)
        site.revocation_of(released, coordinator, "c")
        site.visit(home)
    with pytest.raises(KitError, match="is withdrawn"):
        triton.export(home, site.STUDY, tmp_path / "two", now=clock.utc_now())
    assert not (tmp_path / "two").exists()
