"""The repository between a real coordinator and its sites: what is refused, and what goes on."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.ngclient import FetcherInterface, Updater

from coordinator import publication, releases, revocation, roots
from coordinator import repository as signing
from coordinator.errors import StateError
from edge_agent import contact, installed, repository, submission
from edge_agent.exchange import Exchange
from federation.release.statement import FILE_NAMES, Role
from federation.repository import metadata, roles
from federation.repository.client import RepositoryError, StaleError
from kit import canonical, clock
from kit.errors import KitError
from pki import keys
from tests.fakes import site


def fetch(home):
    return installed.fetch(home, site.STUDY, got=lambda *_: None)


def load(home):
    return installed.load(home, site.STUDY, now=clock.utc_now())


def offline(coordinator):
    """The offline keys, as a ceremony brings them."""
    folder = site.Federation(coordinator.home.path.parent).roots
    root = roots.root_key(coordinator.home, folder, certificate=coordinator.root)
    return root, roots.study_key(coordinator.home, folder)


def sign(coordinator, **options):
    root, study = offline(coordinator)
    return signing.sign(coordinator, study_key=study, root_key=root, **options)


def served(coordinator):
    """Return the coordinator's metadata as it lies in its home."""
    return dict(signing.held(coordinator.home))


def put(coordinator, files):
    """Lay metadata into the coordinator's home, as whoever took it over would."""
    folder = signing.folder_of(coordinator.home)
    for path in folder.glob("*.json"):
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_what_a_site_holds_is_not_sent_again(released):
    home = released.home("a")
    with released.serving(), Exchange.open(home) as exchange:
        first = contact.contact(home, exchange)
        known = repository.versions(home)
        news = contact.ask(exchange, contact.held(home), versions=known)
        assert first.trust.size
        assert [name for name, _ in news.repository] == ["timestamp.json"]
        assert {name for name, _ in exchange.contact(0).repository} > {
            "1.root.json",
            "timestamp.json",
        }


def test_rollback_of_the_repository_blocks_the_installation_and_not_the_news(
    released, monkeypatch, capsys
):
    home = released.home("a")
    with released.serving() as coordinator:
        site.visit(home)
        old = publication.current(coordinator)
        revocation.revoke(
            coordinator, released.digest("c"), reviewer_key=released.reviewer(), reason="gone"
        )
        site.build(released)
        site.visit(home)
        with monkeypatch.context() as patch:
            patch.setattr(publication, "current", lambda *_, **__: old)
            world = site.visit(home)
            assert world.trust.withdrawn_releases  # the bad news came all the same
            assert "alarm: the repository's metadata do not hold" in capsys.readouterr().err
            with pytest.raises(RepositoryError, match="do not hold"):
                fetch(home)
            with pytest.raises(KitError, match="no release of study"):
                load(home)
        assert fetch(home).release
        assert load(home)


def test_freeze_blocks_installing_and_submitting_and_never_what_is_installed(released, monkeypatch):
    home, later = released.home("a"), clock.utc_now() + timedelta(days=4)
    with released.serving() as coordinator:
        release = fetch(home).release
        found, study = installed.load(home, site.STUDY, now=later), home.study(site.STUDY)
        assert found.release.digest == release
        assert submission.recipient_key(home, study, clock.utc_now())
        with pytest.raises(StaleError, match="out of date") as refusal:
            submission.recipient_key(home, study, later)
        assert "keeps serving" in refusal.value.hint
        with pytest.raises(StaleError, match="out of date"):
            repository.require_listed(home, found.release, now=later)
        frozen = publication.current(coordinator)
        repository.refresh(home, frozen, now=later, by_stick=False)  # as a contact would bring it
        with pytest.raises(StaleError, match="out of date"):
            repository.require_listed(home, found.release, now=later)
        assert installed.load(home, site.STUDY, now=later)
        site.visit(home)
        repository.require_listed(home, found.release, now=clock.utc_now())


def test_a_recipient_key_that_is_not_current_is_not_sealed_to(released):
    home = released.home("a")
    with released.serving() as coordinator:
        site.visit(home)
        study = home.study(site.STUDY)
        assert submission.recipient_key(home, study, clock.utc_now())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publication, "_recipients", lambda _tx: {})
            site.visit(home)
            with pytest.raises(RepositoryError, match="does not list `recipients/"):
                submission.recipient_key(home, study, clock.utc_now())
        site.visit(home)
        assert submission.recipient_key(home, study, clock.utc_now())
        assert coordinator


def test_swapped_bytes_are_refused_by_the_repository_as_by_the_statement(released):
    """Another model under the release's name: the home's key alone could list it."""
    home = released.home("a")
    with released.serving() as coordinator:
        [release] = releases.list_releases(coordinator)
        path = roles.release(release.digest, FILE_NAMES[Role.INFERENCE_MODEL])
        site.visit(home)
        listed = publication._releases

        def swapped(coordinator, tx):
            found = listed(coordinator, tx)
            return found | {path: publication._Target.of(b"another model")}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publication, "_releases", swapped)
            with pytest.raises(RepositoryError, match="lists another file"):
                fetch(home)
        assert fetch(home).release == release.digest


