"""Questions to whoever sits at the terminal; where nobody sits, an option gives the answer.

A pipe is nobody: what a script means to say, it says by the option, where a reader sees it.
"""

import sys

from kit.errors import KitError


def can_ask() -> bool:
    """Say whether somebody sits at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, instead: str = "--yes") -> bool:
    """Ask for a yes, on stderr; anything else is a no.

    Raises:
        KitError: nobody sits there, or the input ended; `instead` is the option that answers.
    """
    return answer(f"{question} [y/N]", instead=instead).lower() in ("y", "yes")


def answer(question: str, *, instead: str) -> str:
    """Ask for one line, on stderr.

    Raises:
        KitError: nobody sits there, or the input ended; `instead` is the option that answers.
    """
    hint = f"answer at a terminal, or give {instead}"
    if not can_ask():
        raise KitError(f"nobody is at a terminal to answer: {question}", hint=hint)
    sys.stderr.write(f"{question}: ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        sys.stderr.write("\n")
        raise KitError(f"no answer was given: {question}", hint=hint)
    return line.strip()
