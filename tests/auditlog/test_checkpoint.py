import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.auditlog import merkle
from federation.auditlog.checkpoint import MAX_TEXT_BYTES, Checkpoint, Receipt
from kit.errors import FormatError, KitError
from pki import keys
from pki.errors import IdentityError

ORIGIN = "riverside/log"
KEY = keys.new_signing_key()
PUBLIC = keys.public_bytes(KEY)
DATA = [b"leaf %d" % i for i in range(7)]
HASHES = [merkle.leaf_hash(leaf) for leaf in DATA]
HEAD = Checkpoint(origin=ORIGIN, size=7, root=merkle.root(HASHES))
TEXT = HEAD.sign(KEY)


def check(text, *, origin=ORIGIN, key=PUBLIC):
    return Checkpoint.verify(text, origin=origin, key=key)


@given(st.integers(0, 10**17), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_reads_back(size, root):
    head = Checkpoint(origin=ORIGIN, size=size, root=root)
    assert check(head.sign(KEY)) == head


def test_a_checkpoint_has_the_form_of_a_signed_note():
    root = base64.b64encode(HEAD.root).decode()
    body, signature = TEXT.split("\n\n")
    assert body == f"{ORIGIN}\n7\n{root}"
    assert signature.startswith(f"\u2014 {ORIGIN} ")
    raw = base64.b64decode(signature.split(" ")[2])
    assert len(raw) == 4 + 64
    KEY.public_key().verify(raw[4:], body.encode() + b"\n")


def test_a_checkpoint_of_another_log_or_key_is_refused():
    assert check(TEXT) == HEAD
    other = keys.new_signing_key()
    for text, origin, key in (
        (TEXT, "riverside/other", PUBLIC),
        (TEXT, ORIGIN, keys.public_bytes(other)),
        (HEAD.sign(other), ORIGIN, PUBLIC),
    ):
        with pytest.raises(FormatError):
            check(text, origin=origin, key=key)


def test_a_signature_that_does_not_fit_is_refused():
    assert check(TEXT) == HEAD
    for old, new in (("\n7\n", "\n8\n"), (f"{ORIGIN}\n7", f"{ORIGIN}\n70")):
        with pytest.raises(IdentityError):
            check(TEXT.replace(old, new, 1))


BODY, SIGNATURE = TEXT.split("\n\n")
NAME, RAW = SIGNATURE.rsplit(" ", 1)
FAULTS = {
    "empty": "",
    "no signature": BODY + "\n\n",
    "no blank line": BODY + "\n" + SIGNATURE,
    "cut off": TEXT[:-1],
    "an extension line": TEXT.replace("\n\n", "\nmore\n\n"),
    "a missing line": TEXT.replace("\n7\n", "\n"),
    "two signatures": TEXT + SIGNATURE,
    "text after the signature": TEXT + "more\n",
    "a blank line at the end": TEXT + "\n",
    "another dash": TEXT.replace("\u2014", "-"),
    "another name at the signature": TEXT.replace(NAME, "\u2014 other"),
    "no base64": TEXT.replace(RAW, "!!!!\n"),
    "a signature cut short": TEXT.replace(RAW, "AAAA\n"),
    "a size with a sign": TEXT.replace("\n7\n", "\n+7\n"),
    "a size with a zero": TEXT.replace("\n7\n", "\n07\n"),
    "a size in other digits": TEXT.replace("\n7\n", "\n\u0667\n"),
    "a size with a superscript": TEXT.replace("\n7\n", "\n\u00b2\n"),
    "a negative size": TEXT.replace("\n7\n", "\n-7\n"),
    "no size": TEXT.replace("\n7\n", "\n\n"),
    "a size without end": TEXT.replace("\n7\n", "\n" + "9" * 5000 + "\n"),
    "a root that is no base64": TEXT.replace("\n7\n", "\n7\n!"),
    "carriage returns": TEXT.replace("\n", "\r\n"),
    "too long": TEXT + "x" * MAX_TEXT_BYTES + "\n",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_with_one_fault_is_refused(fault):
    assert check(TEXT) == HEAD
    assert FAULTS[fault] != TEXT
    with pytest.raises(KitError):
        check(FAULTS[fault])


def test_a_root_of_another_length_is_refused_though_it_is_signed():
    for length in (0, 31, 33):
        with pytest.raises(FormatError):
            check(Checkpoint(origin=ORIGIN, size=7, root=bytes(length)).sign(KEY))


def receipt(index, *, checkpoint=TEXT):
    path = tuple(merkle.inclusion_proof(index, HASHES))
    return Receipt(index=index, path=path, checkpoint=checkpoint)


@pytest.mark.parametrize("index", range(7))
def test_a_receipt_reads_back_and_proves_its_leaf(index):
    made = receipt(index)
    assert Receipt.from_text(made.to_text()) == made
    assert made.verify(DATA[index], origin=ORIGIN, key=PUBLIC) == HEAD


def test_the_receipt_of_a_lone_leaf_has_an_empty_path():
    head = Checkpoint(origin=ORIGIN, size=1, root=HASHES[0]).sign(KEY)
    made = Receipt(index=0, path=(), checkpoint=head)
    assert Receipt.from_text(made.to_text()) == made
    made.verify(DATA[0], origin=ORIGIN, key=PUBLIC)


def test_a_receipt_proves_no_other_leaf_and_leads_to_no_other_log():
    made = receipt(3)
    made.verify(DATA[3], origin=ORIGIN, key=PUBLIC)
    with pytest.raises(FormatError):
        made.verify(DATA[2], origin=ORIGIN, key=PUBLIC)
    with pytest.raises(FormatError):
        made.verify(DATA[3], origin="other/log", key=PUBLIC)
    other = keys.new_signing_key()
    with pytest.raises(FormatError):
        made.verify(DATA[3], origin=ORIGIN, key=keys.public_bytes(other))
    with pytest.raises(FormatError):
        receipt(3, checkpoint=HEAD.sign(other)).verify(DATA[3], origin=ORIGIN, key=PUBLIC)


PROOF = receipt(3).to_text()
RECEIPT_FAULTS = {
    "empty": "",
    "another header": PROOF.replace("@v1", "@v2", 1),
    "no index": PROOF.replace("index 3\n", "", 1),
    "an index in other digits": PROOF.replace("index 3", "index \u0663", 1),
    "an index with a zero": PROOF.replace("index 3", "index 03", 1),
    "a negative index": PROOF.replace("index 3", "index -3", 1),
    "an index without end": PROOF.replace("index 3", "index " + "9" * 5000, 1),
    "another index": PROOF.replace("index 3", "index 4", 1),
    "an index outside": PROOF.replace("index 3", "index 7", 1),
    "a path that is no base64": PROOF.replace("index 3\n", "index 3\n!\n", 1),
    "a short hash": PROOF.replace("index 3\n", "index 3\nAAAA\n", 1),
    "no checkpoint": PROOF.partition("\n\n")[0] + "\n\n",
    "no blank line": PROOF.replace("\n\n", "\n", 1),
    "cut off": PROOF[:-1],
    "text at the end": PROOF + "more",
    "too long": PROOF + "x" * MAX_TEXT_BYTES,
}


@pytest.mark.parametrize("fault", RECEIPT_FAULTS)
def test_a_receipt_with_one_fault_is_refused(fault):
    Receipt.from_text(PROOF).verify(DATA[3], origin=ORIGIN, key=PUBLIC)
    assert RECEIPT_FAULTS[fault] != PROOF
    with pytest.raises(KitError):
        Receipt.from_text(RECEIPT_FAULTS[fault]).verify(DATA[3], origin=ORIGIN, key=PUBLIC)


def test_no_flipped_bit_of_a_receipt_proves_its_leaf():
    data = PROOF.encode()
    Receipt.from_text(data.decode()).verify(DATA[3], origin=ORIGIN, key=PUBLIC)
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 7
        text = altered.decode(errors="replace")
        with pytest.raises(KitError):
            Receipt.from_text(text).verify(DATA[3], origin=ORIGIN, key=PUBLIC)
