"""Proofs against the vectors of transparency-dev/merkle, valid and invalid."""

import base64
import json
from pathlib import Path

import pytest

from federation.auditlog import merkle
from kit.errors import FormatError

FOLDER = Path(__file__).parents[3] / "shared" / "vectors" / "merkle"
INCLUSION = sorted(FOLDER.glob("inclusion/**/*.json"))
CONSISTENCY = sorted(FOLDER.glob("consistency/**/*.json"))
REASON = "the vectors of transparency-dev/merkle are not beside the repository"


def load(path):
    case = json.loads(path.read_text())
    proof = [base64.b64decode(h) for h in case["proof"] or []]
    return case, proof


def agrees(case, verify, *arguments):
    if case["wantErr"]:
        with pytest.raises(FormatError):
            verify(*arguments)
    else:
        verify(*arguments)


def raw(text):
    return base64.b64decode(text or "")


@pytest.mark.skipif(not INCLUSION, reason=REASON)
@pytest.mark.parametrize("path", INCLUSION, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_inclusion_proofs_agree(path):
    case, proof = load(path)
    leaf, root = raw(case["leafHash"]), raw(case["root"])
    agrees(case, merkle.verify_inclusion, leaf, case["leafIdx"], case["treeSize"], proof, root)


@pytest.mark.skipif(not CONSISTENCY, reason=REASON)
@pytest.mark.parametrize("path", CONSISTENCY, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_consistency_proofs_agree(path):
    case, proof = load(path)
    old, new = raw(case["root1"]), raw(case["root2"])
    agrees(case, merkle.verify_consistency, case["size1"], old, case["size2"], new, proof)


def test_all_of_the_vectors_were_there_or_none():
    assert len(INCLUSION) + len(CONSISTENCY) in (0, 196)
