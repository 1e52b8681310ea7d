"""What a process that died at the wrong line leaves behind, and that it is not there for ever."""

import shutil

import pytest

from coordinator import leftovers, payloads, plans, releases, revocation
from kit.errors import KitError
from tests.fakes import site


class DiedError(BaseException):
    """The process ends here."""


def revoke(federation, coordinator, name):
    return revocation.revoke(
        coordinator, federation.digest(name), reviewer_key=federation.reviewer(), reason="gone"
    )


def names(folder):
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_a_model_whose_release_was_never_committed_falls_with_its_blueprint(released):
    with released.open() as coordinator:
        [release] = releases.list_releases(coordinator)
        models = released.hub / "releases"
        model = site.release_file(coordinator, release.digest)
        orphan, part = (
            site.release_file(coordinator, "0" * 64),
            models / f".{release.digest}.onnx.x1",
        )
        shutil.copy(model, orphan)  # published, and dead before the commit
        shutil.copy(model, part)  # dead before the rename
        current = names(models) - {orphan.name, part.name}
        assert leftovers.sweep(coordinator) == 2
        assert names(models) == current  # what is published stays: the model and what lies beside
        assert model.name in current
        shutil.copy(model, orphan)
        shutil.copy(model, part)
        revoke(released, coordinator, "c")
        assert names(models) == set()
    assert site.build(released).release != release.digest


def test_when_a_row_says_destroyed_the_model_is_gone_already(released, monkeypatch):
    def die(_coordinator):
        raise DiedError

    with released.open() as coordinator:
        digest = released.digest("c")
        [release] = releases.list_releases(coordinator)
        model = site.release_file(coordinator, release.digest)
        assert model.is_file()
        monkeypatch.setattr(leftovers, "sweep", die)
        with pytest.raises(DiedError):
            revoke(released, coordinator, "c")
        assert revocation.destroy_due(coordinator) == 0  # nothing would look again
        assert not payloads.keystore(coordinator).has(payloads.BLUEPRINT, digest)
        assert not model.exists()


def test_keys_and_payloads_that_intake_made_after_the_shredding_go_at_the_next_start(released):
    with released.open() as coordinator:
        gone, kept = released.digest("c"), released.digest("a")
        store = payloads.keystore(coordinator)
        copies = {
            path: path.read_bytes()
            for path in (
                site.payload_file(coordinator, gone),
                *released.hub.glob(f"keystore/*{gone}*"),
            )
        }
        revoke(released, coordinator, "c")
        for path, data in copies.items():
            path.write_bytes(data)
        (released.hub / "keystore" / f".blueprint-{gone}.key.ab").write_bytes(bytes(32))
        coordinator.home.staging(gone).write_bytes(b"late chunk")
        assert store.has(payloads.BLUEPRINT, gone)
    with released.serving() as coordinator:
        site.wait_for(lambda: not store.has(payloads.BLUEPRINT, gone))
        site.wait_for(lambda: not coordinator.home.staging(gone).exists())
    assert not [p for p in released.hub.rglob(f"*{gone}*") if p.is_file()]
    with released.open() as coordinator:
        assert store.has(payloads.BLUEPRINT, kept)
        assert site.payload_file(coordinator, kept).is_file()
        assert plans.propose(coordinator, site.STUDY).inputs
        assert leftovers.sweep(coordinator) == 0


def test_one_blueprint_that_cannot_be_checked_now_does_not_keep_the_others(enrolled, monkeypatch):
    from coordinator.intake import supervisor

    real, is_full = supervisor.take_in, [True]

    def take_in(coordinator, digest):
        if is_full and digest == enrolled.digest("a"):
            raise KitError("no space left on the disk")
        real(coordinator, digest)

    monkeypatch.setattr(supervisor, "take_in", take_in)
    with enrolled.serving():
        site.submit(enrolled.home("a"))
        site.submit(enrolled.home("b"))
        site.wait_for(lambda: enrolled.states()["b"] == "pending")
        assert enrolled.states()["a"] == "received"
        is_full.clear()
        site.wait_for(lambda: enrolled.states()["a"] == "pending")
