"""What every way reaches with the same hospitals' images: ours, its honest rivals, the ceilings.

For each seed the images are dealt anew and every method is judged on the same real held-out
images. With `--record FILE` each figure is on disk as soon as it is measured, and the same
command goes on where it was stopped; a figure measured under settings that the code no longer has
is shown as stale, one that was never measured as not run.

`python -m benchmarks.accuracy --record accuracy.jsonl [--dataset digits] [--clients 3,silos]
[--epsilon 8,none] [--images 2400,300] [--methods ours,dp-head] [--seeds 5] [--show] [--quick]`
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import datasets
from benchmarks.accuracy.cells import EPSILONS, IMAGES, Cell, Row, rows
from benchmarks.accuracy.factory import FactoryPlan
from benchmarks.accuracy.methods import METHODS, Work, cpu_seconds, exists
from benchmarks.accuracy.record import Record, digest
from benchmarks.accuracy.table import Line, markdown
from federation.build_policy import Variation
from kit import door
from kit.errors import KitError

SILOS = "silos"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and print the table; exit 0 only if all that was asked is known."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    try:
        return _Benchmark(options).run()
    except KitError as error:
        print(f"accuracy: error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    add = parser.add_argument
    add("--dataset", type=_words, default=("digits", "bloodcells8"), help="names, by comma")
    add("--data", type=Path, help="where the one data set lies, if not at its usual place")
    add("--clients", type=_clients, default=(3, SILOS), help="numbers of hospitals, or silos")
    add("--epsilon", type=_epsilons, default=EPSILONS, help="numbers or none, by comma")
    add("--images", type=_numbers, default=IMAGES, help="training images of the federation")
    add("--methods", type=_methods, default=tuple(METHODS), help=", ".join(METHODS))
    add("--seeds", type=int, default=5)
    add("--record", type=Path, help="append figures here, and go on from what it holds")
    add("--show", action="store_true", help="measure nothing, print the table of the record")
    add("--quick", action="store_true", help="a few steps and one seed: the path, no learning")
    add("--json", type=Path, help="write all figures here")
    add("--work", type=Path, help="keep generators below this folder, and use those there")
    add("--workers", type=int, default=1, help="generators that are trained side by side")
    plan = FactoryPlan()
    add("--preset", help="of the generator, instead of the kit's choice")
    add("--steps", type=int, help="of the generator, instead of the kit's choice")
    add("--shard-size", type=int, default=plan.shard_size)
    add("--sampler-steps", type=int, default=plan.sampler_steps)
    add("--classifier-steps", type=int, default=plan.classifier_steps)
    add("--augmentation", type=Variation, default=plan.augmentation, choices=tuple(Variation))
    return parser.parse_args(arguments)


class _Benchmark:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._record = Record(options.record)
        self._seeds = range(1 if options.quick else options.seeds)
        self._is_whole = True
        self._outlines: dict[tuple[str, int, int | None, int], datasets.Outline] = {}
        self._work = Work.quick() if options.quick else Work()
        if not options.quick:
            plan = FactoryPlan(**{name: getattr(options, name) for name in FactoryPlan.__slots__})
            self._work = replace(self._work, factory=plan)
        self._work = replace(self._work, folder=options.work)

    def run(self) -> int:
        found = [self._data(name) for name in self._options.dataset]
        for name, dataset in found:
            if dataset is not None and not self._options.show:
                for method in self._options.methods:
                    for row in self._rows(name, dataset):
                        for seed in self._seeds:
                            self._measure(dataset, row, method, seed)
        lines = [
            self._line(dataset, row)
            for name, dataset in found
            if dataset is not None
            for row in self._rows(name, dataset)
        ]
        print(markdown(lines))
        if self._options.json:
            self._options.json.write_text(json.dumps([_plain(x) for x in lines], indent=1) + "\n")
        return 0 if self._is_whole else 1

    def _data(self, name: str) -> tuple[str, datasets.Dataset | None]:
        given = self._options.data if name != "digits" else None
        try:
            return name, datasets.load(name, given or datasets.default_path(name))
        except KitError as error:
            if name not in datasets.names():
                raise
            door.note(f"{name}: skipped: {error}" + (f" ({error.hint})" if error.hint else ""))
            self._is_whole = False
            return name, None

    def _rows(self, name: str, dataset: datasets.Dataset) -> list[Row]:
        count, options = len(dataset.classes), self._options
        pooled = Row(dataset=name, clients=1, images=None, epsilon=None)
        whole = self._outline(dataset, pooled.cell("centralized", 0, METHODS["centralized"]))
        return list(
            rows(
                name,
                available=sum(whole.images),
                partitions=[count if c == SILOS else c for c in options.clients],
                images=options.images,
                epsilons=options.epsilon,
            )
        )

    def _measure(self, dataset: datasets.Dataset, row: Row, name: str, seed: int) -> None:
        method = METHODS[name]
        if not exists(name, row.epsilon):
            return
        cell = row.cell(name, seed, method)
        started = time.process_time()
        settings, refused = self._settings(dataset, cell)
        if self._record.find(cell, settings):
            return
        figures: dict[str, Any] = {"refused": refused}
        if refused is None:
            federation = _deal(dataset, cell)
            try:
                figures = method.measure(federation, cell, self._work, self._options.workers)
            except KitError as error:  # a noisy count may find too few units at a hospital
                figures = {"refused": str(error)}
        figures |= {"cpu_s": cpu_seconds(started), "commit": _commit()}
        self._record.add(cell, settings, figures)
        door.note(json.dumps(cell.to_table() | figures))

    def _settings(self, dataset: datasets.Dataset, cell: Cell) -> tuple[str, str | None]:
        """Return the digest of a cell's settings, and why the kit refuses them, if it does."""
        outline = self._outline(dataset, cell)
        try:
            return digest(METHODS[cell.method].settings(outline, cell, self._work)), None
        except KitError as error:
            return digest({"refused": str(error)}), str(error)

    def _outline(self, dataset: datasets.Dataset, cell: Cell) -> datasets.Outline:
        key = (cell.dataset, cell.clients, cell.images, cell.seed)
        if key not in self._outlines:
            self._outlines[key] = _deal(dataset, cell).outline
        return self._outlines[key]

    def _line(self, dataset: datasets.Dataset, row: Row) -> Line:
        found: dict[str, list[dict[str, Any]]] = {}
        stale = set()
        for name, method in METHODS.items():
            for seed in self._seeds:
                cell = row.cell(name, seed, method)
                settings, _ = self._settings(dataset, cell)
                figures = self._record.find(cell, settings)
                if figures is not None:
                    found.setdefault(name, []).append(figures)
                elif self._record.has_only_stale(cell, settings):
                    stale.add(name)
        pooled = self._outline(dataset, row.cell("centralized", 0, METHODS["centralized"]))
        return Line(
            row=row,
            partition=datasets.partition_title(row.clients, dataset.classes),
            images=sum(pooled.images),
            found=found,
            is_stale=frozenset(stale),
            absent=frozenset(name for name in METHODS if not exists(name, row.epsilon)),
        )


def _deal(dataset: datasets.Dataset, cell: Cell) -> datasets.Federation:
    return datasets.deal(dataset, clients=cell.clients, images=cell.images, seed=cell.seed)


def _plain(line: Line) -> dict[str, Any]:
    """Return one line of the table with every seed's figures, as JSON values."""
    return {
        "dataset": line.row.dataset,
        "partition": line.partition,
        "images": line.images,
        "epsilon": line.row.epsilon,
        "methods": line.found,
        "stale": sorted(line.is_stale),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _methods(text: str) -> tuple[str, ...]:
    for name in _words(text):
        if name not in METHODS:
            raise argparse.ArgumentTypeError(f"`{name}` is not one of {', '.join(METHODS)}")
    return _words(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


def _clients(text: str) -> tuple[int | str, ...]:
    return tuple(word if word == SILOS else int(word) for word in _words(text))


def _epsilons(text: str) -> tuple[float | None, ...]:
    return tuple(None if word == "none" else float(word) for word in _words(text))


if __name__ == "__main__":
    sys.exit(main())
