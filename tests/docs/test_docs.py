"""The documentation is held to the code: commands, links, paths and the written reference."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from coordinator import cli as coordinator_cli
from edge_agent import cli as edge_agent_cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MANUALS = {
    "edge-agent": (edge_agent_cli.app, "edge-manual.md"),
    "coordinator": (coordinator_cli.app, "coordinator-manual.md"),
}
# Made by commands, not kept in the repository.
GENERATED = {"demo/work", "demo/summary.json"}
_ROOMS = r"coordinator|edge_agent|federation|kit|pki|protos|tests|docs|benchmarks|demo|deploy"
_PATH = re.compile(rf"`((?:{_ROOMS})/[A-Za-z0-9_./-]*)`")
_MODULE = re.compile(rf"`((?:{_ROOMS})(?:\.[A-Za-z_]\w*){{2,}})`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def read(page: Path) -> str:
    """Return a page without its comments, which mark places still to be filled."""
    return _COMMENT.sub("", page.read_text())


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands(command: Any, name: str) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield name
    for word, child in inner.items():
        yield from commands(child, f"{name} {word}")


def missing_commands(text: str, program: str) -> list[str]:
    app, _ = MANUALS[program]
    return [c for c in commands(typer.main.get_command(app), program) if f"$ {c} " not in text]


@pytest.mark.parametrize("program", MANUALS)
def test_every_command_has_an_example_in_its_manual(program):
    text = read(ROOT / "docs" / MANUALS[program][1])
    assert missing_commands(text, program) == []
    without = text.replace(f"$ {program} audit verify ", "")
    assert missing_commands(without, program) == [f"{program} audit verify"]


def test_the_command_reference_is_what_help_says():
    script = ROOT / "docs" / "reference" / "write_cli.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def dead_links(page: Path, text: str) -> list[str]:
    targets = (target.partition("#")[0] for target in _LINK.findall(_CODE.sub("", text)))
    local = [t for t in targets if t and "://" not in t and not t.startswith("mailto:")]
    return [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_leads_somewhere(page):
    assert dead_links(page, read(page)) == []
    assert dead_links(page, "[gone](no-such-page.md)") == ["no-such-page.md"]


def absent_paths(text: str) -> list[str]:
    paths = {path.rstrip("/") for path in _PATH.findall(text)}
    return sorted(p for p in paths - GENERATED if not (ROOT / p).exists())


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_path_that_a_page_names_exists(page):
    assert absent_paths(read(page)) == []
    assert absent_paths("see `tests/no/test_such.py`") == ["tests/no/test_such.py"]


def is_there(dotted: str) -> bool:
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_module_or_function_that_a_page_names_exists(page):
    assert [name for name in _MODULE.findall(read(page)) if not is_there(name)] == []
    assert not is_there("federation.accounting.no_such_function")


def test_every_threat_names_where_it_is_met_or_says_not_yet():
    text = read(ROOT / "docs" / "threat-model.md")
    rows = [line for line in text.splitlines() if re.match(r"\| [A-Za-z]", line)]
    rows = [row for row in rows if not row.startswith("| # |")]
    assert len(rows) > 40
    for row in rows:
        _, number, _, today, where, test, _ = row.split("|")
        assert _PATH.search(where) or "**Not yet" in today, number
        assert _PATH.search(test) or test.strip() == "-", number


def test_every_decision_is_numbered_and_has_its_parts():
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04}" for n in range(len(pages))]
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]}. "), page.name
        for part in ("- Status:", "## Context", "## Options", "## Decision", "## Consequences"):
            assert part in text, page.name
        assert "- Bad:" in text, page.name
