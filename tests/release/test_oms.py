"""The bundle beside a model, held against the stock verifier, as anybody installs it."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from federation.release import oms
from kit import canonical
from pki import certificates, identity, keys
from tests.fakes import federation

NAME = "model.onnx"
STOCK = Path(sys.executable).with_name("model_signing")
LONG_AGO = datetime.now(UTC) - timedelta(days=500)  # the certificate has ended since


@pytest.fixture
def signed(tmp_path):
    """A model, its bundle, the federation's root, and another federation's."""
    model = tmp_path / NAME
    model.write_bytes(b"a model, as far as its bytes go")
    root = certificates.new_root("riverside", now=LONG_AGO)
    issuing = certificates.new_issuing(root, "riverside", now=LONG_AGO)
    key = keys.new_tls_key()
    who = identity.coordinator("riverside")
    leaf = certificates.issue_signing(issuing, who, key.public_key(), now=LONG_AGO)
    file = federation.release(federation.found(), model=model.read_bytes()).model
    bundle = oms.sign(file, NAME, key, (leaf, issuing.certificate))
    (tmp_path / "model.sig").write_bytes(bundle)
    (tmp_path / "root.pem").write_bytes(certificates.pem(root.certificate))
    stranger = certificates.new_root("riverside", now=LONG_AGO)
    (tmp_path / "stranger.pem").write_bytes(certificates.pem(stranger.certificate))
    return tmp_path


def verify(folder, root="root.pem"):
    """Run the stock command line."""
    signature, chain = folder / "model.sig", folder / root
    words = ["--signature", signature, "--certificate_chain", chain]
    return subprocess.run(
        [STOCK, "verify", "certificate", folder / NAME, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_stock_verifier_accepts_the_bundle_and_nothing_that_was_changed(signed):
    done = verify(signed)
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr
    assert verify(signed, "stranger.pem").returncode != 0
    model = signed / NAME
    good = model.read_bytes()
    model.write_bytes(good + b"!")
    refused = verify(signed)
    assert refused.returncode != 0
    assert "mismatch" in (refused.stdout + refused.stderr).lower()
    model.write_bytes(good)
    assert verify(signed).returncode == 0


def test_the_stock_verifier_refuses_a_statement_that_was_changed(signed):
    path = signed / "model.sig"
    good = path.read_bytes()
    table = json.loads(good)
    statement = canonical.b64decode(table["dsseEnvelope"]["payload"])
    swapped = statement.replace(b"model.onnx", b"other.onnx")
    table["dsseEnvelope"]["payload"] = canonical.b64encode(swapped)
    path.write_bytes(canonical.encode(table))
    assert verify(signed).returncode != 0
    path.write_bytes(good)
    assert verify(signed).returncode == 0


def test_a_bundle_names_no_folder_and_one_file(signed):
    table = canonical.decode((signed / "model.sig").read_bytes())
    statement = canonical.decode(canonical.b64decode(table["dsseEnvelope"]["payload"]))
    [subject], predicate = statement["subject"], statement["predicate"]
    digest = canonical.digest((signed / NAME).read_bytes())
    assert [(r["name"], r["digest"]) for r in predicate["resources"]] == [(".", digest)]
    assert subject["name"] == NAME
    assert str(signed) not in json.dumps(statement)


def test_only_a_p256_key_signs(signed):
    file = replace(federation.release(federation.found()).model)
    assert isinstance(keys.new_tls_key(), ec.EllipticCurvePrivateKey)
    with pytest.raises(TypeError):
        oms.sign(file, NAME, keys.new_signing_key(), ())
