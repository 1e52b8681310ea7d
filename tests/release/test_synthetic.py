from dataclasses import replace

import numpy as np
import pytest

from federation.release import synthetic
from federation.release.synthetic import SyntheticSet
from kit import canonical
from kit.errors import FormatError
from tests.fakes import federation

LABELS = ("cat", "dog")
SECRET = bytes(32)


def shard(seed, *, count=8, shape=(1, 8, 8)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def made(study, labels=LABELS):
    shape = (study.image.channels, study.image.height, study.image.width)
    images = tuple(shard(number, shape=shape) for number, _ in enumerate(labels))
    return SyntheticSet(study=study.digest, labels=labels, images=images)


@pytest.fixture(scope="module")
def study():
    return federation.found().study


def read(data, study, labels=LABELS):
    return SyntheticSet.from_bytes(data, study=study, labels=labels)


def edited(data, **changes):
    """Return a set whose manifest says something else, its length put right."""
    size = int.from_bytes(data[:8], "little")
    head = canonical.encode(canonical.decode(data[8:][:size]) | changes)
    return len(head).to_bytes(8, "little") + head + data[8 + size :]


def test_a_set_reads_back_bit_for_bit(study):
    whole = made(study)
    found = read(whole.to_bytes(), study)
    assert (found.labels, found.count) == (LABELS, 16)
    assert all((a == b).all() for a, b in zip(found.images, whole.images, strict=True))
    assert found.to_bytes() == whole.to_bytes()


def test_a_set_with_one_fault_is_refused(study):
    good = made(study).to_bytes()
    size = int.from_bytes(good[:8], "little")
    assert read(edited(good), study).count == 16
    classes = canonical.decode(good[8:][:size])["classes"]
    faults = {
        "no synthetic set": [b"", good[:7], bytes(8) + good[8:], b"\xff" * 8 + good[8:]],
        "not as long": [
            good[:-1],
            good + b"\0",
            edited(
                good,
                classes=[
                    classes[0],
                    classes[1] | {"images": 2**20},
                ],
            ),
        ],
        "of another study": [edited(good, study="ab" * 32)],
        "not of the study's shape": [edited(good, shape=[1, 1, 1]), edited(good, shape=[2**40])],
        "not those of the release": [
            edited(good, classes=classes[:1]),
            edited(good, classes=classes[::-1]),
            edited(good, classes=3),
        ],
        "images": [
            edited(good, classes=[classes[0], classes[1] | {"images": wrong}])
            for wrong in (0, -1, True, "8", 2**40)
        ],
        "manifest": [edited(good, version=2), edited(good, extra=1)],
        "not JSON": [good[: 8 + size // 2]],
    }
    for words, those in faults.items():
        for data in those:
            with pytest.raises(FormatError, match=words):
                read(data, study)


def test_which_images_and_their_order_depend_on_no_blueprint():
    one, two = shard(1), shard(2)
    found = synthetic.chosen([one, two], most=10, secret=SECRET)
    assert len(found) == 10
    assert (found == synthetic.chosen([two[::-1], one], most=10, secret=SECRET)).all()
    part = synthetic.chosen([one], most=10, secret=SECRET)
    assert (found == synthetic.chosen([part, two], most=10, secret=SECRET)).all()  # one by one
    other = synthetic.chosen([one, two], most=10, secret=b"\1" * 32)
    assert found.tobytes() != other.tobytes()
    rows = {image.tobytes() for image in np.concatenate([one, two])}
    assert {image.tobytes() for image in found} <= rows


def test_images_of_one_blueprint_keep_their_order_without_another():
    """Forgetting: what is left of a class is what it would have been without the revoked one."""
    one, two = shard(1), shard(2)
    alone = synthetic.chosen([one], most=8, secret=SECRET)
    mixed = synthetic.chosen([one, two], most=16, secret=SECRET)
    mine = {image.tobytes() for image in one}
    assert [i.tobytes() for i in mixed if i.tobytes() in mine] == [i.tobytes() for i in alone]


def test_the_largest_set_of_a_study_is_known_before_any_blueprint(study):
    whole = SyntheticSet(
        study=study.digest,
        labels=study.classes,
        images=tuple(
            shard(0, count=study.build.shard_size, shape=(study.image.channels, 8, 8))
            for _ in study.classes
        ),
    )
    small = replace(study, image=replace(study.image, height=8, width=8))
    assert len(whole.to_bytes()) <= synthetic.largest_bytes(small)
