"""The laws of a store, in a folder and in a bucket, and a blueprint's whole life in a bucket."""

import dataclasses
import time

import pytest

from coordinator import builds, payloads, releases, stick
from coordinator.home import CONFIG
from coordinator.stores import Folder, Objects, place
from edge_agent import installed
from kit import config
from kit.errors import KitError
from tests.fakes import objects, site

GOOD = {
    ("", ""): type(None),
    ("file:///srv/store", ""): place.Disk,
    ("s3://lung/hub", ""): place.Bucket,
    ("s3://lung", "https://minio.example.org:9000"): place.Bucket,
    ("s3://lung", "http://127.0.0.1:9000"): place.Bucket,
}
REFUSED = {
    ("/srv/store", ""): "no place that is known",
    ("file://host/srv", ""): "no place that is known",
    ("http://example.org/x", ""): "no place that is known",
    ("simplecache::s3://lung", ""): "no place that is known",
    ("s3:///hub", ""): "no place that is known",
    ("s3://key:secret@lung/hub", ""): "holds credentials",
    ("s3://lung/hub?anon=true", ""): "more than a path",
    ("s3://lung", "http://minio.example.org"): "without TLS",
    ("s3://lung", "https://key:secret@minio.example.org"): "holds credentials",
    ("s3://lung", "minio.example.org"): "no URL",
}


@pytest.mark.parametrize("place_of", GOOD)
def test_a_store_may_be_a_folder_or_a_bucket(place_of):
    assert isinstance(place.parse(*place_of), GOOD[place_of])


@pytest.mark.parametrize("place_of", REFUSED)
def test_a_store_that_would_leak_or_is_not_known_is_refused(place_of, tmp_path):
    with pytest.raises(KitError, match=REFUSED[place_of]) as refusal:
        site.found(tmp_path, store=place_of[0], store_endpoint=place_of[1])
    assert refusal.value.hint
    assert "secret" not in str(refusal.value)
    assert not (tmp_path / "hub").exists()


@pytest.fixture(scope="session")
def endpoint():
    with objects.serving() as found:
        yield found


@pytest.fixture
def bucket(endpoint, request, monkeypatch):
    for name, value in objects.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{time.monotonic_ns()}"
    return name, endpoint.make(name), endpoint


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def store(request, tmp_path):
    if request.param == "folder":
        return Folder(tmp_path / "store", mode=0o600)
    _, url, endpoint = request.getfixturevalue("bucket")
    return Objects(place.parse(url, endpoint.url), "payloads", scratch=tmp_path)


def test_what_was_put_is_there_under_its_name_and_nothing_else(store, tmp_path):
    assert store.names() == []
    assert not store.has("a.sealed")
    data = bytes(range(256)) * 5000
    store.put("a.sealed", data)
    store.put("f/one.sealed", b"1")
    store.put("f/two.sealed", b"2")
    assert store.names() == ["a.sealed", "f"]
    assert store.has("a.sealed")
    assert not store.has("f")
    assert not store.has("a")
    assert store.get("a.sealed", limit=len(data), what="entry") == data
    with pytest.raises(KitError, match="is over"):
        store.get("a.sealed", limit=len(data) - 1, what="entry")
    with store.open("a.sealed") as stream:
        assert stream.seek(700_000) == 700_000
        assert stream.read() == data[700_000:]
    with store.local("a.sealed") as path:
        assert path.read_bytes() == data
    store.put("a.sealed", b"other")
    assert store.get("a.sealed", limit=10, what="entry") == b"other"
    assert not list(tmp_path.glob(".object*"))


def test_a_file_that_was_not_filled_to_its_end_is_no_entry(store, tmp_path):
    with pytest.raises(KitError, match="no half"), store.writing("a.sealed") as part:
        fill_half(part)
    assert not store.has("a.sealed")
    assert store.names() == []
    with store.writing("a.sealed") as part:
        part.write_bytes(b"whole")
    assert store.get("a.sealed", limit=10, what="entry") == b"whole"
    assert not list(tmp_path.glob(".object*"))


