"""The synthetic set of a release, and the models that a site adapts from it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from coordinator import companions, releases, revocation
from edge_agent import erased, installed, submission
from edge_agent.adapting import models, records, training
from federation.release.statement import FILE_NAMES, Role
from federation.release.synthetic import SyntheticSet
from federation.study import SyntheticSets
from kit import clock
from kit.errors import FormatError, KitError
from tests.fakes import sharing, site

MINE = sharing.LABELS["a"]


@pytest.fixture
def shared(tmp_path, tmp_path_factory):
    """A release with its set, fetched at both sites."""
    return sharing.copy(tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return sharing.write_images(tmp_path_factory.mktemp("images"), MINE)


def fetch(home):
    return installed.fetch(home, site.STUDY, got=lambda *_: None)


def load(home):
    return installed.load(home, site.STUDY, now=clock.utc_now())


def adapt(home, data, *, name="ward", **changes):
    digest = installed.fetched(home, home.study(site.STUDY))
    request = training.Request(study=site.STUDY, release=digest[:12], data=data, name=name)
    return training.adapt(
        home, replace(request, **changes), now=clock.utc_now(), tell=lambda _: None
    )


def predicted(home, name="ward"):
    return models.load(home, name, now=clock.utc_now()).opened()


def set_file(federation, name="a"):
    home = federation.home(name)
    folder = installed.folder_of(home, installed.fetched(home, home.study(site.STUDY)))
    return folder / FILE_NAMES[Role.SYNTHETIC_SET]


def test_a_site_gets_the_very_images_and_the_bill_of_materials_names_them(shared):
    home = shared.home("a")
    found = installed.synthetic_set(home, load(home))
    assert found.labels == sharing.CLASSES
    assert [len(images) for images in found.images] == [sharing.SHARD] * 4
    real = {digit.tobytes() for label in sharing.CLASSES for digit in sharing.digits(label)}
    assert not real & {image.tobytes() for part in found.images for image in part}
    folder = set_file(shared).parent
    [file] = [f for f in load(home).release.companions if f.role is Role.SYNTHETIC_SET]
    assert file.sha256 in (folder / FILE_NAMES[Role.ML_BOM]).read_text()
    with shared.open() as coordinator:
        [release] = releases.list_releases(coordinator)
    assert release.card["synthetic_set"] == "192 images beside the model"


def test_a_rebuild_gives_the_same_set_bit_for_bit(shared):
    home = shared.home("a")
    before = set_file(shared).read_bytes()
    with shared.serving() as coordinator:
        site.revocation_of(shared, coordinator, "b")
    site.build(shared)
    with shared.serving():
        fetch(home)
    after = installed.synthetic_set(home, load(home))
    assert after.labels == MINE
    study = home.study(site.STUDY)
    whole = SyntheticSet.from_bytes(before, study=study, labels=sharing.CLASSES)
    assert all((a == b).all() for a, b in zip(after.images, whole.images[:2], strict=True))


def test_a_study_that_says_nothing_withholds_the_set(released, data):
    home = released.home("a")
    with released.serving() as coordinator:
        fetch(home)
        [release] = releases.list_releases(coordinator)
    assert release.card["synthetic_set"] == "withheld by the study"
    assert Role.SYNTHETIC_SET not in {file.role for file in load(home).release.companions}
    with pytest.raises(KitError, match="carries no synthetic set") as refusal:
        adapt(home, data)
    assert "--synthetic-sets private" in refusal.value.hint


def test_a_set_with_personal_data_in_it_is_left_out_unless_the_study_says_so(tmp_path):
    kept = sharing.make(tmp_path / "kept", personal_data="allowed", private=("a",))
    with kept.serving() as coordinator:
        fetch(kept.home("a"))
        [release] = releases.list_releases(coordinator)
    assert (release.personal_data, release.card["synthetic_set"]) == (
        True,
        "left out: a blueprint without differential privacy is in it",
    )
    with pytest.raises(KitError, match="carries no synthetic set") as refusal:
        installed.synthetic_set(kept.home("a"), load(kept.home("a")))
    assert "without differential privacy is in it" in refusal.value.hint
    rules = {(rule, personal) for rule in SyntheticSets for personal in (False, True)}
    public = {each for each in rules if companions.is_public(each[0], personal_data=each[1])}
    assert public == {
        (SyntheticSets.PRIVATE, False),
        (SyntheticSets.PERSONAL_DATA, False),
        (SyntheticSets.PERSONAL_DATA, True),
    }


def test_a_study_without_personal_data_cannot_publish_it_nor_a_set_that_is_too_large(tmp_path):
    federation = site.found(tmp_path)
    with federation.open() as coordinator:
        assert site.create_study(coordinator, name="fine", synthetic_sets="private")
        with pytest.raises(FormatError, match="want a study that allows such data"):
            site.create_study(coordinator, name="no", synthetic_sets="personal-data")
        with pytest.raises(FormatError, match="more than a release carries") as refusal:
            site.create_study(
                coordinator, name="big", synthetic_sets="private", shard_size=100_000,
                image=(3, 64, 64), presets=("small",),
            )  # fmt: skip
        assert "--shard-size" in refusal.value.hint
        with pytest.raises(FormatError, match="not a valid SyntheticSets"):
            site.create_study(coordinator, name="odd", synthetic_sets="some")


def test_an_altered_set_is_not_trained_on_and_fetch_repairs_it(shared, data):
    home, file = shared.home("a"), set_file(shared)
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(KitError, match=r"synthetic set of release .* was altered"):
        adapt(home, data, steps=1)
    assert records.names(home) == []
    with shared.serving():
        assert fetch(home).bytes_downloaded == len(good)
    assert adapt(home, data, steps=1).synthetic_images == 192


def test_an_adapted_model_answers_under_its_own_name_and_says_what_it_is_made_of(shared, data):
    home = shared.home("a")
    done = adapt(home, data)
    assert (done.labels, done.own_classes) == (sharing.CLASSES, MINE)
    assert (done.units, done.held_out_units, done.unit) == (40, 8, "patient")
    by_name = {judged.model: judged for judged in done.judged}
    adapted, alone = by_name["adapted"], by_name["own images alone"]
    assert adapted.on_own.images == 24
    assert adapted.on_own.accuracy > 0.8
    assert adapted.on_synthetic.accuracy > 0.8  # all four digits; the site has two of them
    assert alone.on_synthetic.accuracy <= 0.5
    model = predicted(home)
    assert (model.digest, model.labels) == (done.model, sharing.CLASSES)
    [listed] = models.listing(home, now=clock.utc_now())
    assert (listed.name, listed.release, listed.unusable) == ("ward", done.release, "")
    folder = records.folder_of(home, "ward")
    assert (folder.stat().st_mode & 0o777, folder.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert not [path for path in folder.iterdir() if path.stat().st_mode & 0o077]
    record = (folder / records.RECORD).read_text()
    assert not [word for word in ("zero-0", "one-3", ".png") if word in record]
    assert json.loads(record)["figures"]["adapted"]["own"]["images"] == 24


def test_held_out_patients_are_whole_and_stay_the_same(shared, data):
    home = shared.home("a")
    study = home.study(site.STUDY)
    request = training.Request(study=study.id, release="", data=data, name="x")
    cohort = training._read(home, request, study, lambda _: None)
    held = training._held_out(home, cohort)
    assert len(held) == 8
    shuffled = cohort.part(np.random.default_rng(0).permutation(len(cohort.units)))
    assert training._held_out(home, shuffled) == held
    found = installed.synthetic_set(home, load(home))
    material = training._material(home, study, found, cohort)
    assert len(material.held_own.images) == sum(unit in held for unit in cohort.units)
    trained = {image.tobytes() for image in material.own.images}
    judged = {image.tobytes() for image in material.held_own.images}
    same = {d.tobytes() for d in cohort.images if list(cohort.digests).count("") > 1}
    assert not (trained & judged) - same
    own, synthetic = material.held_synthetic, material.synthetic
    assert (len(own.images), len(synthetic.images)) == (4 * 10, 4 * 38)


def test_bad_input_leaves_nothing_behind(shared, data, tmp_path):
    home = shared.home("a")
    few = sharing.write_images(tmp_path / "few", MINE, most=9)
    for words, folder, changes in (
        ("no class of the study|no class folders|cannot|has no", tmp_path, {}),
        ("are the fewest to adapt to", few, {}),
        ("name of a study or run", data, {"name": site.STUDY}),
        ("name", data, {"name": "../up"}),
        ("no installed release", data, {"release": "0123456789"}),
    ):
        with pytest.raises(KitError, match=words):
            adapt(home, folder, steps=1, **changes)
    assert records.names(home) == []
    assert adapt(home, data, steps=1).name == "ward"
    with pytest.raises(KitError, match="here already") as refusal:
        adapt(home, data, steps=1)
    assert "--replace" in refusal.value.hint
    assert adapt(home, data, steps=2, replace=True).name == "ward"
    assert [p.name for p in records.folder_of(home, "ward").parent.iterdir()] == ["ward"]


def test_a_withdrawn_release_takes_every_model_adapted_from_it_along(shared, data):
    """A19 at the site: blocked at once, named, and deleted with the release."""
    home = shared.home("a")
    adapt(home, data, steps=1)
    assert predicted(home)
    with shared.serving() as coordinator:
        revocation.revoke(
            coordinator, shared.digest("b"), reviewer_key=shared.reviewer(), reason="gone"
        )
        site.visit(home)
        with pytest.raises(KitError, match=r"`ward`: release .* is withdrawn"):
            predicted(home)
        [listed] = models.listing(home, now=clock.utc_now())
        assert "is withdrawn" in listed.unusable
        with pytest.raises(KitError, match="every release of study"):
            fetch(home)
    assert records.names(home) == []
    assert not records.folder_of(home, "ward").exists()


def test_an_erased_patient_takes_every_model_along_that_holds_them(shared, data):
    home = shared.home("a")
    adapt(home, data, steps=1)
    erased.Erased(home).add("nobody")
    assert predicted(home)
    kept = shutil.copytree(records.folder_of(home, "ward"), shared.folder / "kept")
    erased.Erased(home).add("zero-0")
    assert records.names(home) == []
    kept.rename(records.folder_of(home, "ward"))  # as a backup would bring it back
    with pytest.raises(KitError, match="a patient in it was erased here"):
        predicted(home)
    half = shutil.copytree(records.folder_of(home, "ward"), home.path / "adapted" / ".part-half")
    erased.Erased(home).add("zero-0")  # again, as after a kill before the models went
    assert records.names(home) == []
    assert not half.exists()
    assert adapt(home, data, steps=1).units == 39
    assert predicted(home)


def test_a_patient_who_is_erased_while_a_model_is_adapted_is_in_none(shared, data, monkeypatch):
    home, train = shared.home("a"), training.train_classifier

    def meanwhile(*args, **kwargs):
        erased.Erased(home).add("zero-1")
        return train(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_classifier", meanwhile)
        with pytest.raises(KitError, match="erased here while the model was trained"):
            adapt(home, data, steps=1)
    assert not list((home.path / "adapted").iterdir())
    adapt(home, data, steps=1)
    assert predicted(home)


def test_an_adapted_model_never_leaves_and_is_refused_once_it_is_altered(shared, data):
    home = shared.home("a")
    adapt(home, data, steps=1)
    with pytest.raises(KitError, match="never leaves"):
        submission.outgoing(home, "ward")
    assert submission.outgoing(home, site.STUDY)
    folder = records.folder_of(home, "ward")
    for name, words, mark in (
        (records.MODEL, "its file was altered", b"classifier"),
        (installed.ENVELOPE, "signature", b'"sig":"'),
    ):
        path = folder / name
        good = path.read_bytes()
        place = good.index(mark) + 20
        path.write_bytes(good[:place] + b"AAAA" + good[place + 4 :])
        with pytest.raises(KitError, match=words):
            predicted(home)
        path.write_bytes(good)
        assert predicted(home)
