from dataclasses import replace

import pytest

from federation.study import PersonalData, RecipientKey, Sharing, Study, SyntheticSets
from kit import canonical
from kit.errors import FormatError
from pki import kem


def changed(data, change):
    table = canonical.decode(data)
    for path, value in change.items():
        place, *rest = path.split(".")
        if rest:
            table[place] = table[place] | {rest[0]: value}
        else:
            table[place] = value
    return canonical.encode(table)


def test_a_study_reads_back_and_is_named_by_its_bytes(world):
    data = world.study.to_bytes()
    assert Study.from_bytes(data) == world.study
    assert world.study.digest == canonical.digest(data)
    assert replace(world.study, title="Other").digest != world.study.digest


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"extra": 1},
        {"federation": "F"},
        {"id": "../x"},
        {"round": 0},
        {"round": True},
        {"title": "=cmd"},
        {"classes": []},
        {"classes": ["cat", "cat"]},
        {"classes": ["cat\n"]},
        {"classes": [f"c{i}" for i in range(1001)]},
        {"image.channels": 2},
        {"image.height": 7},
        {"image.width": 513},
        {"image.intensity": "per-image"},
        {"architectures": []},
        {"architectures": [{"kind": "x", "version": 0, "preset": "tiny"}]},
        {"privacy.epsilon": "0.0"},
        {"privacy.epsilon": "100.5"},
        {"privacy.epsilon": 8},
        {"privacy.delta": "0.0"},
        {"privacy.delta": "0.001"},
        {"privacy.unit": "cohort"},
        {"privacy.personal_data": "sometimes"},
        {"minimum_per_class": 0},
        {"build.shard_size": 7},
        {"build.sampler_steps": 1},
        {"quorum": 0},
        {"quorum": 4},
        {"quorum": 17},
        {"reviewers": []},
        {"created": "yesterday"},
    ],
)
def test_a_study_with_one_wrong_field_is_refused(world, change):
    data = world.study.to_bytes()
    assert Study.from_bytes(changed(data, {})) == world.study
    with pytest.raises(FormatError):
        Study.from_bytes(changed(data, change))


def test_a_quorum_needs_that_many_people_and_that_many_keys(world):
    table = canonical.decode(world.study.to_bytes())
    one, two, _ = table["reviewers"]
    for reviewers, holds in (
        ([one, two], True),
        ([one], False),
        ([one, one], False),
        ([one, one | {"name": "other"}], False),
        ([one, two | {"name": one["name"]}], False),
    ):
        data = canonical.encode(table | {"reviewers": reviewers})
        if holds:
            Study.from_bytes(data)
        else:
            with pytest.raises(FormatError):
                Study.from_bytes(data)


def test_a_recipient_key_reads_back(world):
    key = RecipientKey(
        study_digest=world.study.digest, round=1, site="a", public=kem.public_key(bytes(32))
    )
    assert RecipientKey.from_bytes(key.to_bytes()) == key


@pytest.mark.parametrize(
    "change",
    [{"version": True}, {"study_digest": "x"}, {"round": 0}, {"site": "A"}, {"public": "!"}],
)
def test_a_recipient_key_with_one_wrong_field_is_refused(world, change):
    key = RecipientKey(study_digest=world.study.digest, round=1, site="a", public=b"p")
    assert RecipientKey.from_bytes(changed(key.to_bytes(), {})) == key
    with pytest.raises(FormatError):
        RecipientKey.from_bytes(changed(key.to_bytes(), change))


SHARED = Sharing(synthetic_sets=SyntheticSets.PRIVATE, metrics_from=200)


def test_what_a_study_shares_stands_in_it_and_nothing_is_not_said(world):
    shared = replace(world.study, sharing=SHARED)
    data = shared.to_bytes()
    assert Study.from_bytes(data) == shared
    assert canonical.decode(data)["version"] == 4
    assert "sharing" not in canonical.decode(world.study.to_bytes())
    assert shared.digest != world.study.digest
    allowed = replace(world.study.privacy, personal_data=PersonalData.ALLOWED)
    most = replace(SHARED, synthetic_sets=SyntheticSets.PERSONAL_DATA)
    open_study = replace(world.study, privacy=allowed, sharing=most)
    assert Study.from_bytes(open_study.to_bytes()) == open_study


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": 3},
        {"sharing": {}},
        {"sharing": {"synthetic_sets": "withheld", "metrics_from": 0}},
        {"sharing.synthetic_sets": "all"},
        {"sharing.synthetic_sets": "personal-data"},
        {"sharing.metrics_from": 99},
        {"sharing.metrics_from": True},
        {"sharing.metrics_from": -1},
        {"sharing.metrics_from": 10**7},
        {"sharing.extra": 1},
    ],
)
def test_sharing_with_one_wrong_field_is_refused(world, change):
    data = replace(world.study, sharing=SHARED).to_bytes()
    assert Study.from_bytes(changed(data, {})).sharing == SHARED
    with pytest.raises(FormatError):
        Study.from_bytes(changed(data, change))
