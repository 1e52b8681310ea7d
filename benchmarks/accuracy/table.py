"""The table: a line for each deal and epsilon, a column for each figure, nothing made up."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from benchmarks.accuracy.cells import Row

NOT_RUN = "not run"
STALE = "stale"
NONE = "-"

# (head, method, figure, how it is written)
_Format = Callable[[float], str]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _area(value: float) -> str:
    return f"{value:.3f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}"


COLUMNS: tuple[tuple[str, str, str, _Format], ...] = (
    ("ours, %", "ours", "accuracy", _percent),
    ("balanced", "ours", "balanced_accuracy", _percent),
    ("AUROC", "ours", "auroc", _area),
    ("ours (statistics)", "ours-statistics", "accuracy", _percent),
    ("DP linear head", "dp-head", "accuracy", _percent),
    ("DP-FedAvg", "dp-fedavg", "accuracy", _percent),
    ("FedAvg once", "fedavg-once", "accuracy", _percent),
    ("FedAvg tuned", "fedavg", "accuracy", _percent),
    ("centralized", "centralized", "accuracy", _percent),
    ("generator s", "ours", "generator_s", _seconds),
)
_HEAD = ("data", "partition", "images", "epsilon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line before it is written: its words, and per method what was found for each seed."""

    row: Row
    partition: str
    images: int
    found: dict[str, list[dict[str, Any]]]
    is_stale: frozenset[str]
    absent: frozenset[str]


def markdown(lines: Sequence[Line]) -> str:
    """Return the table in Markdown: mean +- standard deviation (least to greatest, seeds)."""
    heads = (*_HEAD, *(head for head, *_ in COLUMNS))
    written = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for line in lines:
        epsilon = "none" if line.row.epsilon is None else f"{line.row.epsilon:g}"
        words = [line.row.dataset, line.partition, f"{line.images:,}", epsilon]
        words += [_cell(line, method, figure, write) for _, method, figure, write in COLUMNS]
        written.append("| " + " | ".join(words) + " |")
    return "\n".join(written)


def _cell(line: Line, method: str, figure: str, write: _Format) -> str:
    if method in line.absent:
        return NONE
    found = line.found.get(method, [])
    if not found:
        return STALE if method in line.is_stale else NOT_RUN
    values = [row[figure] for row in found if row.get(figure) is not None]
    if not values:
        return f"refused ({len(found)})"
    refused = len(found) - len(values)
    return spread(values, write) + (f", {refused} refused" if refused else "")


def spread(values: Iterable[float], write: _Format) -> str:
    """Return mean +- standard deviation (least to greatest; count), or one value as it is."""
    kept = list(values)
    if len(kept) == 1:
        return f"{write(kept[0])} (1)"
    low, high = write(min(kept)), write(max(kept))
    return f"{write(fmean(kept))} ± {write(stdev(kept))} ({low} to {high}; {len(kept)})"
