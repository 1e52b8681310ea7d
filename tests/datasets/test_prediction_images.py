"""Images to predict on keep their size; labels come from class folders or not at all."""

import numpy as np
import pytest
from PIL import Image

from edge_agent.datasets import images as reading
from edge_agent.datasets.load import load_images, to_study
from federation.study import ImageRule
from kit.errors import KitError

GREY = ImageRule(channels=1, height=8, width=8)
COLOUR = ImageRule(channels=3, height=8, width=8)


def test_images_keep_their_size_and_their_names(make_folder) -> None:
    root = make_folder({"cat": 2})
    Image.new("RGB", (5, 7), (255, 255, 255)).save(root / "cat" / "wide.jpg")
    found = load_images(root, COLOUR, ["cat", "dog"])
    assert found.files == ("cat/000.png", "cat/001.png", "cat/wide.jpg")
    assert [i.shape for i in found.images] == [(3, 8, 8), (3, 8, 8), (3, 7, 5)]
    assert found.images[2].min() == 1
    assert found.labels == ("cat", "cat", "cat")


def test_training_sees_what_prediction_hands_to_the_model(make_folder) -> None:
    root = make_folder({"cat": 1}, side=20)
    (image,) = load_images(root, GREY).images
    assert to_study(image, GREY).shape == (1, 8, 8)
    assert image.shape == (1, 20, 20)


def test_flat_folders_and_single_files_have_no_labels(make_folder) -> None:
    root = make_folder({"cat": 2}) / "cat"
    assert load_images(root, GREY, ["cat"]).labels is None
    one = load_images(root / "001.png", GREY, ["cat"])
    assert (one.files, one.labels) == (("001.png",), None)


def test_folders_that_are_no_classes_are_not_labels(make_folder) -> None:
    root = make_folder({"monday": 1, "tuesday": 1})
    assert load_images(root, GREY, ["cat"]).labels is None
    assert load_images(root, GREY).labels == ("monday", "tuesday")


def test_a_class_that_the_release_lacks_keeps_its_label(make_folder) -> None:
    root = make_folder({"cat": 1, "zebra": 1})
    assert load_images(root, GREY, ["cat", "dog"]).labels == ("cat", "zebra")


def test_an_npz_gives_its_split_with_labels(tmp_path) -> None:
    images = np.full((3, 6, 6), 255, dtype=np.uint8)
    np.savez(tmp_path / "s.npz", test_images=images, test_labels=np.array([2, 0, 1]))
    found = load_images(tmp_path / "s.npz", GREY, ["cat", "dog", "eel"])
    assert found.labels == ("eel", "cat", "dog")
    assert found.files == ("test[0]", "test[1]", "test[2]")
    assert found.images[0].shape == (1, 6, 6)


def test_broken_files_are_refused_and_the_rest_is_read(make_folder) -> None:
    root = make_folder({"cat": 1})
    (root / "cat" / "bad.png").write_bytes(b"bad")
    found = load_images(root, GREY)
    assert found.files == ("cat/000.png",)
    assert [r.file for r in found.refused] == ["cat/bad.png"]


def test_nothing_to_read_is_one_clear_line(make_folder, tmp_path) -> None:
    root = make_folder({"cat": 1})
    assert load_images(root, GREY).files
    (root / "cat" / "000.png").write_bytes(b"bad")
    with pytest.raises(KitError, match=r"no image of .* can be read: `cat/000.png` is truncated"):
        load_images(root, GREY)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for name, message in (
        ("empty", "is empty"),
        ("gone", "does not exist"),
        ("notes.txt", "no image, folder or .npz"),
    ):
        with pytest.raises(KitError, match=message):
            load_images(tmp_path / name, GREY)


def test_images_beyond_the_memory_bound_are_read_again_when_used(make_folder, monkeypatch) -> None:
    root = make_folder({"cat": 5})
    whole = load_images(root, GREY)
    monkeypatch.setattr(reading, "MAX_KEPT_VALUES", 2 * 64)
    parts = load_images(root, GREY)
    assert all(np.array_equal(a, b) for a, b in zip(whole.images, parts.images, strict=True))
    assert np.array_equal(whole.images[1:][0], parts.images[1:][0])
    (root / "cat" / "000.png").unlink()
    (root / "cat" / "004.png").unlink()
    assert parts.images[0].shape == (1, 8, 8)  # kept
    with pytest.raises(KitError, match=r"`cat/004\.png` changed while it was in use"):
        list(parts.images)


def test_reading_tells_how_far_it_is(make_folder) -> None:
    seen: list[tuple[int, int]] = []
    load_images(make_folder({"cat": 3}), GREY, on_image=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]
