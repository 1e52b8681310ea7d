"""Record the wire of a release: the contract and a real exchange, for `tests/protos` to keep to.

Run by `make wire-record` when a release is cut, and at no other time: what it overwrites is what
agents out there speak. One site enrols, submits, fetches and withdraws; every message is kept as
its bytes, of streams the first and the last.
"""

import base64
import json
import tempfile
from pathlib import Path

from coordinator import grpc_server
from edge_agent import exchange, installed, submission
from edge_agent.exchange import Exchange
from kit import clock
from pki import certificates, keys
from protos import exchange_pb2 as pb
from tests.fakes import site

from google.protobuf import descriptor_pb2  # isort: skip

FOLDER = Path(__file__).parent / "wire-v1"
CONTRACT, TRAFFIC = "contract.binpb", "traffic.json"
CHUNK_BYTES = 256


def contract():
    """Return the contract as it is now, as a FileDescriptorSet."""
    files = descriptor_pb2.FileDescriptorSet()
    pb.DESCRIPTOR.CopyToProto(files.file.add())
    return files.SerializeToString(deterministic=True)


class Tape:
    """A channel that keeps what passes."""

    def __init__(self):
        self.messages = []

    def over(self, channel):
        self._channel = channel
        return self

    def __getattr__(self, kind):
        make = getattr(self._channel, kind)

        def method(path, request_serializer, response_deserializer, **options):
            def sent(message):
                data = request_serializer(message)
                self.messages.append((path, "request", data))
                return data

            def came(data):
                self.messages.append((path, "reply", data))
                return response_deserializer(data)

            return make(path, sent, came, **options)

        return method

    def kept(self):
        """Return the messages, of long streams the first and the last."""
        found = []
        for index, entry in enumerate(self.messages):
            around = [self.messages[i][:2] for i in (index - 1, index + 1) if 0 <= i < len(self)]
            if around != [entry[:2]] * 2:
                found.append(entry)
        return found

    def __len__(self):
        return len(self.messages)


def exchanged():
    """Return the messages of one site's life with a coordinator."""
    tape = Tape()
    real = {name: getattr(exchange.stubs, name) for name in ("ExchangeStub", "EnrolmentStub")}
    exchange.CHUNK_BYTES = grpc_server.DOWNLOAD_CHUNK_BYTES = CHUNK_BYTES
    with tempfile.TemporaryDirectory() as folder:
        federation = site.copy("released", Path(folder) / "released", Path(folder))
        try:
            for name, stub in real.items():
                setattr(exchange.stubs, name, lambda channel, stub=stub: stub(tape.over(channel)))
            with federation.serving() as coordinator:
                home = federation.home("a")
                installed.fetch(home, site.STUDY, got=lambda *_: None)
                submission.withdraw(home, site.STUDY, reason="recorded", now=clock.utc_now())
                site.runs.write_run(
                    home, home.study(site.STUDY), site.LABELS["a"], name="next", seed=5
                )
                site.submit(home, "next")
                with Exchange.open(home) as line:
                    line.leaves(0)
                    line.renew(certificates.request(keys.new_tls_key()))
                site.enrol(coordinator, federation, "fresh")
        finally:
            for name, stub in real.items():
                setattr(exchange.stubs, name, stub)
    return tape.kept()


def main():
    FOLDER.mkdir(exist_ok=True)
    lines = [
        json.dumps({"method": path, "way": way, "message": base64.b64encode(data).decode()})
        for path, way, data in exchanged()
    ]
    (FOLDER / TRAFFIC).write_text("[\n" + ",\n".join(lines) + "\n]\n")
    (FOLDER / CONTRACT).write_bytes(contract())
    print(f"{len(lines)} messages in {FOLDER}")


if __name__ == "__main__":
    main()
