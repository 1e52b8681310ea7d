"""The generated stubs are those of the contract, and every method of it has an authorisation."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from coordinator.authorisation import AUTHORISED, Caller
from protos import exchange_pb2

ROOT = Path(__file__).parents[2]
SERVICES = exchange_pb2.DESCRIPTOR.services_by_name


@pytest.mark.skipif(find_spec("grpc_tools") is None, reason="grpcio-tools is not installed")
def test_the_committed_stubs_are_what_the_contract_generates(tmp_path):
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    command += [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, "protos/exchange.proto"], cwd=ROOT, check=True, timeout=60)
    made = sorted(path.name for path in (tmp_path / "protos").iterdir())
    assert made == ["exchange_pb2.py", "exchange_pb2.pyi", "exchange_pb2_grpc.py"]
    for name in made:
        committed = (ROOT / "protos" / name).read_text()
        assert (tmp_path / "protos" / name).read_text() == committed, name


def test_every_method_has_an_authorisation_and_nothing_else_has():
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in SERVICES.values()
        for method in service.methods
    }
    assert len(methods) >= 7
    assert set(AUTHORISED) == methods
    silent = [name for name, who in AUTHORISED.items() if who is Caller.NOBODY]
    assert not silent, f"say `option (caller)` at {silent} in protos/exchange.proto"


def test_only_enrolment_is_open_to_callers_without_a_certificate():
    unauthenticated = [name for name, who in AUTHORISED.items() if who is Caller.ANYBODY]
    assert unauthenticated == ["/hospital_edge_kit.v1.Enrolment/Enrol"]
    assert [m.name for m in SERVICES["Enrolment"].methods] == ["Enrol"]


def test_no_request_carries_a_sender():
    for service in SERVICES.values():
        for method in service.methods:
            names = {field.name for field in method.input_type.fields}
            assert not names & {"site", "sender", "identity", "federation", "actor", "role"}
