"""The demo's hospitals: disjoint classes, held-out images apart, any MedMNIST set or folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.data import SITES, deal, make
from edge_agent.datasets.load import load_images
from federation.study import ImageRule
from kit import canonical
from kit.errors import FormatError, KitError
from kit.files import sha256_file

SHARED = Path(__file__).parents[3] / "shared" / "data"
RNG = np.random.default_rng(0)


def save_npz(path: Path, classes: int, *, per_class: int = 10, **more: object) -> Path:
    images = RNG.integers(0, 256, (classes * per_class, 28, 28, 3), dtype=np.uint8)
    labels = np.arange(len(images)) % classes
    np.savez(path, train_images=images, train_labels=labels[:, None], **more)
    return path


def digests(folder: Path) -> list[str]:
    return [sha256_file(f) for f in sorted(folder.rglob("*.*")) if f.is_file()]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "data"
    make(out)
    return out


def test_every_digit_is_dealt_once_and_about_a_fifth_is_held_out(digits) -> None:
    made = json.loads((digits / "data.json").read_text())
    sites = made["sites"]
    assert [sites[s]["classes"] for s in SITES] == [
        ["0", "1", "2", "3"],
        ["4", "5", "6"],
        ["7", "8", "9"],
    ]
    train = sum(sum(sites[s]["train"].values()) for s in SITES)
    held_out = sum(sum(sites[s]["held_out"].values()) for s in SITES)
    assert train + held_out == 1797
    assert 0.2 < held_out / 1797 < 0.24
    assert (made["channels"], made["height"], made["width"]) == (1, 8, 8)
    assert made["classes"] == [str(i) for i in range(10)]


def test_the_files_are_what_the_description_counts(digits) -> None:
    made = json.loads((digits / "data.json").read_text())
    for site in SITES:
        for part, key in (("train", "train"), ("held-out", "held_out")):
            folder = digits / site / part
            counts = {c.name: len(list(c.iterdir())) for c in folder.iterdir()}
            assert counts == made["sites"][site][key]


def test_digits_use_the_whole_range_of_a_png(digits) -> None:
    found = load_images(digits / "a" / "train", ImageRule(channels=1, height=8, width=8))
    values = np.unique(np.stack(found.images))
    assert (values[0], values[-1], len(values)) == (0, 1, 17)


def test_the_seed_chooses_and_the_same_seed_chooses_the_same(digits, tmp_path) -> None:
    make(tmp_path / "same")
    make(tmp_path / "other", seed=1)
    reference = digests(digits / "a" / "held-out")
    assert digests(tmp_path / "same" / "a" / "held-out") == reference
    assert digests(tmp_path / "other" / "a" / "held-out") != reference


@pytest.mark.parametrize(("count", "sizes"), [(3, [1, 1, 1]), (5, [2, 2, 1]), (8, [3, 3, 2])])
def test_classes_are_dealt_in_order_and_as_even_as_possible(count: int, sizes: list[int]) -> None:
    names = [f"class-{i}" for i in range(count)]
    dealt = deal(names)
    assert [len(part) for part in dealt] == sizes
    assert [name for part in dealt for name in part] == names


def test_five_classes_of_28_px_colour_keep_their_shape(tmp_path) -> None:
    made = make(tmp_path / "out", data=save_npz(tmp_path / "five.npz", 5))
    assert (made.channels, made.height, made.width) == (3, 28, 28)
    assert made.classes == ["0", "1", "2", "3", "4"]
    assert made.sites["c"].train == {"4": 8}
    assert made.sites["c"].held_out == {"4": 2}
    with Image.open(tmp_path / "out" / "a" / "train" / "0" / "00000.png") as image:
        assert (image.mode, image.size) == ("RGB", (28, 28))


def test_an_archives_test_split_is_what_is_held_out(tmp_path) -> None:
    test = RNG.integers(0, 256, (6, 28, 28, 3), dtype=np.uint8)
    labels = np.arange(6) % 3
    path = save_npz(tmp_path / "s.npz", 3, test_images=test, test_labels=labels)
    made = make(tmp_path / "out", data=path)
    assert made.sites["b"].train == {"1": 10}
    assert made.sites["b"].held_out == {"1": 2}
    with Image.open(tmp_path / "out" / "b" / "held-out" / "1" / "00000.png") as image:
        assert np.array_equal(np.asarray(image), test[1])


def test_sixteen_bit_grey_stays_sixteen_bit(tmp_path) -> None:
    images = RNG.integers(0, 65536, (30, 12, 10), dtype=np.uint16)
    np.savez(tmp_path / "deep.npz", train_images=images, train_labels=np.arange(30) % 3)
    made = make(tmp_path / "out", data=tmp_path / "deep.npz")
    assert (made.channels, made.height, made.width) == (1, 12, 10)
    found = load_images(
        tmp_path / "out" / "a" / "train", ImageRule(channels=1, height=12, width=10)
    )
    stored = {np.round(i[0] * 65535).astype(np.uint16).tobytes() for i in found.images}
    assert stored <= {image.tobytes() for image in images}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["basophil", "blast (early)", "cell 3"], ["basophil", "blast (early)", "cell 3"]),
        (["=cmd()", "b", "c"], ["0", "1", "2"]),
        (["a/b", "b", "c"], ["0", "1", "2"]),
        (["a", "a", "c"], ["0", "1", "2"]),
        (["a", "b"], ["0", "1", "2"]),
    ],
)
def test_class_names_are_used_where_they_are_safe(tmp_path, names, expected) -> None:
    path = save_npz(tmp_path / "s.npz", 3, class_names=np.array(names))
    made = make(tmp_path / "out", data=path)
    assert made.classes == expected
    assert [canonical.label(c) for c in made.classes] == expected


def test_a_folder_is_copied_and_its_median_size_is_rounded(tmp_path) -> None:
    root = tmp_path / "folder"
    for label in ("a", "b", "c"):
        (root / label).mkdir(parents=True)
        for index, side in enumerate((29, 30, 30, 300)):
            pixels = RNG.integers(0, 256, (side, 100, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.jpg")
    (root / "a" / "broken.png").write_bytes(b"x")
    made = make(tmp_path / "out", data=root)
    assert (made.channels, made.height, made.width) == (3, 32, 64)
    assert made.sites["a"].train == {"a": 3}
    assert set(digests(tmp_path / "out" / "a")) < set(digests(root / "a"))


def test_data_that_cannot_be_dealt_are_refused(tmp_path) -> None:
    assert make(tmp_path / "good", data=save_npz(tmp_path / "three.npz", 3))
    with pytest.raises(KitError, match="under 3 classes"):
        make(tmp_path / "out", data=save_npz(tmp_path / "two.npz", 2))
    with pytest.raises(KitError, match="does not exist"):
        make(tmp_path / "out", data=tmp_path / "gone.npz")
    bad = tmp_path / "bad" / "=1+1"
    bad.mkdir(parents=True)
    Image.new("L", (8, 8)).save(bad / "x.png")
    with pytest.raises(FormatError, match="class"):
        make(tmp_path / "out", data=tmp_path / "bad")
    assert not (tmp_path / "out").exists()


def test_only_a_folder_made_here_is_replaced(tmp_path) -> None:
    out = tmp_path / "out"
    data = save_npz(tmp_path / "three.npz", 3)
    make(out, data=data)
    (out / "a" / "train" / "0" / "stale.png").touch()
    make(out, data=data)
    assert not (out / "a" / "train" / "0" / "stale.png").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(KitError, match="is not empty"):
        make(precious, data=data)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_the_command_prints_the_description_or_one_line_and_a_hint(tmp_path) -> None:
    data = save_npz(tmp_path / "three.npz", 3)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "demo.data", *arguments]
        root = Path(__file__).parents[2]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)

    done = run("--out", str(tmp_path / "out"), "--data", str(data), "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "data.json").read_text())
    failed = run("--out", str(tmp_path / "no"), "--data", str(tmp_path / "gone.npz"))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("demo.data: error: data ")
    assert "Traceback" not in failed.stderr


def test_real_blood_cells_are_dealt_by_their_names(tmp_path) -> None:
    path = SHARED / "bloodcells8" / "bloodcells8_28.npz"
    if not path.is_file():
        pytest.skip(f"no optional data at {path}")
    made = make(tmp_path / "out", data=path)
    assert [len(made.sites[s].classes) for s in SITES] == [3, 3, 2]
    assert made.classes[0] == "basophil"
    assert (made.channels, made.height, made.width) == (3, 28, 28)
    assert sum(sum(s.train.values()) for s in made.sites.values()) == 2400
    assert sum(sum(s.held_out.values()) for s in made.sites.values()) == 800
