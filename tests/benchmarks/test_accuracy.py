"""The accuracy table: a record that goes on and goes stale, data dealt once, nothing made up."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import datasets
from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.datasets import deal, load, read_idx
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.record import Record
from kit.errors import FormatError, KitError

CHEAP = ["--methods", "dp-head,centralized", "--quick", "--dataset", "digits", "--clients", "3"]


def write_idx(path: Path, array: np.ndarray, *, zipped: bool) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if zipped else data)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Four IDX files in the layout of Fashion-MNIST: 4 classes, 18 and 5 images each, 28 px."""
    rng, folder = np.random.default_rng(0), tmp_path / "idx"
    folder.mkdir()
    for part, each in (("train", 18), ("t10k", 5)):
        labels = np.repeat(np.arange(4), each)
        images = np.clip(rng.normal(60 * labels[:, None, None], 20, (4 * each, 28, 28)), 0, 255)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images, zipped=True)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels, zipped=False)
    return folder


def test_hospitals_hold_disjoint_classes_and_nothing_that_is_held_out() -> None:
    dealt = deal(load("digits", None), clients=3, images=300, seed=1)
    assert [len(labels) for labels in dealt.outline.labels] == [4, 3, 3]
    assert sum(dealt.outline.images) == 300
    owned = [set(site.train_labels.tolist()) for site in dealt.sites]
    assert owned == [{0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}]
    every = np.concatenate([s.train_labels for s in dealt.sites])
    assert set(np.bincount(every)) == {30}
    whole = load("digits", None).train.images
    assert len({image.tobytes() for image in whole}) == len(whole)
    train = {image.tobytes() for s in dealt.sites for image in s.train_images}
    held = {image.tobytes() for s in dealt.sites for image in s.held_out_images}
    assert len(held) == 395
    assert not train & held


