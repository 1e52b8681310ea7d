"""What happens to blueprints and releases, on record, without the hours of learning and checking.

Every record is made by the coordinator's own services; only the work between them is left out.
"""

from coordinator import registry, releases, reviews, submissions
from coordinator.intake import supervisor
from coordinator.submissions import BlueprintState
from federation.auditlog.events import Kind
from kit import clock
from tests.fakes import federation as documents
from tests.fakes import sealing, site


def submit(federation, name):
    """Bring a sealed blueprint to `received`; returns its digest."""
    home = federation.home(name)
    blueprint = sealing.sealed(home)
    digest = blueprint.statement.digest
    with federation.open() as coordinator:
        submissions.begin(coordinator, name, **sealing.begin_fields(home, blueprint))
        with submissions.uploading(coordinator, name, digest) as upload:
            upload.append(0, blueprint.ciphertext)
            assert submissions.commit(coordinator, name, digest, upload).state == "received"
    return digest


def take_in(federation, digest):
    """Say of a received blueprint what an intake that found no fault says."""
    with federation.open() as coordinator:
        with coordinator.state.read() as tx:
            row = reviews.find(tx, digest)
        supervisor._settle(
            coordinator, row, BlueprintState.PENDING, Kind.BLUEPRINT_PENDING, reason=""
        )


def publish(federation, model=b"model"):
    """Put a release on record, as a build does; nobody here opens it."""
    with federation.open() as coordinator, coordinator.write() as tx:
        study = registry.find_study(tx, site.STUDY)
        made = documents.release(documents.found(), model=model, study=site.STUDY)
        created = clock.rfc3339(tx.now)
        made = documents.replace(made, study_digest=study.digest, created=created)
        releases._insert(coordinator, tx, made, b"{}", {}, replaces=False)
        site.release_file(coordinator, made.digest).parent.mkdir(exist_ok=True)
        site.release_file(coordinator, made.digest).write_bytes(model)
    return made
