"""Every format version ever released keeps opening, and its specification shows its bytes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from federation.blueprint import envelope, limits
from federation.blueprint.errors import RefusalError
from federation.study import Study
from kit.errors import FormatError
from pki import certificates, identity, kem
from tests.vectors import blueprint_example as example

ROOT = Path(__file__).parents[2]
SPECIFICATION = (ROOT / "docs" / "blueprint-format.md").read_text()


def opened(folder, *, table=example.TABLE):
    study = Study.from_bytes((folder / "study.json").read_bytes())
    seed = bytes.fromhex((folder / "recipient-seed.hex").read_text())
    wrapped = (folder / "wrapped-key").read_bytes()
    statement = envelope.verify_statement(
        (folder / "statement.dsse.json").read_bytes(),
        wrapped,
        certificates.from_pem((folder / "signing-chain.pem").read_bytes()),
        envelope.Expectations(
            now=example.SEALED_AT,
            root=certificates.from_der((folder / "root.der").read_bytes()),
            channel=identity.site("riverside", "a"),
            recipient=identity.coordinator("riverside"),
            study=study,
            study_open=True,
            kid=kem.key_id(kem.public_key(seed)),
            last_seq=0,
            ledger_counter=0,
            used_digests=frozenset(),
            architecture=lambda study, declared: None,
        ),
    )
    key = envelope.unwrap_key(wrapped, seed, statement)
    plaintext = envelope.open_payload((folder / "payload.c2sp").read_bytes(), key, statement)
    envelope.check_files(
        plaintext, statement, table, embedding=example.EMBEDDING, classes=study.classes
    )
    return statement


def test_version_1_opens():
    statement = opened(example.V1)
    assert statement.digest == "f9dc8a88265c471b86d776d9f1c04b2e31a47cdc46e28dd549d76a537c703b10"
    with pytest.raises(RefusalError):
        opened(example.V1, table={"other": ("BF16", (1,))})


def test_the_worked_example_is_that_of_the_committed_blueprint():
    begin, end = "<!-- worked example: begin -->\n", "\n<!-- worked example: end -->"
    shown = SPECIFICATION.partition(begin)[2].partition(end)[0]
    assert shown == example.worked_example(example.V1).rstrip("\n")


def test_the_script_prints_the_same_text():
    done = subprocess.run(
        [sys.executable, "tests/vectors/blueprint_example.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == example.worked_example(example.V1)


def test_the_specification_names_every_limit_with_its_value():
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", SPECIFICATION, flags=re.M))
    values = {name: getattr(limits, name) for name in dir(limits) if name.isupper()}
    assert set(rows) == set(values)
    for name, text in rows.items():
        number = text.strip().replace(" ", "").replace("2^40", str(1 << 40))
        assert float(number) == values[name], name


def test_the_specification_and_the_code_have_the_same_steps():
    steps = [int(n) for n in re.findall(r"^\| ([0-9]+) \| ", SPECIFICATION, flags=re.M)]
    assert steps == list(range(1, 24))
    source = (ROOT / "federation" / "blueprint" / "envelope.py").read_text()
    coded = {int(n) for n in re.findall(r"(?:_step|RefusalError)\((\d+)", source)}
    assert coded == set(range(1, 23))
    last = (ROOT / "coordinator" / "intake" / "model_check.py").read_text()
    assert "step 23" in last


def test_a_refusal_is_a_format_error_that_carries_its_step():
    error = RefusalError(7, "no")
    assert isinstance(error, FormatError)
    assert (error.step, str(error)) == (7, "step 7: no")