def test_delegation_abuse_a_study_that_only_the_homes_key_lists_is_nobodys(released):
    home = released.home("a")
    with released.serving() as coordinator:
        forged = roles.study("e" * 64)
        listed = publication._status

        def abused(*arguments):
            return listed(*arguments) | {forged: publication._Target.of(b"a study")}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publication, "_status", abused)
            site.visit(home)
            with repository.fresh(home, now=clock.utc_now()) as found:
                with pytest.raises(RepositoryError, match="does not list"):
                    found.target(forged)
                own = home.study(site.STUDY).digest
                assert found.target(roles.study(own))
        assert coordinator


def test_key_rotation_reaches_sites_by_themselves_and_ends_the_old_key(released):
    home = released.home("a")
    with released.serving() as coordinator:
        site.visit(home)
        thief = keys.load_signing(coordinator.home.key(signing.KEY))
        with pytest.raises(StateError, match="wants both offline keys"):
            signing.sign(coordinator, study_key=offline(coordinator)[1], new_key=True)
        assert sign(coordinator, new_key=True).root_version == 2
        site.visit(home)
        assert repository.versions(home)["root"] == 2
        assert fetch(home)
        files = publication.current(coordinator)
        version = repository.versions(home)["timestamp"] + 1
        snapshot = signing.place_of(signing.name_of(files, "snapshot"))[0]
        forged = metadata.timestamp(snapshot, version=version, signer=thief, now=clock.utc_now())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                publication, "current", lambda *_, **__: files | {"timestamp.json": forged}
            )
            with pytest.raises(RepositoryError, match="do not hold"):
                fetch(home)
        assert fetch(home)


def test_fast_forward_by_a_stolen_key_is_healed_by_a_new_root(released):
    home = released.home("a")
    with released.serving() as coordinator:
        site.visit(home)
        files = publication.current(coordinator)
        snapshot = signing.place_of(signing.name_of(files, "snapshot"))[0]
        far = metadata.timestamp(
            snapshot,
            version=1 << 40,
            signer=keys.load_signing(coordinator.home.key(signing.KEY)),
            now=clock.utc_now(),
        )
        with pytest.MonkeyPatch.context() as patch:
            stolen = files | {"timestamp.json": far}
            patch.setattr(publication, "current", lambda *_, **__: stolen)
            site.visit(home)
        with pytest.raises(RepositoryError, match="BadVersionNumber"):
            fetch(home)
        sign(coordinator, new_key=True)
        assert fetch(home)


def test_a_restored_home_goes_on_above_what_its_sites_saw(released):
    home = released.home("a")
    with released.serving() as coordinator:
        site.visit(home)
        yesterday = served(coordinator)
        sign(coordinator)
        site.visit(home)
        before = repository.versions(home)
        put(coordinator, yesterday | {n: d for n, d in served(coordinator).items() if "root" in n})
        sign(coordinator)  # the targets of yesterday are older than what sites saw
        site.visit(home)
        assert repository.versions(home)["targets"] >= before["targets"]
        assert fetch(home)


def test_stock_clients_read_the_plain_files(released, tmp_path):
    with released.serving() as coordinator:
        [release] = releases.list_releases(coordinator)
        listed = publication.export(coordinator, tmp_path / "mirror")
        model = site.release_file(coordinator, release.digest).read_bytes()
        with pytest.raises(StateError, match="is not empty"):
            publication.export(coordinator, tmp_path / "mirror")
    path = roles.release(release.digest, "model.onnx")
    assert path in listed
    assert roles.study(released.home("a").study(site.STUDY).digest) in listed
    files = [path for path in (tmp_path / "mirror" / "targets").rglob("*") if path.is_file()]
    assert len(files) == len(listed)
    assert not [path for path in listed if path.startswith("recipients/")]  # they name sites

    class Files(FetcherInterface):
        def _fetch(self, url):
            file = tmp_path / "mirror" / url
            if not file.is_file():
                from tuf.api.exceptions import DownloadHTTPError

                raise DownloadHTTPError("not there", 404)
            return iter((file.read_bytes(),))

    (tmp_path / "local").mkdir()
    first = (tmp_path / "mirror" / "metadata" / roles.FIRST_ROOT).read_bytes()
    stock = Updater(
        str(tmp_path / "local"), "metadata/", str(tmp_path), "targets/", Files(), bootstrap=first
    )
    found = stock.get_targetinfo(path)
    assert Path(stock.download_target(found)).read_bytes() == model
    assert canonical.digest(model) == release.digest
    assert stock.get_targetinfo(roles.release("0" * 64, "model.onnx")) is None


def test_a_home_of_before_there_was_a_repository_gets_one_from_its_offline_keys(released):
    home = released.home("a")
    with released.serving() as coordinator:
        coordinator.home.key(signing.KEY).unlink()
        put(coordinator, {})
        shutil.rmtree(home.path / "state" / "repository")
        site.visit(home)  # the news come; nothing new is installed
        with pytest.raises(RepositoryError, match="sent no repository metadata"):
            fetch(home)
        with pytest.raises(StateError, match="has no repository"):
            signing.standing(coordinator)
        assert sign(coordinator).studies == 1
        assert fetch(home)
