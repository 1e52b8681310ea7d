import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from kit import door
from kit.errors import FormatError, InterruptedRunError, KitError


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Result:
    run_id: str
    colour: Colour
    folder: Path
    parts: tuple[int, ...]
    note: str | None = None


RESULT = Result(run_id="r-1", colour=Colour.RED, folder=Path("/tmp/x"), parts=(1, 2))


def failing(error):
    def command():
        raise error

    return command


def test_a_command_that_does_all_of_it_ends_with_zero_and_says_nothing(capsys):
    assert door.run("prog", lambda: None) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (KitError("it broke", hint="mend it"), 1, ["error: it broke", "hint: mend it"]),
        (FormatError("bytes are off"), 1, ["error: bytes are off"]),
        (InterruptedRunError("stopped"), 130, ["error: stopped"]),
        (OSError(28, "No space left on device", "f"), 1, ["error: no space left on device: `f`"]),
        (OSError("odd"), 1, ["error: odd"]),
    ],
)
def test_an_error_is_one_line_on_stderr_with_a_hint_and_a_status(capsys, error, status, lines):
    assert door.run("prog", failing(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"prog: {line}" for line in lines]


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(capsys):
    assert door.run("prog", failing(KeyboardInterrupt())) == 130
    assert "hint: run the same command again" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly(capsys):
    assert door.run("prog", failing(BrokenPipeError())) == 1
    assert capsys.readouterr().err == ""


def test_a_programming_error_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        door.run("prog", failing(ZeroDivisionError()))


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(capsys):
    missing = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert door.run("prog", failing(missing)) == 1
    assert capsys.readouterr().err == (
        "prog: error: this needs `torch`, which is not installed here\n"
        "prog: hint: install the kit with the extra `train`\n"
    )
    with pytest.raises(ModuleNotFoundError):  # a fault of the kit's own is not hidden
        door.run("prog", failing(ModuleNotFoundError("No module named 'kit.x'", name="kit.x")))


def test_results_go_to_stdout_as_json(capsys):
    door.emit(RESULT, as_json=True, text="ignored")
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "run_id": "r-1",
        "colour": "red",
        "folder": "/tmp/x",
        "parts": [1, 2],
        "note": None,
    }


def test_results_go_to_stdout_for_people(capsys):
    door.emit(RESULT, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["run id  r-1", "colour  red", "folder  /tmp/x", "parts   1, 2", "note    -"]
    door.emit(RESULT, as_json=False, text="done\n")
    assert capsys.readouterr().out == "done\n"
    door.emit([{"a": 1}, {"a": None}], as_json=False)
    assert capsys.readouterr().out == "a 1; a -\n"
    door.emit({"whole": True, "parts": [False, 1]}, as_json=False)
    assert capsys.readouterr().out == "whole  yes\nparts  no, 1\n"
    door.emit({"whole": True}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"whole": True}


def test_progress_notes_go_to_stderr(capsys):
    door.note("half way")
    assert capsys.readouterr() == ("", "half way\n")


def test_columns_are_aligned_and_without_trailing_blanks():
    table = door.columns([("a", "long cell"), ("longer", "b")], ("one", "two"))
    assert table.splitlines() == ["one     two", "a       long cell", "longer  b"]


def test_a_command_line_answers_wrong_words_and_ctrl_c_as_every_command_does(capsys):
    class AbortError(Exception):
        pass

    class UsageError(Exception):
        def format_message(self):
            return "no such option"

    def status_of(error=None, result=None):
        def application():
            if error is not None:
                raise error
            return result

        return door.command_line("kit", application, aborted=AbortError, usage=UsageError)

    assert status_of() == 0
    assert status_of(UsageError()) == 1
    assert capsys.readouterr().err == "kit: error: no such option\nkit: hint: see `kit --help`\n"
    assert [status_of(AbortError()), status_of(result=door.INTERRUPTED)] == [door.INTERRUPTED] * 2


def test_an_option_that_stands_before_the_command_is_said_to(capsys):
    class NoSuchOptionError(Exception):
        option_name = "--first"

    def status_of(before):
        def application():
            raise NoSuchOptionError("no such option: --first")

        words = {"aborted": KeyboardInterrupt, "usage": NoSuchOptionError, "before": before}
        assert door.command_line("kit", application, **words) == 1
        return capsys.readouterr().err.splitlines()[1]

    assert status_of(["--first"]).endswith("before the command: `kit --first FILE COMMAND ...`")
    assert status_of(["--other"]) == "kit: hint: see `kit --help`"


def test_rows_stand_as_a_table_under_their_name_and_an_empty_one_is_said_to_be():
    rows = [("study", "state"), ("digits", "open"), ("x", "closed")]
    text = door.sections({"log_size": 3, "studies": rows, "releases": [("release", "state")]})
    assert text.splitlines() == [
        "log size  3",
        "studies",
        "  study   state",
        "  digits  open",
        "  x       closed",
        "releases  -",
    ]
