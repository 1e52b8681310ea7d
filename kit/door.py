"""The door of a command line: one `except`, one way to show errors and results."""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kit.errors import KitError

INTERRUPTED = 130
_EXTRAS = dict.fromkeys(("torch", "diffusers", "opacus", "safetensors", "scipy"), "train")


def run(program: str, command: Callable[[], object]) -> int:
    """Run a command; returns its exit status, 0 only if all of it was done.

    Errors go to stderr as `<program>: error: ...` and `<program>: hint: ...`.
    """
    try:
        command()
    except KitError as error:
        complain(program, str(error), hint=error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        complain(program, "interrupted", hint="run the same command again; nothing is half-written")
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        complain(
            program,
            f"this needs `{missing}`, which is not installed here",
            hint=f"install the kit with the extra `{_EXTRAS[missing]}`",
        )
        return 1
    except OSError as error:
        where = f": `{error.filename}`" if error.filename else ""
        complain(program, f"{(error.strerror or str(error)).lower()}{where}")
        return 1
    return 0


def complain(program: str, message: str, *, hint: str | None = None) -> None:
    """Write one error line, and a hint if there is one, to stderr."""
    sys.stderr.write(f"{program}: error: {message}\n")
    if hint:
        sys.stderr.write(f"{program}: hint: {hint}\n")


def note(text: str) -> None:
    """Write one line of progress to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def emit(result: Any, *, as_json: bool, text: str | None = None) -> None:
    """Write a result to stdout: as JSON, or as `text`, or as `name: value` lines."""
    table = to_table(result)
    if as_json:
        sys.stdout.write(json.dumps(table, indent=2, sort_keys=True) + "\n")
    elif text is not None:
        sys.stdout.write(text.rstrip("\n") + "\n")
    else:
        sys.stdout.write(plain(table) + "\n")
    sys.stdout.flush()


def plain(result: Any) -> str:
    """Return a result as `name: value` lines for people."""
    table = to_table(result)
    if not isinstance(table, Mapping):
        return _plain(table)
    width = max((len(name) for name in table), default=0)
    lines = [f"{name.replace('_', ' '):<{width}}  {_plain(v)}" for name, v in table.items()]
    return "\n".join(lines)


def sections(table: Mapping[str, Any]) -> str:
    """Return `name: value` lines, and where a value is rows (a head first), an indented table."""
    lines, width = [], max(map(len, table))
    for name, value in table.items():
        rows = value if isinstance(value, list) and value and isinstance(value[0], tuple) else []
        shown = name.replace("_", " ")
        if len(rows) > 1:
            lines += [shown, *(f"  {line}" for line in columns(rows[1:], rows[0]).splitlines())]
        else:
            lines.append(f"{shown:<{width}}  {'-' if rows else _plain(value)}")
    return "\n".join(lines)


def to_table(value: Any) -> Any:
    """Return dataclasses as dictionaries, paths and enumerations as strings, the rest as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: to_table(getattr(value, f.name)) for f in fields}
    if isinstance(value, Mapping):
        return {str(key): to_table(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_table(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def columns(rows: Sequence[tuple[str, ...]], head: tuple[str, ...]) -> str:
    """Return rows as an aligned table with a head line."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        between = "; " if any(isinstance(item, Mapping) for item in value) else ", "
        return between.join(_plain(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items()) or "-"
    return str(value)


def command_line(
    program: str,
    application: Callable[[], object],
    *,
    aborted: type[Exception],
    usage: type[Exception],
    before: Collection[str] = (),
) -> int:
    """Run a command line's application; return its exit status as `run` does.

    Args:
        program: its name, for errors and hints.
        application: parses the words and runs the command; returns `INTERRUPTED` on ctrl-C.
        aborted: what it raises when a person gives up at a prompt.
        usage: what it raises for words that it does not know.
        before: options that stand before the command, where people look for them last.
    """

    def work() -> None:
        try:
            status = application()
        except aborted as error:
            raise KeyboardInterrupt from error
        except usage as error:
            text = getattr(error, "format_message", lambda: "")() or "no command was given"
            option = getattr(error, "option_name", "")
            where = getattr(getattr(error, "ctx", None), "command_path", "") or program
            hint = f"see `{where} --help`"
            if option in before:
                hint = f"it stands before the command: `{program} {option} FILE COMMAND ...`"
            raise KitError(text, hint=hint) from error
        if status == INTERRUPTED:
            raise KeyboardInterrupt

    return run(program, work)
