BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0010');
CREATE TABLE erasures (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(40) NOT NULL, 
	created VARCHAR(27) NOT NULL, 
	profiles JSON NOT NULL, 
	feedback JSON NOT NULL, 
	interactions INTEGER NOT NULL, 
	versions JSON NOT NULL, 
	stages JSON NOT NULL, 
	CONSTRAINT uq_erasures_id UNIQUE (id)
);
INSERT INTO "erasures" VALUES(3,'erasures-1','2026-03-04T03:00:00.000000Z','["alice"]','["feedback-0"]',3,'{"a": 1}','{"a": 1}');
CREATE TABLE feedback (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(40) NOT NULL, 
	created VARCHAR(27) NOT NULL, 
	profile VARCHAR(64) NOT NULL, 
	interaction_id VARCHAR(40), 
	messages JSON NOT NULL, 
	response TEXT NOT NULL, 
	adapter_version INTEGER, 
	rating FLOAT, 
	correction TEXT, 
	comment TEXT, 
	tags JSON NOT NULL, 
	idempotency_key VARCHAR(200), 
	request_sha256 VARCHAR(64), source VARCHAR(20) DEFAULT 'given' NOT NULL, file VARCHAR(40), 
	CONSTRAINT ck_feedback_rating_range CHECK (rating IS NULL OR (rating >= -1 AND rating <= 1)), 
	CONSTRAINT fk_feedback_interaction_id FOREIGN KEY(interaction_id) REFERENCES interactions (id) ON DELETE SET NULL, 
	CONSTRAINT uq_feedback_id UNIQUE (id), 
	CONSTRAINT uq_feedback_idempotency_key UNIQUE (idempotency_key)
);
INSERT INTO "feedback" VALUES(3,'feedback-1','2026-03-04T03:00:00.000000Z','alice','interactions-1','[{"role": "user", "content": "What is my dog called? \u00e4\u00f6\u00fc \u732b"}]','I do not know;
''really'' not.',3,-1.0,'Your dog is called Biscuit.','some text','["pets", "it''s"]','idempotency_key','a name','stated','files-1');
CREATE TABLE files (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(40) NOT NULL, 
	created VARCHAR(27) NOT NULL, 
	name TEXT NOT NULL, 
	bytes INTEGER NOT NULL, 
	profile VARCHAR(64), 
	expires VARCHAR(27), uploader VARCHAR(64), 
	CONSTRAINT uq_files_id UNIQUE (id)
);
INSERT INTO "files" VALUES(3,'files-1','2026-03-04T03:00:00.000000Z','some text',3,'alice','2026-03-04T03:00:00.000000Z','a name');
CREATE TABLE imports (
	first INTEGER NOT NULL, 
	last INTEGER NOT NULL, 
	CONSTRAINT pk_imports PRIMARY KEY (first)
);
INSERT INTO "imports" VALUES(7,9);
CREATE TABLE interactions (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(40) NOT NULL, 
	created VARCHAR(27) NOT NULL, 
	profile VARCHAR(64) NOT NULL, 
	messages JSON NOT NULL, 
	parameters JSON NOT NULL, 
	response TEXT NOT NULL, 
	adapter_version INTEGER, 
	finish_reason VARCHAR(20) NOT NULL, 
	prompt_tokens INTEGER NOT NULL, 
	generated_tokens INTEGER NOT NULL, 
	seed INTEGER, recalled JSON, conversation VARCHAR(64), 
	CONSTRAINT uq_interactions_id UNIQUE (id)
);
INSERT INTO "interactions" VALUES(3,'interactions-1','2026-03-04T03:00:00.000000Z','alice','[{"role": "user", "content": "What is my dog called? \u00e4\u00f6\u00fc \u732b"}]','{"a": 1}','I do not know;
''really'' not.',3,'eos_token',3,3,3,'["feedback-0"]','a name');
CREATE TABLE jobs (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(40) NOT NULL, 
	profile VARCHAR(64) NOT NULL, 
	"trigger" VARCHAR(20) NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	created VARCHAR(27) NOT NULL, 
	started VARCHAR(27), 
	finished VARCHAR(27), 
	attempts INTEGER NOT NULL, 
	error TEXT, 
	spec JSON, 
	result JSON, 
	verdict JSON, 
	version INTEGER, 
	budget_bytes INTEGER, 
	peak_bytes INTEGER, reason TEXT, pauses JSON, fine_tuning JSON, 
	CONSTRAINT ck_jobs_status_known CHECK (status IN ('queued', 'running', 'paused', 'succeeded', 'rejected', 'failed', 'cancelled')), 
	CONSTRAINT uq_jobs_id UNIQUE (id)
);
INSERT INTO "jobs" VALUES(3,'jobs-1','alice','manual','succeeded','2026-03-04T03:00:00.000000Z','2026-03-04T03:00:00.000000Z','2026-03-04T03:00:00.000000Z',3,'some text','{"a": 1}','{"a": 1}','{"a": 1}',3,3,3,'some text','{"a": 1}','{"a": 1}');
CREATE TABLE profile_tokens (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(40) NOT NULL, 
	created VARCHAR(27) NOT NULL, 
	profile VARCHAR(64) NOT NULL, 
	label TEXT NOT NULL, 
	token_sha256 VARCHAR(64) NOT NULL, 
	CONSTRAINT uq_profile_tokens_id UNIQUE (id)
);
INSERT INTO "profile_tokens" VALUES(3,'profile_tokens-1','2026-03-04T03:00:00.000000Z','alice','some text','a name');
CREATE TABLE runs (
	profile VARCHAR(64) NOT NULL, 
	last_run VARCHAR(27) NOT NULL, 
	CONSTRAINT pk_runs PRIMARY KEY (profile)
);
INSERT INTO "runs" VALUES('alice','2026-03-04T03:00:00.000000Z');
CREATE TABLE scheduled_runs (
	profile VARCHAR(64) NOT NULL, 
	scheduled VARCHAR(27) NOT NULL, 
	decided VARCHAR(27) NOT NULL, 
	outcome VARCHAR(20) NOT NULL, 
	reason TEXT NOT NULL, 
	job_id VARCHAR(40), 
	CONSTRAINT pk_scheduled_runs PRIMARY KEY (profile, scheduled), 
	CONSTRAINT ck_scheduled_runs_outcome_known CHECK (outcome IN ('waiting', 'missed', 'skipped', 'ran'))
);
INSERT INTO "scheduled_runs" VALUES('alice','2026-03-04T03:00:00.000000Z','2026-03-04T03:00:00.000000Z','ran','some text','jobs-1');
CREATE TABLE sessions (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(40) NOT NULL, 
	created VARCHAR(27) NOT NULL, 
	last_used VARCHAR(27) NOT NULL, 
	secret_hash VARCHAR(64) NOT NULL, 
	token_hash VARCHAR(64) NOT NULL, 
	client TEXT NOT NULL, 
	profile VARCHAR(64), 
	CONSTRAINT uq_sessions_id UNIQUE (id), 
	CONSTRAINT uq_sessions_secret_hash UNIQUE (secret_hash)
);
INSERT INTO "sessions" VALUES(3,'sessions-1','2026-03-04T03:00:00.000000Z','2026-03-04T03:00:00.000000Z','a name','a name','some text','alice');
CREATE INDEX ix_feedback_interaction_id ON feedback (interaction_id);
CREATE INDEX ix_feedback_profile_seq ON feedback (profile, seq);
CREATE INDEX ix_jobs_status ON jobs (status);
CREATE INDEX ix_interactions_conversation ON interactions (conversation);
CREATE INDEX ix_feedback_file ON feedback (file);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('sessions',3);
INSERT INTO "sqlite_sequence" VALUES('profile_tokens',3);
INSERT INTO "sqlite_sequence" VALUES('jobs',3);
INSERT INTO "sqlite_sequence" VALUES('interactions',3);
INSERT INTO "sqlite_sequence" VALUES('files',3);
INSERT INTO "sqlite_sequence" VALUES('feedback',3);
INSERT INTO "sqlite_sequence" VALUES('erasures',3);
COMMIT;
