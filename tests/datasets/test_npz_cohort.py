"""MedMNIST archives: the same cohort as from files, and no byte of them is ever run."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.datasets import npz
from edge_agent.datasets.load import load_cohort
from federation.study import Unit
from kit.errors import KitError, LimitError

ALL = ("cat", "dog", "eel")
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 8, 8), dtype=np.uint8)
LABELS = np.arange(9) % 3
SHARED = Path(__file__).parents[3] / "shared" / "data"


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save(tmp_path / "good.npz", train_images=GREY, train_labels=LABELS[:, None])


def test_labels_are_positions_in_the_studys_classes(make_study, good) -> None:
    cohort, report = load_cohort(good, make_study(), ALL)
    assert cohort.images.shape == (9, 1, 8, 8)
    assert np.allclose(cohort.images[0, 0], GREY[0] / 127.5 - 1, atol=1e-6)
    assert cohort.labels.tolist() == LABELS.tolist()
    assert cohort.units[0] == cohort.digests[0] == hashlib.sha256(GREY[0].tobytes()).hexdigest()
    assert (cohort.unit_kind, report.resized) == (Unit.IMAGE, 0)


def test_labels_may_be_text(make_study, tmp_path) -> None:
    names = np.array(ALL)[LABELS]
    path = save(tmp_path / "text.npz", train_images=GREY, train_labels=names)
    cohort, _ = load_cohort(path, make_study(), ["dog", "eel"])
    assert cohort.labels.tolist() == [i for i in LABELS if i]


def test_only_declared_labels_are_read(make_study, good) -> None:
    cohort, report = load_cohort(good, make_study(), ["dog"])
    assert set(cohort.labels.tolist()) == {1}
    assert [u.file for u in report.undeclared] == ["cat", "eel"]


def test_the_split_chooses_the_arrays(make_study, tmp_path) -> None:
    arrays = {"train_images": GREY, "train_labels": LABELS}
    path = save(tmp_path / "s.npz", **arrays, test_images=255 - GREY, test_labels=LABELS)
    train, _ = load_cohort(path, make_study(), ALL)
    test, _ = load_cohort(path, make_study(), ALL, split="test")
    assert np.allclose(train.images, -test.images, atol=1e-6)
    with pytest.raises(KitError, match="no `val_images`, `val_labels`; it holds train_images"):
        load_cohort(path, make_study(), ALL, split="val")
    with pytest.raises(KitError, match="split `all` is not one of"):
        load_cohort(path, make_study(), ALL, split="all")


@pytest.mark.parametrize("shape", [(9, 8, 8), (9, 8, 8, 1), (9, 8, 8, 3), (9, 8, 8, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
def test_bit_depth_and_channels_are_those_of_the_array(make_study, tmp_path, shape, dtype) -> None:
    top = np.iinfo(dtype).max
    images = np.zeros(shape, dtype=dtype)
    images[:, :4] = top
    path = save(tmp_path / "s.npz", train_images=images, train_labels=LABELS)
    for channels in (1, 3):
        cohort, report = load_cohort(path, make_study(channels=channels, minimum=1), ALL)
        assert cohort.images.shape == (9, channels, 8, 8)
        assert np.allclose(cohort.images[:, :, :4], 1, atol=1e-6)
        assert np.allclose(cohort.images[:, :, 4:], -1)
        assert report.sizes[0].bits == np.dtype(dtype).itemsize * 8


def test_fortran_order_is_read_as_c_order(make_study, tmp_path, good) -> None:
    path = save(tmp_path / "f.npz", train_images=np.asfortranarray(GREY), train_labels=LABELS)
    one, _ = load_cohort(path, make_study(), ALL)
    two, _ = load_cohort(good, make_study(), ALL)
    assert np.array_equal(one.images, two.images)
    assert one.units == two.units


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GREY, "labels": LABELS}, "no `train_images`, `train_labels`; it holds images"),
        ({"train_images": GREY}, "no `train_labels`"),
        ({"train_images": GREY / 255, "train_labels": LABELS}, "type float64, not uint8"),
        ({"train_images": GREY.astype(np.int64), "train_labels": LABELS}, "type int64, not uint8"),
        ({"train_images": GREY[0], "train_labels": LABELS}, "has shape"),
        ({"train_images": np.zeros((9, 8, 8, 2), np.uint8), "train_labels": LABELS}, "has shape"),
        ({"train_images": GREY[:0], "train_labels": LABELS[:0]}, "has shape"),
        ({"train_images": GREY, "train_labels": LABELS[:5]}, "one label for each of 9"),
        ({"train_images": GREY, "train_labels": np.eye(9)}, "one label for each of 9"),
        ({"train_images": GREY, "train_labels": LABELS / 2}, "type float64, not integers"),
        ({"train_images": GREY, "train_labels": LABELS + 1}, "from 1 to 3, but the study has 3"),
        ({"train_images": GREY, "train_labels": LABELS - 1}, "from -1 to 1"),
    ],
)
def test_arrays_of_another_kind_are_refused(make_study, good, tmp_path, arrays, message) -> None:
    assert load_cohort(good, make_study(), ALL)
    with pytest.raises(KitError, match=message):
        load_cohort(save(tmp_path / "bad.npz", **arrays), make_study(), ALL)


def test_pickled_objects_are_refused_and_never_run(make_study, good, tmp_path) -> None:
    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (ran,)

    traps = np.array([Trap()] * 9, dtype=object)
    path = save(tmp_path / "trap.npz", train_images=GREY, train_labels=traps)
    assert load_cohort(good, make_study(), ALL)
    with pytest.raises(KitError, match="which is not read"):
        load_cohort(path, make_study(), ALL)
    assert not ran.exists()
    np.load(path, allow_pickle=True)["train_labels"]
    assert ran.exists()  # the trap was live


def test_a_zip_bomb_is_refused_before_it_is_inflated(make_study, good, tmp_path) -> None:
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    shape = (npz.MAX_NPZ_BYTES // 64 + 1, 8, 8)
    descr = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, descr)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("train_images.npy", "w", force_zip64=True) as stream:
            stream.write(header.getvalue())
        labels = io.BytesIO()
        np.save(labels, LABELS)
        archive.writestr("train_labels.npy", labels.getvalue())
        archive.filelist[0].file_size = npz.MAX_NPZ_BYTES + 1
    assert load_cohort(good, make_study(), ALL)
    with pytest.raises(LimitError, match=r"declares .* bytes, over"):
        load_cohort(path, make_study(), ALL)


def rewrite(path: Path, member: str, change: bytes) -> Path:
    """Replace one member of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = change
    bad = path.with_name("changed.npz")
    with zipfile.ZipFile(bad, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return bad


def test_a_header_that_promises_more_than_its_bytes_is_refused(make_study, good) -> None:
    stream = io.BytesIO()
    descr = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
    np.lib.format.write_array_header_1_0(stream, descr)
    bad = rewrite(good, "train_images.npy", stream.getvalue() + GREY.tobytes())
    assert load_cohort(good, make_study(), ALL)
    with pytest.raises(KitError, match="does not have the bytes"):
        load_cohort(bad, make_study(), ALL)


def test_a_member_that_is_no_array_is_refused(make_study, good) -> None:
    assert load_cohort(good, make_study(), ALL)
    for junk in (
        b"",
        b"junk" * 40,
        b"\x93NUMPY\x09\x09" + bytes(80),
        b"\x93NUMPY\x01\x00\x05\x00{'a'",
    ):
        with pytest.raises(KitError, match="not in NumPy's format"):
            load_cohort(rewrite(good, "train_images.npy", junk), make_study(), ALL)


def test_a_truncated_or_foreign_archive_is_refused(make_study, good, tmp_path) -> None:
    data = good.read_bytes()
    assert load_cohort(good, make_study(), ALL)
    bad = tmp_path / "cut.npz"
    for length in (0, 10, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:length])
        with pytest.raises(KitError, match="not a readable"):
            load_cohort(bad, make_study(), ALL)
    with pytest.raises(KitError, match="does not exist"):
        load_cohort(tmp_path / "gone.npz", make_study(), ALL)


