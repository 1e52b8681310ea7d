"""A folder of class folders becomes a cohort; what is left out is reported, and nothing guessed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_agent.datasets import folder
from edge_agent.datasets.load import load_cohort
from federation.study import Unit
from kit import canonical
from kit.errors import KitError
from kit.files import sha256_file

ALL = ("cat", "dog", "eel")
SHARED = Path(__file__).parents[3] / "shared" / "data"


def write_patients(root: Path, rows: list[tuple[str, str]], header: str = "file,patient") -> None:
    lines = [header, *(f"{file},{patient}" for file, patient in rows)]
    (root / folder.PATIENTS).write_text("\n".join(lines) + "\n")


def test_images_labels_and_units_follow_the_study(make_study, make_folder) -> None:
    root = make_folder({"dog": 3, "cat": 2})
    cohort, report = load_cohort(root, make_study(), ["dog", "cat"])
    assert cohort.images.shape == (5, 1, 8, 8)
    assert cohort.images.dtype == np.float32
    assert cohort.labels.tolist() == [0, 0, 1, 1, 1]
    first = np.asarray(Image.open(root / "cat" / "000.png"), dtype=np.float32)
    assert np.allclose(cohort.images[0, 0], first / 127.5 - 1, atol=1e-6)
    assert cohort.units[0] == cohort.digests[0] == sha256_file(root / "cat" / "000.png")
    assert (cohort.unit_kind, report.images, report.units) == (Unit.IMAGE, 5, 5)


def test_no_statistic_of_the_data_enters_the_intensities(make_study, make_folder) -> None:
    root = make_folder({"cat": 3})
    alone, _ = load_cohort(root, make_study(), ["cat"])
    Image.new("L", (8, 8), 255).save(root / "cat" / "zzz.png")
    beside, _ = load_cohort(root, make_study(), ["cat"])
    assert np.array_equal(alone.images, beside.images[:3])


def test_mixed_sizes_depths_and_modes_are_resized_and_reported(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    deep = np.full((20, 10), 65535, dtype=np.uint16)
    Image.fromarray(deep).save(root / "cat" / "deep.png")
    Image.new("RGB", (30, 30), (255, 255, 255)).save(root / "cat" / "photo.jpg")
    Image.new("RGBA", (8, 8), (0, 0, 0, 9)).save(root / "cat" / "see-through.png")
    cohort, report = load_cohort(root, make_study(channels=3), ["cat"])
    by_size = {(s.width, s.height, s.bits): s.images for s in report.sizes}
    assert cohort.images.shape == (5, 3, 8, 8)
    assert by_size == {(8, 8, 8): 3, (10, 20, 16): 1, (30, 30, 8): 1}
    assert report.resized == 2
    assert [(n.file, n.reason) for n in report.notes] == [("cat/see-through.png", "alpha dropped")]
    assert np.allclose(cohort.images[2], 1)  # sixteen bits, all white


def test_a_broken_image_is_refused_by_name_and_the_rest_goes_on(make_study, make_folder) -> None:
    root = make_folder({"cat": 3})
    whole = (root / "cat" / "000.png").read_bytes()
    (root / "cat" / "broken.png").write_bytes(whole[: len(whole) // 2])
    (root / "cat" / "empty.png").touch()
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / ".DS_Store").write_text("x")
    cohort, report = load_cohort(root, make_study(), ["cat"])
    assert len(cohort.images) == 3
    reasons = {r.file: r.reason for r in report.refused}
    assert set(reasons) == {"cat/broken.png", "cat/empty.png", "cat/notes.txt"}
    assert "truncated" in reasons["cat/broken.png"]
    assert any("cat/broken.png" in line for line in report.lines())


def test_links_that_leave_the_folder_are_not_followed(make_study, make_folder, tmp_path) -> None:
    root = make_folder({"cat": 2})
    outside = make_folder({"secret": 1}, name="outside")
    (root / "cat" / "inside.png").symlink_to(root / "cat" / "000.png")
    (root / "cat" / "leaves.png").symlink_to(outside / "secret" / "000.png")
    (root / "cat" / "folder").symlink_to(outside / "secret")
    (root / "dog").symlink_to(outside / "secret")
    cohort, report = load_cohort(root, make_study(), ["cat", "dog"])
    assert {r.file for r in report.refused} == {"cat/leaves.png", "cat/folder", "dog"}
    assert sha256_file(outside / "secret" / "000.png") not in cohort.digests
    assert len(cohort.images) == 3


def test_a_loop_of_links_is_refused(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    (root / "cat" / "round.png").symlink_to(root / "cat" / "about.png")
    (root / "cat" / "about.png").symlink_to(root / "cat" / "round.png")
    cohort, report = load_cohort(root, make_study(), ["cat"])
    assert len(cohort.images) == 2
    assert {r.reason for r in report.refused} == {"is not a regular file"}


def test_reading_tells_how_far_it_is(make_study, make_folder) -> None:
    seen: list[tuple[int, int]] = []
    root = make_folder({"cat": 3, "dog": 2, "eel": 4})
    load_cohort(root, make_study(), ["cat", "dog"], on_image=lambda *at: seen.append(at))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_pipe_named_as_an_image_does_not_hang(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    os.mkfifo(root / "cat" / "pipe.png")
    cohort, report = load_cohort(root, make_study(), ["cat"])
    assert len(cohort.images) == 2
    assert report.refused[0].reason == "is not a regular file"


def test_a_class_below_the_minimum_is_dropped_and_stays_declared(make_study, make_folder) -> None:
    root = make_folder({"cat": 5, "dog": 4})
    exact = {"exact_minimum": True}
    both, _ = load_cohort(root, make_study(minimum=4), ["cat", "dog"], **exact)
    assert set(both.labels.tolist()) == {0, 1}
    cohort, report = load_cohort(root, make_study(minimum=5), ["cat", "dog"], **exact)
    assert set(cohort.labels.tolist()) == {0}
    assert report.dropped == ("dog",)
    assert [c.label for c in report.classes] == ["cat", "dog"]
    assert any("class dog is below the study's minimum of 5 units" in w for w in report.warnings())


def test_a12_no_exact_count_decides_what_a_private_run_trains_on(make_study, make_folder) -> None:
    root = make_folder({"cat": 5, "dog": 4})
    cohort, report = load_cohort(root, make_study(minimum=5), ["cat", "dog"])
    assert set(cohort.labels.tolist()) == {0, 1}
    assert report.dropped == ()
    assert [w for w in report.warnings() if "a noisy count decides" in w] == [
        "class dog is below the study's minimum of 5 units: a noisy count decides whether it is "
        "trained on, its label stays declared"
    ]


def test_the_minimum_counts_patients_not_images(make_study, make_folder) -> None:
    root = make_folder({"cat": 6, "dog": 6})
    rows = [(f"cat/{i:03d}.png", f"p{i}") for i in range(6)]
    write_patients(root, rows + [(f"dog/{i:03d}.png", "same") for i in range(6)])
    _, report = load_cohort(root, make_study(minimum=3), ["cat", "dog"], exact_minimum=True)
    assert [(c.images, c.units, c.used) for c in report.classes] == [(6, 6, True), (6, 1, False)]


def test_undeclared_folders_are_left_out_and_absent_classes_said(make_study, make_folder) -> None:
    root = make_folder({"cat": 3, "dog": 3, "fox": 2})
    cohort, report = load_cohort(root, make_study(), ["cat", "eel"])
    assert set(cohort.labels.tolist()) == {0}
    assert {u.file: u.reason.split(":")[0] for u in report.undeclared} == {
        "dog": "is not declared for this site",
        "fox": "is no class of the study",
    }
    assert report.absent == ("eel",)


def test_patients_are_units_when_the_map_is_there(make_study, make_folder) -> None:
    root = make_folder({"cat": 4})
    write_patients(root, [(f"cat/{i:03d}.png", f"p{i % 2}") for i in range(4)])
    cohort, report = load_cohort(root, make_study(unit=Unit.PATIENT), ["cat"])
    assert cohort.unit_kind is Unit.PATIENT
    assert cohort.units == ("p0", "p1", "p0", "p1")
    assert (report.images, report.units) == (4, 2)
    assert set(cohort.account_keys()) == {"p0", "p1", *cohort.digests}


def test_a_patient_study_wants_a_patient_map(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    assert load_cohort(root, make_study(unit=Unit.IMAGE), ["cat"])
    with pytest.raises(KitError, match="has no patient map") as caught:
        load_cohort(root, make_study(unit=Unit.PATIENT), ["cat"])
    assert "file,patient" in str(caught.value.hint)


GOOD_ROWS = [("cat/000.png", "p0"), ("./cat/001.png", "p1")]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (GOOD_ROWS[:1], "file,patient", "no row for `cat/001.png`"),
        (
            [*GOOD_ROWS, ("cat/gone.png", "p2")],
            "file,patient",
            "names `cat/gone.png`, which is not",
        ),
        ([*GOOD_ROWS, ("cat/000.png", "p1")], "file,patient", "`cat/000.png` a second time"),
        ([GOOD_ROWS[0], ("cat/001.png", " ")], "file,patient", "line 3: the patient has no id"),
        ([*GOOD_ROWS, ("../x.png", "p2")], "file,patient", "leaves the data folder"),
        ([*GOOD_ROWS, ("/etc/x.png", "p2")], "file,patient", "leaves the data folder"),
        ([*GOOD_ROWS, ("cat/000.png", "p,q")], "file,patient", "does not have two columns"),
        (GOOD_ROWS, "patient,file", "must start with the header `file,patient`"),
    ],
)
def test_a_patient_map_is_whole_or_refused(make_study, make_folder, rows, header, message) -> None:
    root = make_folder({"cat": 2})
    write_patients(root, GOOD_ROWS)
    assert load_cohort(root, make_study(), ["cat"])[0].units == ("p0", "p1")
    write_patients(root, rows, header)
    with pytest.raises(KitError, match=message):
        load_cohort(root, make_study(), ["cat"])


def test_a_patient_map_that_is_no_utf8_text_is_refused(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    write_patients(root, GOOD_ROWS)
    text = (root / folder.PATIENTS).read_bytes()
    (root / folder.PATIENTS).write_bytes(b"\xef\xbb\xbf" + text)  # as spreadsheets save it
    assert load_cohort(root, make_study(), ["cat"])[0].units == ("p0", "p1")
    (root / folder.PATIENTS).write_bytes(text + b"\xff\xfe")
    with pytest.raises(KitError, match="not CSV text in UTF-8"):
        load_cohort(root, make_study(), ["cat"])


def test_a_refused_image_keeps_its_row_in_the_map(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    (root / "cat" / "broken.png").write_bytes(b"nothing")
    write_patients(root, [*GOOD_ROWS, ("cat/broken.png", "p2")])
    cohort, report = load_cohort(root, make_study(), ["cat"])
    assert cohort.units == ("p0", "p1")
    assert [r.file for r in report.refused] == ["cat/broken.png"]


def test_equal_bytes_are_one_unit_and_are_reported(make_study, make_folder) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    twin = (root / "cat" / "000.png").read_bytes()
    (root / "cat" / "copy.png").write_bytes(twin)
    (root / "dog" / "copy.png").write_bytes(twin)
    cohort, report = load_cohort(root, make_study(), ["cat", "dog"])
    assert (len(cohort.images), len(set(cohort.units))) == (8, 6)
    (found,) = report.duplicates
    assert found.files == ("cat/000.png", "cat/copy.png", "dog/copy.png")
    assert (found.units, found.classes) == (1, ("cat", "dog"))
    assert any("several classes" in line for line in report.warnings())


def test_one_image_under_two_patients_is_reported(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    (root / "cat" / "002.png").write_bytes((root / "cat" / "000.png").read_bytes())
    rows = [*GOOD_ROWS, ("cat/002.png", "p0")]
    write_patients(root, rows)
    _, report = load_cohort(root, make_study(), ["cat"])
    assert not any("several units" in line for line in report.warnings())
    write_patients(root, [*rows[:2], ("cat/002.png", "p9")])
    _, report = load_cohort(root, make_study(), ["cat"])
    assert report.duplicates[0].units == 2
    assert any("several units" in line for line in report.warnings())


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "is empty"),
        (lambda root: (root / "cat").mkdir(parents=True), "hold no PNG, JPEG or TIFF"),
        (lambda root: root.write_text("x"), "neither a folder nor an .npz"),
    ],
)
def test_data_that_are_not_there_get_one_line_and_a_hint(
    make_study, make_folder, tmp_path, prepare, message
) -> None:
    assert load_cohort(make_folder({"cat": 2}), make_study(), ["cat"])
    prepare(tmp_path / "bad")
    with pytest.raises(KitError, match=message):
        load_cohort(tmp_path / "bad", make_study(), ["cat"])


def test_images_without_class_folders_are_refused(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    flat = root / "cat"
    assert load_cohort(root, make_study(), ["cat"])
    with pytest.raises(KitError, match="has no class folders") as caught:
        load_cohort(flat, make_study(), ["cat"])
    assert "folder named by its label" in str(caught.value.hint)


def test_nothing_left_after_refusals_is_an_error_that_says_why(make_study, make_folder) -> None:
    root = make_folder({"cat": 2})
    assert load_cohort(root, make_study(minimum=2), ["cat"])
    with pytest.raises(KitError, match=r"no image of .* is left") as caught:
        load_cohort(root, make_study(minimum=3), ["cat"], exact_minimum=True)
    assert "below the study's minimum" in str(caught.value.hint)
    with pytest.raises(KitError, match="no image of the declared classes dog, eel") as caught:
        load_cohort(root, make_study(), ["dog", "eel"])
    assert caught.value.hint == "it holds cat"


def test_labels_are_those_of_the_study(make_study, make_folder) -> None:
    root = make_folder({"cat": 2, "fox": 2})
    assert load_cohort(root, make_study(), ["cat"])
    with pytest.raises(KitError, match="`fox` is not a class"):
        load_cohort(root, make_study(), ["cat", "fox"])
    with pytest.raises(KitError, match="no labels are declared"):
        load_cohort(root, make_study(), [])


def test_the_same_folder_gives_the_same_cohort(make_study, make_folder) -> None:
    root = make_folder({"cat": 5, "dog": 5})
    one, _ = load_cohort(root, make_study(), ["dog", "cat"])
    two, _ = load_cohort(root, make_study(), ["cat", "dog"])
    assert np.array_equal(one.images, two.images)
    assert one.units == two.units


def test_the_report_is_canonical_json_and_counts_add_up(make_study, make_folder) -> None:
    root = make_folder({"cat": 5, "dog": 2, "fox": 1})
    (root / "cat" / "b\u00e4d\x1b[31m.png").write_bytes(b"x")
    cohort, report = load_cohort(root, make_study(minimum=3), ["cat", "dog"], exact_minimum=True)
    table = json.loads(canonical.encode(report.to_table()))
    assert sum(c["images"] for c in table["classes"] if c["used"]) == len(cohort.images)
    assert sum(s["images"] for s in table["sizes"]) == 7
    assert table["dropped"] == ["dog"]
    assert all("\x1b" not in line for line in report.lines())


def test_real_blood_cells_load_without_a_refusal(make_study) -> None:
    root = SHARED / "tiny_fixture" / "blood_png" / "train"
    if not root.is_dir():
        pytest.skip(f"no optional data at {root}")
    classes = ("platelets", "rbc", "wbc")
    cohort, report = load_cohort(root, make_study(classes, channels=3), classes)
    assert not report.refused
    assert report.resized == len(cohort.images) == 72
    assert -1 <= cohort.images.min() < cohort.images.max() <= 1