def test_a_deal_follows_from_its_seed_and_refuses_what_is_not_there() -> None:
    digits = load("digits", None)
    one, same, other = (deal(digits, clients=3, images=300, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.sites[0].train_images, same.sites[0].train_images)
    assert not np.array_equal(one.sites[0].train_images, other.sites[0].train_images)
    with pytest.raises(KitError, match="not 5000"):
        deal(digits, clients=3, images=5000, seed=1)
    with pytest.raises(KitError, match="cannot be dealt"):
        deal(digits, clients=11, images=None, seed=1)


def test_idx_files_are_read_zipped_or_not_and_broken_ones_are_refused(idx_folder: Path) -> None:
    found = load("fashion-mnist", idx_folder)
    assert found.train.images.shape == (72, 1, 28, 28)
    assert found.test is not None
    assert found.test.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert (found.train.images.min(), found.train.images.max()) == (-1, 1)
    path = idx_folder / "train-labels-idx1-ubyte"
    assert len(read_idx(path)) == 72
    good = path.read_bytes()
    for broken, why in ((good[:-1], "header says"), (b"\0\0\x0d" + good[3:], "unsigned bytes")):
        path.write_bytes(broken)
        with pytest.raises(FormatError, match=why):
            read_idx(path)


def test_fashion_mnist_takes_the_whole_path_from_idx_files_to_the_table(
    idx_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset", "fashion-mnist", "--data", str(idx_folder), "--clients", "2"]
    methods = ["--methods", "ours,ours-statistics,dp-head", "--epsilon", "100", "--images", "72"]
    assert main([*options, *methods, "--quick"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("| fashion-mnist | 2 hospitals | 72 | 100 |")
    assert "refused" not in line
    assert line.count("not run") == 4  # the columns that were not asked for


def test_a_stopped_benchmark_goes_on_and_measures_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "record.jsonl"
    command = [*CHEAP, "--images", "300", "--record", str(record)]
    assert main([*command, "--epsilon", "8"]) == 0
    first = record.read_bytes()
    assert [json.loads(line)["cell"]["method"] for line in first.splitlines()] == [
        "dp-head",
        "centralized",
    ]
    assert main([*command, "--epsilon", "8"]) == 0
    assert record.read_bytes() == first
    record.write_bytes(first + b'{"cell": {"data')  # killed while it wrote
    assert main([*command, "--epsilon", "8,1"]) == 0
    assert record.read_bytes().startswith(first)
    assert len(record.read_bytes().splitlines()) == 3  # the second epsilon of what depends on it
    capsys.readouterr()
    record.write_bytes(b"{}\n")
    assert main([*command, "--epsilon", "8"]) == 1
    assert "no measured cell" in capsys.readouterr().err


def test_the_table_shows_what_was_measured_and_never_what_was_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, target = tmp_path / "record.jsonl", tmp_path / "table.json"
    command = [*CHEAP, "--epsilon", "8", "--images", "300", "--record", str(record)]
    assert main([*command, "--show", "--json", str(target)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].count("not run") == 10
    assert main([*command, "--json", str(target)]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.count("not run") == 8
    figures = json.loads(target.read_text())[0]["methods"]
    assert f"{100 * figures['dp-head'][0]['accuracy']:.1f} (1)" in shown
    # figures of other settings are not passed off as those of today's
    assert main([*command[:2], *command[3:], "--seeds", "1", "--show"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.count("stale") == 1
    assert shown.count("not run") == 8


def test_the_figures_kept_here_are_a_record_of_known_methods() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "figures.jsonl"
    assert Record(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["cell"]["method"] for row in rows} <= set(METHODS)
    assert len({json.dumps(row["cell"]) for row in rows}) == len(rows)  # one figure a cell


def test_a_set_that_is_not_there_is_skipped_in_one_line_and_the_rest_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--methods", "dp-head", "--quick", "--images", "300", "--epsilon", "8"]
    absent = ["--dataset", "digits,bloodcells8", "--data", str(tmp_path / "no.npz")]
    assert main([*command, *absent]) == 1
    said = capsys.readouterr()
    assert "bloodcells8: skipped: " in said.err
    assert "| digits | single-class silos | 300 | 8 |" in said.out
    assert main([*command, "--dataset", "digits"]) == 0
    assert main([*command, "--dataset", "nothing"]) == 1
    assert "there is no data set" in capsys.readouterr().err


def test_a_hospital_too_small_is_refused_in_the_table_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["--dataset", "digits", "--methods", "ours", "--quick", "--clients", "silos"]
    assert main([*command, "--images", "300", "--epsilon", "8"]) == 0
    said = capsys.readouterr()
    assert "too few" in said.err
    assert said.out.splitlines()[-1].count("refused (1)") == 4


def test_the_real_blood_cells_are_read_where_they_lie() -> None:
    path = datasets.default_path("bloodcells8")
    if path is None or not path.is_file():
        pytest.skip("../shared/data/bloodcells8 is not here")
    dealt = deal(load("bloodcells8", path), clients=3, images=None, seed=0)
    assert [len(labels) for labels in dealt.outline.labels] == [3, 3, 2]
    assert sum(dealt.outline.images) == 2400
    assert sum(len(s.held_out_images) for s in dealt.sites) == 800
    assert dealt.outline.rule.channels == 3


def test_a_generator_that_is_kept_is_trained_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--methods", "ours-statistics", "--quick", "--dataset", "digits", "--clients", "3"]
    command += ["--images", "300", "--epsilon", "8", "--work", str(tmp_path / "work")]
    assert main([*command, "--record", str(tmp_path / "one.jsonl")]) == 0
    kept = sorted((tmp_path / "work").glob("*/*/weights.safetensors"))
    assert len(kept) == 3
    before = [path.read_bytes() for path in kept]
    assert main([*command, "--record", str(tmp_path / "two.jsonl")]) == 0
    assert [path.read_bytes() for path in kept] == before  # secret noise: training again differs
    one, two = (json.loads((tmp_path / f"{n}.jsonl").read_text()) for n in ("one", "two"))
    assert [one[k] for k in ("accuracy", "generator_s")] == [
        two[k] for k in ("accuracy", "generator_s")
    ]
    kept[0].unlink()  # stopped before its end: it starts anew
    assert main([*command, "--record", str(tmp_path / "three.jsonl")]) == 0
    assert kept[0].read_bytes() != before[0]
    assert [path.read_bytes() for path in kept[1:]] == before[1:]
    capsys.readouterr()