def fill_half(part):
    part.write_bytes(b"half")
    raise KitError("no half")


def test_what_is_deleted_is_gone_and_deleting_it_twice_is_nothing(store):
    for name in ("a.sealed", "f/one.sealed", "f/two.sealed", "fg.sealed"):
        store.put(name, b"x")
    for name in ("f", "f", "a.sealed", "a.sealed"):
        store.delete(name)
    assert store.names() == ["fg.sealed"]
    for read in (
        lambda: store.get("a.sealed", limit=10, what="entry"),
        lambda: store.open("a.sealed").__enter__(),
        lambda: store.local("a.sealed").__enter__(),
    ):
        with pytest.raises(KitError, match="does not exist"):
            read()


@pytest.mark.s3
def test_a_blueprint_lives_and_dies_in_a_bucket_without_a_key_in_it(enrolled, bucket):
    name, url, endpoint = bucket
    path = enrolled.hub / CONFIG
    with enrolled.open() as coordinator:
        settings = coordinator.config
    settings = dataclasses.replace(settings, store=url, store_endpoint=endpoint.url)
    config.save(path, settings)
    with enrolled.serving():
        site.submit(enrolled.home("a"))
        site.wait_for(lambda: site.settled(enrolled))
    site.approve(enrolled, "a")
    built = site.build(enrolled)
    again = site.build(enrolled)
    assert (built.shards_generated, again.shards_generated) == (2, 0)
    assert built.release == again.release
    digest = enrolled.digest("a")
    folders = {key.split("/")[2] for key in endpoint.contents(name)}
    assert folders == {"payloads", "shards", "releases"}
    assert not [
        f for f in folders if (enrolled.hub / f).exists() and any((enrolled.hub / f).iterdir())
    ]
    everything = b"".join(endpoint.contents(name).values())
    secrets = [p.read_bytes() for f in ("keys", "keystore") for p in (enrolled.hub / f).iterdir()]
    assert len(secrets) > 5
    assert not [secret for secret in secrets if secret in everything]
    with enrolled.serving():
        got = installed.fetch(enrolled.home("b"), site.STUDY, got=lambda *_: None)
        assert got.release == built.release
    with enrolled.open() as coordinator:
        exported = stick.export(coordinator, "b", enrolled.folder / "b.stick")
        assert exported.releases == (built.release,)
        images = payloads.keystore(coordinator)
        assert images.has(payloads.BLUEPRINT, digest)
        site.revocation_of(enrolled, coordinator, "a")
        assert not coordinator.stores.releases.has(releases.model_name(built.release))
        assert not images.has(payloads.BLUEPRINT, digest)
    assert endpoint.contents(name) == {}


@pytest.mark.s3
def test_an_altered_shard_is_refused_and_an_endpoint_that_is_gone_is_one_clear_line(
    approved, bucket
):
    name, url, endpoint = bucket
    with approved.open() as coordinator:
        settings = coordinator.config
        for path in (approved.hub / "payloads").iterdir():
            endpoint.write(f"{name}/hub/payloads/{path.name}", path.read_bytes())
    settings = dataclasses.replace(settings, store=url, store_endpoint=endpoint.url)
    config.save(approved.hub / CONFIG, settings)
    built = site.build(approved)
    key = next(key for key in endpoint.contents(name) if "/shards/" in key)
    good = endpoint.contents(name)[key]
    endpoint.write(key, good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(KitError):
        site.build(approved)
    endpoint.delete(key)
    assert site.build(approved).shards_generated == 1
    endpoint.write(key, good)
    gone = dataclasses.replace(settings, store_endpoint="http://127.0.0.1:9")
    config.save(approved.hub / CONFIG, gone)
    with pytest.raises(KitError, match="object store refused or did not answer") as refusal:
        site.build(approved)
    assert "endpoint" in refusal.value.hint
    config.save(approved.hub / CONFIG, settings)
    with approved.open() as coordinator:
        again = builds.build(coordinator, site.STUDY, report=lambda *_: None)
    assert (again.release, again.shards_generated) == (built.release, 0)
