"""An agent of the first release goes on working: its contract and its messages stand as vectors."""

import base64
import copy
import json

import pytest
from google.protobuf import message_factory, unknown_fields

from protos import exchange_pb2 as pb
from tests.protos import wire_rules
from tests.vectors import record_wire

RELEASED = wire_rules.parse((record_wire.FOLDER / record_wire.CONTRACT).read_bytes())
TRAFFIC = json.loads((record_wire.FOLDER / record_wire.TRAFFIC).read_text())


def now():
    return wire_rules.parse(record_wire.contract())


def methods():
    return {
        f"/{service.full_name}/{method.name}": method
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def test_the_contract_breaks_no_agent_of_the_first_release():
    assert wire_rules.breaks(RELEASED, now()) == []


def message(files, name):
    return next(m for m in files.file[0].message_type if m.name == name)


def field(files, name, of):
    return next(f for f in message(files, of).field if f.name == name)


def method(files, name):
    exchange = next(s for s in files.file[0].service if s.name == "Exchange")
    return next(m for m in exchange.method if m.name == name)


def remove_method(files):
    exchange = next(s for s in files.file[0].service if s.name == "Exchange")
    exchange.method.remove(method(files, "Renew"))


BREAKS = {
    "a field is gone": lambda f: message(f, "UploadChunk").field.remove(
        field(f, "offset", "UploadChunk")
    ),
    "a field has another number": lambda f: setattr(field(f, "data", "UploadChunk"), "number", 9),
    "a field has another type": lambda f: setattr(field(f, "offset", "UploadChunk"), "type", 13),
    "a field has another name": lambda f: setattr(field(f, "data", "UploadChunk"), "name", "bytes"),
    "a field is repeated": lambda f: setattr(field(f, "reason", "BlueprintStatus"), "label", 3),
    "a message is gone": lambda f: f.file[0].message_type.remove(message(f, "LogEntry")),
    "a method is gone": remove_method,
    "a method streams": lambda f: setattr(method(f, "Begin"), "server_streaming", True),
    "a method does not stream": lambda f: setattr(method(f, "Upload"), "client_streaming", False),
    "a method answers otherwise": lambda f: setattr(
        method(f, "Begin"), "output_type", method(f, "Renew").output_type
    ),
    "the package has another name": lambda f: setattr(f.file[0], "package", "kit.v2"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_kind_of_break_is_found(name):
    changed = copy.deepcopy(RELEASED)
    assert wire_rules.breaks(RELEASED, changed) == []
    BREAKS[name](changed)
    assert wire_rules.breaks(RELEASED, changed)


def test_what_is_only_added_breaks_nobody():
    grown = copy.deepcopy(RELEASED)
    message(grown, "UploadChunk").field.add(name="later", number=99, type=4, label=1)
    grown.file[0].message_type.add(name="Later")
    exchange = next(s for s in grown.file[0].service if s.name == "Exchange")
    exchange.method.add(name="Later", input_type=".x.Later", output_type=".x.Later")
    assert wire_rules.breaks(RELEASED, grown) == []
    assert wire_rules.breaks(grown, RELEASED)


def test_every_message_of_the_recorded_exchange_is_understood_whole():
    known = methods()
    for entry in TRAFFIC:
        what = known[entry["method"]]
        kind = what.input_type if entry["way"] == "request" else what.output_type
        data = base64.b64decode(entry["message"])
        found = message_factory.GetMessageClass(kind).FromString(data)
        assert not len(unknown_fields.UnknownFieldSet(found)), entry["method"]
        assert found.SerializeToString() == data, entry["method"]


def test_the_recorded_exchange_has_every_method_of_its_release_both_ways():
    released = {
        f"/{file.package}.{service.name}/{each.name}"
        for file in RELEASED.file
        for service in file.service
        for each in service.method
    }
    for way in ("request", "reply"):
        assert {e["method"] for e in TRAFFIC if e["way"] == way} == released
