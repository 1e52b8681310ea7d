CREATE TABLE meta (
	name VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE log (
	position INTEGER NOT NULL, 
	leaf BLOB NOT NULL, 
	hash BLOB NOT NULL, 
	subject VARCHAR NOT NULL, 
	PRIMARY KEY (position)
);
CREATE INDEX ix_log_subject ON log (subject);
CREATE TABLE log_nodes (
	level INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	hash BLOB NOT NULL, 
	PRIMARY KEY (level, number)
)
 WITHOUT ROWID

;
CREATE TABLE cosignatures (
	pseudonym VARCHAR NOT NULL, 
	size INTEGER NOT NULL, 
	line VARCHAR NOT NULL, 
	time VARCHAR NOT NULL, 
	PRIMARY KEY (pseudonym, size)
);
CREATE TABLE lost (
	name VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE log_causes (
	site VARCHAR NOT NULL, 
	day VARCHAR NOT NULL, 
	entries INTEGER NOT NULL, 
	PRIMARY KEY (site, day)
);
CREATE TABLE sites (
	id VARCHAR NOT NULL, 
	pseudonym VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	token_hash VARCHAR NOT NULL, 
	token_expires VARCHAR NOT NULL, 
	code VARCHAR, 
	tls_request BLOB, 
	signing_request BLOB, 
	witness_key BLOB, 
	tls_chain BLOB, 
	signing_chain BLOB, 
	tls_fingerprint VARCHAR, 
	tls_previous VARCHAR, 
	signing_fingerprint VARCHAR, 
	signing_previous VARCHAR, 
	authority VARCHAR, 
	ledger_counter INTEGER NOT NULL, 
	ledger_head VARCHAR, 
	last_contact VARCHAR, 
	PRIMARY KEY (id), 
	UNIQUE (pseudonym), 
	UNIQUE (token_hash)
);
CREATE TABLE certificates (
	fingerprint VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	serial VARCHAR NOT NULL, 
	holder VARCHAR NOT NULL, 
	usage VARCHAR NOT NULL, 
	chain BLOB NOT NULL, 
	expires VARCHAR NOT NULL, 
	own BOOLEAN NOT NULL, 
	revoked VARCHAR, 
	reason VARCHAR, 
	PRIMARY KEY (fingerprint), 
	UNIQUE (position)
);
CREATE INDEX ix_certificates_serial ON certificates (serial);
CREATE INDEX ix_certificates_holder ON certificates (holder);
CREATE TABLE authorities (
	name VARCHAR NOT NULL, 
	certificate BLOB NOT NULL, 
	sites TEXT NOT NULL, 
	crl BLOB, 
	crl_number INTEGER, 
	PRIMARY KEY (name)
);
CREATE TABLE readmissions (
	site VARCHAR NOT NULL, 
	previous VARCHAR NOT NULL, 
	reviewer_key VARCHAR NOT NULL, 
	envelope BLOB NOT NULL, 
	reason TEXT NOT NULL, 
	salt BLOB NOT NULL, 
	PRIMARY KEY (site, previous, reviewer_key)
);
CREATE TABLE studies (
	digest VARCHAR NOT NULL, 
	id VARCHAR NOT NULL, 
	envelope BLOB NOT NULL, 
	manifest BLOB NOT NULL, 
	tables TEXT NOT NULL, 
	open BOOLEAN NOT NULL, 
	PRIMARY KEY (digest), 
	UNIQUE (id)
);
CREATE TABLE recipient_keys (
	kid VARCHAR NOT NULL, 
	study_digest VARCHAR NOT NULL, 
	site VARCHAR NOT NULL, 
	envelope BLOB NOT NULL, 
	PRIMARY KEY (kid), 
	UNIQUE (study_digest, site)
);
CREATE TABLE delegations (
	study_digest VARCHAR NOT NULL, 
	envelope BLOB NOT NULL, 
	PRIMARY KEY (study_digest)
);
CREATE TABLE blueprints (
	digest VARCHAR NOT NULL, 
	site VARCHAR NOT NULL, 
	study_digest VARCHAR NOT NULL, 
	kid VARCHAR NOT NULL, 
	seq INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	statement BLOB NOT NULL, 
	envelope BLOB NOT NULL, 
	signing_chain BLOB NOT NULL, 
	wrapped_key BLOB, 
	weights_sha256 VARCHAR NOT NULL, 
	received VARCHAR, 
	destroy_after VARCHAR, 
	destroyed VARCHAR, 
	support TEXT, 
	PRIMARY KEY (digest)
);
CREATE INDEX ix_blueprints_site ON blueprints (site);
CREATE INDEX ix_blueprints_study_digest ON blueprints (study_digest);
CREATE INDEX ix_blueprints_weights_sha256 ON blueprints (weights_sha256);
CREATE TABLE approvals (
	blueprint VARCHAR NOT NULL, 
	reviewer VARCHAR NOT NULL, 
	decision VARCHAR NOT NULL, 
	envelope BLOB NOT NULL, 
	reason TEXT NOT NULL, 
	salt BLOB NOT NULL, 
	PRIMARY KEY (blueprint, reviewer, decision)
);
CREATE TABLE papers (
	digest VARCHAR NOT NULL, 
	blueprint VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	envelope BLOB NOT NULL, 
	chain BLOB NOT NULL, 
	PRIMARY KEY (digest)
);
CREATE INDEX ix_papers_blueprint ON papers (blueprint);
CREATE TABLE releases (
	digest VARCHAR NOT NULL, 
	study_digest VARCHAR NOT NULL, 
	envelope BLOB NOT NULL, 
	"plan" BLOB NOT NULL, 
	card TEXT NOT NULL, 
	published VARCHAR NOT NULL, 
	withdrawn BOOLEAN NOT NULL, 
	PRIMARY KEY (digest)
);
CREATE INDEX ix_releases_study_digest ON releases (study_digest);
CREATE TABLE builds (
	number INTEGER NOT NULL, 
	"plan" VARCHAR NOT NULL, 
	study_digest VARCHAR NOT NULL, 
	document BLOB NOT NULL, 
	state VARCHAR NOT NULL, 
	created VARCHAR NOT NULL, 
	ended VARCHAR, 
	result TEXT, 
	PRIMARY KEY (number)
);
CREATE INDEX ix_builds_plan ON builds ("plan");
CREATE INDEX ix_builds_study_digest ON builds (study_digest);
CREATE TABLE jobs (
	build INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	blueprint VARCHAR, 
	label VARCHAR, 
	work VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	owner VARCHAR, 
	lease_until VARCHAR, 
	attempt INTEGER NOT NULL, 
	PRIMARY KEY (build, number)
);
CREATE INDEX ix_jobs_work ON jobs (work);
CREATE TABLE build_events (
	build INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	time VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	job INTEGER, 
	details TEXT NOT NULL, 
	PRIMARY KEY (build, number)
);
CREATE TABLE lineage (
	ancestor VARCHAR NOT NULL, 
	descendant VARCHAR NOT NULL, 
	PRIMARY KEY (ancestor, descendant)
);
CREATE TRIGGER log_no_update BEFORE update ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER log_no_delete BEFORE delete ON log BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER log_nodes_no_update BEFORE update ON log_nodes BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER log_nodes_no_delete BEFORE delete ON log_nodes BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE sketches (
	blueprint VARCHAR NOT NULL, 
	sketch TEXT NOT NULL, 
	PRIMARY KEY (blueprint)
);
CREATE TABLE review_aids (
	blueprint VARCHAR NOT NULL, 
	made VARCHAR NOT NULL, 
	compared_with TEXT NOT NULL, 
	findings TEXT NOT NULL, 
	PRIMARY KEY (blueprint)
);
CREATE TABLE site_metrics (
	release VARCHAR NOT NULL, 
	site VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	received VARCHAR NOT NULL, 
	envelope BLOB NOT NULL, 
	chain BLOB NOT NULL, 
	PRIMARY KEY (release, site)
);
CREATE INDEX ix_site_metrics_digest ON site_metrics (digest);
