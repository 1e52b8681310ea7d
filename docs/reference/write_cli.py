"""Write `docs/reference/cli.md` from the command lines' own `--help`.

`python docs/reference/write_cli.py` writes the page; `--check` fails if it would change.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TYPER_USE_RICH"] = "0"  # plain text; read when typer is first imported

import typer

from coordinator import cli as coordinator_cli
from edge_agent import cli as edge_agent_cli
from kit.files import write_atomic

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 98
PROGRAMS = {"edge-agent": edge_agent_cli.app, "coordinator": coordinator_cli.app}

_HEAD = """# Command reference

Written by `python docs/reference/write_cli.py` from `--help`; do not edit.
What the commands are for, and what can go wrong: [edge manual](../edge-manual.md),
[coordinator manual](../coordinator-manual.md).

Both programs write results to stdout and everything else to stderr. Exit status: 0 done, 1 an
error, 3 somebody else has to act first, 130 ctrl-C.
"""


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for program, app in PROGRAMS.items():
        for depth, path, text in _helps(typer.main.get_command(app), program):
            parts.append(f"{'#' * (2 + depth)} `{path}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _helps(command: Any, name: str, parent: Any = None) -> Iterator[tuple[int, str, str]]:
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    )
    lines = (line.rstrip() for line in command.get_help(context).splitlines())
    yield int(parent is not None), context.command_path, "\n".join(lines).strip()
    for inner_name, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, inner_name, context)


def main() -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it changed")
    if not parser.parse_args().check:
        write_atomic(PAGE, page().encode())
        return 0
    if PAGE.is_file() and PAGE.read_text() == page():
        return 0
    sys.stderr.write(f"{PAGE} is not what --help says; run this script and commit the page\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
