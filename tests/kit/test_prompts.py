import io
import sys

import pytest

from kit import prompts
from kit.errors import KitError
from tests.fakes.terminal import at_a_terminal

CONFIRM = "from kit import prompts; print('said', prompts.confirm('Revoke?'))"
ANSWER = "from kit import prompts; print('said', prompts.answer('digits', instead='--digest'))"
END_OF_INPUT = "\x04"  # what ctrl-D sends at the begin of a line


@pytest.mark.parametrize(
    ("typed", "said"), [("y", True), ("Yes", True), ("n", False), ("", False), ("yup", False)]
)
def test_only_a_yes_is_a_yes(typed, said):
    shown, status = at_a_terminal(CONFIRM, typed)
    assert status == 0
    assert shown.startswith("Revoke? [y/N]: ")
    assert f"said {said}" in shown


def test_a_line_is_taken_as_it_was_typed():
    shown, status = at_a_terminal(ANSWER, " bfde8828 ")
    assert (status, "said bfde8828" in shown) == (0, True)


def test_the_end_of_input_is_no_answer_and_no_interrupt():
    shown, status = at_a_terminal(CONFIRM, END_OF_INPUT)
    assert status == 1
    assert "no answer was given: Revoke?" in shown
    assert "KeyboardInterrupt" not in shown


def test_where_nobody_sits_the_option_that_answers_is_named(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # a pipe is nobody
    with pytest.raises(KitError, match=r"nobody is at a terminal to answer: Revoke\?") as refused:
        prompts.confirm("Revoke?")
    assert refused.value.hint == "answer at a terminal, or give --yes"
    with pytest.raises(KitError, match="nobody is at a terminal") as refused:
        prompts.answer("digits", instead="--digest DIGITS")
    assert refused.value.hint.endswith("give --digest DIGITS")
    monkeypatch.setattr(prompts, "can_ask", lambda: True)
    assert prompts.confirm("Revoke?")
