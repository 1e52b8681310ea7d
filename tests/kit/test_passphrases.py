import os
import unicodedata
from pathlib import Path

import pytest

from kit import passphrases
from kit.errors import KitError
from kit.passphrases import Sources
from tests.fakes.terminal import at_a_terminal

WORDS = "correct horse battery"
ASK = "from kit.passphrases import Sources; print(list(Sources((), 'x').candidates('the key')))"
ASK_NEW = "from kit.passphrases import ask_new; print(ask_new('the key', hint='h'))"


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def file(folder, text, mode=0o600):
    path = folder / "words"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_a_file_gives_its_one_line(tmp_path):
    for text in (WORDS, WORDS + "\n", WORDS + "\r\n"):
        assert passphrases.read(file(tmp_path, text)) == WORDS
    for text in ("", "\n", "two\nlines\n", b"\xff\xfe\xfd", "x" * 2000):
        with pytest.raises(KitError):
            passphrases.read(file(tmp_path, text))
    with pytest.raises(KitError, match="does not exist"):
        passphrases.read(tmp_path / "none")


def test_a_file_that_others_can_read_is_refused(tmp_path):
    assert passphrases.read(file(tmp_path, WORDS)) == WORDS
    with pytest.raises(KitError, match="read by others"):
        passphrases.read(file(tmp_path, WORDS, 0o644))


def test_an_umlaut_is_the_same_however_a_keyboard_writes_it(tmp_path):
    text = "Käsebrötchen mit Öl"
    for form in ("NFC", "NFD"):
        assert passphrases.read(file(tmp_path, unicodedata.normalize(form, text))) == text


def test_a_descriptor_is_read_once_and_serves_twice():
    out, into = os.pipe()
    os.write(into, WORDS.encode() + b"\n")
    os.close(into)
    sources = Sources((Path(f"/dev/fd/{out}"),), "x")
    assert [*sources.candidates("it")] == [*sources.candidates("it")] == [WORDS]
    assert sources.new("it") == WORDS
    os.close(out)


def test_a_systemd_credential_is_found_by_its_name(tmp_path, monkeypatch):
    file(tmp_path, WORDS, 0o440).rename(tmp_path / "edge-agent.passphrase")
    sources = Sources((), "edge-agent.passphrase")
    assert list(sources.candidates("it")) == []
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert list(sources.candidates("it")) == [WORDS]
    assert list(Sources((), "coordinator.passphrase").candidates("it")) == []


def test_nobody_there_is_one_clear_line(tmp_path):
    with pytest.raises(KitError, match="the new passphrase of it is missing") as caught:
        Sources((), "edge-agent.passphrase").new("it")
    assert "--passphrase-file" in caught.value.hint
    assert "edge-agent.passphrase" in caught.value.hint
    with pytest.raises(KitError, match="is missing"):
        passphrases.chosen("it", None)
    assert passphrases.chosen("it", file(tmp_path, WORDS)) == WORDS


def test_a_person_is_asked_without_echo():
    shown, status = at_a_terminal(ASK, WORDS)
    assert status == 0
    assert shown.startswith("passphrase of the key: ")
    assert shown.count(WORDS) == 1  # what the program printed, not what was typed


def test_a_new_passphrase_is_asked_twice_and_must_agree():
    shown, status = at_a_terminal(ASK_NEW, WORDS, "other words")
    assert status != 0
    assert "the two passphrases differ" in shown
    shown, status = at_a_terminal(ASK_NEW.replace("print", "str"), "first", "first ")
    assert status != 0
    assert "first" not in shown.split("Traceback")[0]
