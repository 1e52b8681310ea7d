"""The tables of the coordinator's state: the same in SQLite and in PostgreSQL.

A change here is a new file in `migrations/versions` as well: `tests/coordinator/test_migrations.py`
holds the two equal.
"""

import sqlalchemy as sa

# Text sorts by its bytes and numbers have 64 bits, whatever the database and its locale are.
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
LONG_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    sa.Column("value", TEXT, nullable=False),
)
log = sa.Table(
    "log",
    metadata,
    sa.Column("position", INTEGER, primary_key=True, autoincrement=False),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("subject", TEXT, nullable=False, index=True),
)
log_nodes = sa.Table(  # roots of complete subtrees above the leaves: proofs in logarithmic time
    "log_nodes",
    metadata,
    sa.Column("level", INTEGER, primary_key=True),
    sa.Column("number", INTEGER, primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
cosignatures = sa.Table(
    "cosignatures",
    metadata,
    sa.Column("pseudonym", TEXT, primary_key=True),
    sa.Column("size", INTEGER, primary_key=True),
    sa.Column("line", TEXT, nullable=False),
    sa.Column("time", TEXT, nullable=False),
)
lost = sa.Table(  # what a recovery found on the log and not here: never to be used again (A4)
    "lost",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    sa.Column("kind", TEXT, nullable=False),
)
log_causes = sa.Table(  # how many entries a site caused on a day (UTC)
    "log_causes",
    metadata,
    sa.Column("site", TEXT, primary_key=True),
    sa.Column("day", TEXT, primary_key=True),
    sa.Column("entries", INTEGER, nullable=False),
)
sites = sa.Table(
    "sites",
    metadata,
    sa.Column("id", TEXT, primary_key=True),
    sa.Column("pseudonym", TEXT, nullable=False, unique=True),
    sa.Column("state", TEXT, nullable=False),
    sa.Column("token_hash", TEXT, nullable=False, unique=True),
    sa.Column("token_expires", TEXT, nullable=False),
    sa.Column("code", TEXT),
    sa.Column("tls_request", sa.LargeBinary),
    sa.Column("signing_request", sa.LargeBinary),
    sa.Column("witness_key", sa.LargeBinary),
    sa.Column("tls_chain", sa.LargeBinary),
    sa.Column("signing_chain", sa.LargeBinary),
    sa.Column("tls_fingerprint", TEXT),
    sa.Column("tls_previous", TEXT),  # accepted until the renewed certificate is first used
    sa.Column("signing_fingerprint", TEXT),
    sa.Column("signing_previous", TEXT),  # accepted until the renewed one first signs
    sa.Column("authority", TEXT),  # the site's own CA; none: the federation's
    sa.Column("ledger_counter", INTEGER, nullable=False, default=0),
    sa.Column("ledger_head", TEXT),
    sa.Column("last_contact", TEXT),
)
certificates = sa.Table(  # every leaf that was ever issued or registered, the coordinator's too
    "certificates",
    metadata,
    sa.Column("fingerprint", TEXT, primary_key=True),
    sa.Column("position", INTEGER, nullable=False, unique=True),
    sa.Column("serial", TEXT, nullable=False, index=True),
    sa.Column("holder", TEXT, nullable=False, index=True),
    sa.Column("usage", TEXT, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
    sa.Column("expires", TEXT, nullable=False),
    sa.Column("own", sa.Boolean, nullable=False),  # issued here, so on our revocation list
    sa.Column("revoked", TEXT),
    sa.Column("reason", TEXT),
)
authorities = sa.Table(  # certificate authorities of the sites themselves (A14)
    "authorities",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("sites", LONG_TEXT, nullable=False),
    sa.Column("crl", sa.LargeBinary),
    sa.Column("crl_number", INTEGER),
)
readmissions = sa.Table(  # reviewers' signed consent to another enrolment of a known site (A1)
    "readmissions",
    metadata,
    sa.Column("site", TEXT, primary_key=True),
    sa.Column("previous", TEXT, primary_key=True),
    sa.Column("reviewer_key", TEXT, primary_key=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("reason", LONG_TEXT, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
)
studies = sa.Table(
    "studies",
    metadata,
    sa.Column("digest", TEXT, primary_key=True),
    sa.Column("id", TEXT, nullable=False, unique=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("manifest", sa.LargeBinary, nullable=False),
    sa.Column("tables", LONG_TEXT, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
)
recipient_keys = sa.Table(
    "recipient_keys",
    metadata,
    sa.Column("kid", TEXT, primary_key=True),
    sa.Column("study_digest", TEXT, nullable=False),
    sa.Column("site", TEXT, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("study_digest", "site"),
)
delegations = sa.Table(  # who may sign the recipient keys of a study, signed by the study key
    "delegations",
    metadata,
    sa.Column("study_digest", TEXT, primary_key=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
)
blueprints = sa.Table(
    "blueprints",
    metadata,
    sa.Column("digest", TEXT, primary_key=True),
    sa.Column("site", TEXT, nullable=False, index=True),
    sa.Column("study_digest", TEXT, nullable=False, index=True),
    sa.Column("kid", TEXT, nullable=False),
    sa.Column("seq", INTEGER, nullable=False),
    sa.Column("state", TEXT, nullable=False),
    sa.Column("reason", TEXT, nullable=False, default=""),
    sa.Column("statement", sa.LargeBinary, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("signing_chain", sa.LargeBinary, nullable=False),
    sa.Column("wrapped_key", sa.LargeBinary),
    sa.Column("weights_sha256", TEXT, nullable=False, index=True),
    sa.Column("received", TEXT),
    sa.Column("destroy_after", TEXT),
    sa.Column("destroyed", TEXT),
    sa.Column("support", LONG_TEXT),  # JSON: samples drawn and different ones, per class
)
sketches = sa.Table(  # by which a blueprint is known again after it was destroyed (A20)
    "sketches",
    metadata,
    sa.Column("blueprint", TEXT, primary_key=True),
    sa.Column("sketch", LONG_TEXT, nullable=False),  # JSON
)
review_aids = sa.Table(  # what arithmetic said of a blueprint's samples, until it is destroyed
    "review_aids",
    metadata,
    sa.Column("blueprint", TEXT, primary_key=True),
    sa.Column("made", TEXT, nullable=False),
    sa.Column("compared_with", LONG_TEXT, nullable=False),  # JSON: digests
    sa.Column("findings", LONG_TEXT, nullable=False),  # JSON
)
approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("blueprint", TEXT, primary_key=True),
    sa.Column("reviewer", TEXT, primary_key=True),
    sa.Column("decision", TEXT, primary_key=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("reason", LONG_TEXT, nullable=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
)
papers = sa.Table(  # signed documents about a blueprint that the log names by their digest
    "papers",
    metadata,
    sa.Column("digest", TEXT, primary_key=True),
    sa.Column("blueprint", TEXT, nullable=False, index=True),
    sa.Column("kind", TEXT, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
)
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("digest", TEXT, primary_key=True),
    sa.Column("study_digest", TEXT, nullable=False, index=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("card", LONG_TEXT, nullable=False),
    sa.Column("published", TEXT, nullable=False),
    sa.Column("withdrawn", sa.Boolean, nullable=False, default=False),
)
site_metrics = sa.Table(  # rounded metrics of a release, signed by a site: one of each
    "site_metrics",
    metadata,
    sa.Column("release", TEXT, primary_key=True),
    sa.Column("site", TEXT, primary_key=True),
    sa.Column("digest", TEXT, nullable=False, index=True),
    sa.Column("received", TEXT, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("chain", sa.LargeBinary, nullable=False),
)
builds = sa.Table(  # a plan that is carried out, was, or gave way to another
    "builds",
    metadata,
    sa.Column("number", INTEGER, primary_key=True, autoincrement=False),
    sa.Column("plan", TEXT, nullable=False, index=True),
    sa.Column("study_digest", TEXT, nullable=False, index=True),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("state", TEXT, nullable=False),
    sa.Column("created", TEXT, nullable=False),
    sa.Column("ended", TEXT),
    sa.Column("result", LONG_TEXT),  # JSON
)
jobs = sa.Table(  # the parts of a build: one per shard, and the release
    "jobs",
    metadata,
    sa.Column("build", INTEGER, primary_key=True, autoincrement=False),
    sa.Column("number", INTEGER, primary_key=True, autoincrement=False),
    sa.Column("kind", TEXT, nullable=False),
    sa.Column("blueprint", TEXT),
    sa.Column("label", TEXT),
    sa.Column("work", TEXT, nullable=False, index=True),  # the same in every build that needs it
    sa.Column("state", TEXT, nullable=False),
    sa.Column("owner", TEXT),
    sa.Column("lease_until", TEXT),
    sa.Column("attempt", INTEGER, nullable=False),
)
build_events = sa.Table(  # what happened in a build, in order
    "build_events",
    metadata,
    sa.Column("build", INTEGER, primary_key=True, autoincrement=False),
    sa.Column("number", INTEGER, primary_key=True, autoincrement=False),
    sa.Column("time", TEXT, nullable=False),
    sa.Column("kind", TEXT, nullable=False),
    sa.Column("job", INTEGER),
    sa.Column("details", LONG_TEXT, nullable=False),  # JSON
)
lineage = sa.Table(
    "lineage",
    metadata,
    sa.Column("ancestor", TEXT, primary_key=True),
    sa.Column("descendant", TEXT, primary_key=True),
)