def test_a_flipped_byte_is_noticed(make_study, good, tmp_path) -> None:
    data = bytearray(good.read_bytes())
    data[data.index(GREY.tobytes()[:16])] ^= 1
    bad = tmp_path / "flipped.npz"
    bad.write_bytes(data)
    assert load_cohort(good, make_study(), ALL)
    with pytest.raises(KitError, match="truncated or corrupt"):
        load_cohort(bad, make_study(), ALL)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_archives_give_a_cohort_or_one_clear_error(make_study, good, data) -> None:
    damaged = bytearray(good.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6)):
        damaged[position] = data.draw(st.integers(0, 255))
    bad = good.with_name("damaged.npz")
    bad.write_bytes(damaged)
    try:
        cohort, _ = load_cohort(bad, make_study(minimum=1), ALL)
    except KitError:
        return
    assert cohort.images.shape[1:] == (1, 8, 8)


def test_an_npz_has_no_patients_so_a_patient_study_refuses_it(make_study, good) -> None:
    assert load_cohort(good, make_study(unit=Unit.IMAGE), ALL)
    with pytest.raises(KitError, match="has no patient map"):
        load_cohort(good, make_study(unit=Unit.PATIENT), ALL)


def test_real_blood_cells_load_from_their_archive(make_study) -> None:
    path = SHARED / "bloodcells8" / "bloodcells8_28.npz"
    if not path.is_file():
        pytest.skip(f"no optional data at {path}")
    classes = tuple(f"cell-{i}" for i in range(8))
    study = make_study(classes, channels=3, height=28, width=28)
    cohort, report = load_cohort(path, study, classes[:2])
    assert cohort.images.shape == (600, 3, 28, 28)
    assert [c.images for c in report.classes] == [300, 300]
