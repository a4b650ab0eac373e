-- The cluster's queries, for PostgreSQL 13 and newer. Those that `ledger.sql` has too have its names, and mean the same.
-- `_sqlite.py` turns them into SQLite's words, so only what it knows of PostgreSQL's own is used here.
-- Rows come as one JSON array, as there. Credits are whole millionths, times are Unix seconds.

-- name: schema-1
-- All lives in a schema of its own; DBOS keeps its tables in another one of the same database.
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE strangers (name TEXT PRIMARY KEY);
CREATE TABLE runs (number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, pid BIGINT NOT NULL, started FLOAT8 NOT NULL, ended FLOAT8, how TEXT);
CREATE TABLE digests (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE jobs (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'new',
    request TEXT NOT NULL,
    extra TEXT NOT NULL DEFAULT '{}',
    name TEXT NOT NULL,
    own INT NOT NULL DEFAULT 0,
    attempt INT NOT NULL DEFAULT 1,
    key TEXT,
    image_url TEXT,
    uploaded FLOAT8,
    callback_url TEXT,
    task_id TEXT,
    reserved BIGINT NOT NULL DEFAULT 0,
    spent BIGINT NOT NULL DEFAULT 0,
    accepted FLOAT8,
    completed FLOAT8,
    expires FLOAT8,
    ended FLOAT8,
    seconds FLOAT8,
    size BIGINT,
    sha256 TEXT,
    length FLOAT8,
    width INT,
    height INT,
    error TEXT,
    seen_run BIGINT NOT NULL DEFAULT 0,
    twins INT NOT NULL DEFAULT 1,
    ended_run BIGINT NOT NULL DEFAULT 0,
    superseded INT NOT NULL DEFAULT 0,
    was TEXT,
    worker BIGINT,
    workflow TEXT,
    rounds INT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX jobs_own_names ON jobs (lower(name)) WHERE own = 1;
CREATE INDEX jobs_at_stake ON jobs (state, seq) WHERE state IN ('submitting', 'running', 'completed');
CREATE INDEX jobs_in_trouble ON jobs (state, seq) WHERE state IN ('failed', 'unknown');
CREATE INDEX jobs_replaced ON jobs (was) WHERE was IS NOT NULL;
CREATE INDEX jobs_in_hand ON jobs (worker) WHERE worker IS NOT NULL;
CREATE INDEX jobs_workflows ON jobs (workflow) WHERE workflow IS NOT NULL;
CREATE TABLE limits (only_row BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    unfinished INT, rate FLOAT8, budget BIGINT, spent BIGINT NOT NULL DEFAULT 0, reserved BIGINT NOT NULL DEFAULT 0);
CREATE TABLE pace (only_row BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row), next FLOAT8 NOT NULL DEFAULT 0);
CREATE TABLE workers (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, host TEXT NOT NULL, pid BIGINT NOT NULL,
    started FLOAT8 NOT NULL, seen FLOAT8 NOT NULL, in_hand INT NOT NULL DEFAULT 0, adopted INT NOT NULL DEFAULT 0, word TEXT NOT NULL DEFAULT '');
INSERT INTO limits DEFAULT VALUES;
INSERT INTO pace DEFAULT VALUES;

-- name: set-fact
INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: get-fact
SELECT value FROM facts WHERE name = ?;

-- name: count-at-stake
SELECT count(*) FROM jobs WHERE state IN ('submitting', 'running', 'completed', 'unknown');

-- name: proofs
SELECT task_id FROM jobs WHERE task_id IS NOT NULL ORDER BY state IN ('running', 'completed') DESC, accepted DESC LIMIT 5;

-- name: doubts
SELECT min(r.started), (SELECT min(coalesce(j.accepted, 0)) FROM json_array_elements_text(?::json) AS v JOIN jobs AS j ON j.state = v.value) FROM runs AS r;

-- name: claimed
SELECT task_id FROM jobs WHERE task_id IS NOT NULL AND accepted >= ?;

-- name: known-key
SELECT key, task_id FROM jobs WHERE task_id IS NOT NULL AND key IS NOT NULL ORDER BY accepted DESC LIMIT 1;

-- name: add-strangers
INSERT INTO strangers (name) SELECT v.value FROM json_array_elements_text(?::json) AS v WHERE true ON CONFLICT DO NOTHING;

-- name: begin-run
INSERT INTO runs (pid, started) VALUES (?, ?) RETURNING number;

-- name: end-run
UPDATE runs SET ended = ?, how = ? WHERE number = ?;

-- name: digests
SELECT json_object_agg(d.path, d.sha256)::text FROM json_array_elements(?::json) AS v JOIN digests AS d
    ON d.path = v.value->>0 AND d.stamp = v.value->>1;

-- name: keep-digests
INSERT INTO digests (path, stamp, sha256) SELECT v.value->>0, v.value->>1, v.value->>2 FROM json_array_elements(?::json) AS v WHERE true
    ON CONFLICT (path) DO UPDATE SET stamp = excluded.stamp, sha256 = excluded.sha256;

-- name: known
SELECT json_object_agg(j.id, json_build_array(j.fingerprint, j.seen_run, j.twins, j.superseded, j.seq))::text
    FROM json_array_elements_text(?::json) AS v JOIN jobs AS j ON j.id = v.value;

-- name: taken-names
SELECT json_agg(t.name)::text FROM json_array_elements_text(?::json) AS v JOIN jobs AS t ON lower(t.name) = lower(v.value) AND t.own = 1;

-- name: supersede
UPDATE jobs SET id = v.value->>1, superseded = 1, was = coalesce(jobs.was, jobs.id),
    name = CASE WHEN jobs.state IN ('new', 'failed') AND (v.value->>2)::int = 0 THEN '~' || jobs.seq ELSE jobs.name END
    FROM json_array_elements(?::json) AS v WHERE jobs.id = v.value->>0;

-- name: earlier
SELECT json_object_agg(j.was, j.id)::text FROM json_array_elements(?::json) AS v JOIN jobs AS j
    ON j.was = v.value->>0 AND j.fingerprint = v.value->>1;

-- name: revive
UPDATE jobs SET id = v.value->>1, superseded = 0, was = NULL,
    name = CASE WHEN jobs.name = '~' || jobs.seq THEN v.value->>2 ELSE jobs.name END
    FROM json_array_elements(?::json) AS v WHERE jobs.id = v.value->>0;

-- name: admit
-- In the order of the input, which is the order of the report.
INSERT INTO jobs (id, fingerprint, request, extra, name, own, seen_run)
    SELECT v.value->>0, v.value->>1, v.value->>2, v.value->>3, v.value->>4, (v.value->>5)::int, (v.value->>6)::bigint
    FROM json_array_elements(?::json) WITH ORDINALITY AS v (value, place) ORDER BY v.place ON CONFLICT (id) DO NOTHING;

-- name: renew
UPDATE jobs SET extra = v.value->>2, seen_run = (v.value->>3)::bigint,
    request = CASE WHEN jobs.state = 'new' THEN v.value->>1 ELSE jobs.request END
    FROM json_array_elements(?::json) AS v WHERE jobs.id = v.value->>0;

-- name: count-twins
UPDATE jobs SET twins = (v.value->>1)::int FROM json_array_elements(?::json) AS v WHERE jobs.id = v.value->>0;

-- name: by-id
SELECT json_agg(json_build_array({columns}))::text FROM json_array_elements_text(?::json) AS v JOIN jobs AS j ON j.id = v.value;

-- name: page
SELECT {columns} FROM jobs AS j WHERE seq > ? AND {where} ORDER BY seq LIMIT ?;

-- name: saved-files
SELECT seq, id, name, size FROM jobs
    WHERE seq > ? AND state = 'saved' AND seen_run <> ? AND ended_run <> ? ORDER BY seq LIMIT ?;

-- name: where-shown
(superseded = 0 OR state NOT IN ('new', 'failed') OR spent > 0)

-- name: totals
SELECT state, sum(({shown})::int), sum(spent)::bigint, sum(reserved)::bigint FROM jobs GROUP BY state;

-- name: failures
SELECT coalesce(error::json->>'code', 'unknown_error'), count(*) FROM jobs
    WHERE state IN ('failed', 'unknown') AND {shown} GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: dying
SELECT count(*), min(expires) FROM jobs WHERE state = 'completed' AND expires < ?;

-- name: pace
SELECT count(*) FROM jobs WHERE ended >= ?;

-- name: change
-- One kind of change of many jobs. A worker writes only what is in its own hands: a job that was taken from it, because it seemed
-- dead, is not touched, and is missing from the answer.
UPDATE jobs SET {sets} FROM json_array_elements(?::json) AS v
    WHERE jobs.seq = (v.value->>0)::bigint AND jobs.worker = ? RETURNING jobs.seq;

-- name: money-of
-- Held until the commit: what another worker does to such a job at this moment is moved by that one alone.
SELECT coalesce(sum(j.spent), 0)::bigint, coalesce(sum(j.reserved), 0)::bigint
    FROM (SELECT spent, reserved FROM jobs WHERE seq = ANY (?) ORDER BY seq FOR UPDATE) AS j;

-- name: move-money
-- The sums of all jobs, moved by what a transaction has changed.
UPDATE limits SET spent = spent + ?, reserved = reserved + ?;

-- name: lock-limits
-- Whoever lets jobs in waits here for whoever does so at this moment: what is counted afterwards stays true until the commit.
SELECT unfinished, budget, spent, reserved FROM limits FOR UPDATE;

-- name: unfinished
-- Tasks that may not have ended. One whose fate is unknown is counted for as long as a task can take.
SELECT count(*) FROM jobs WHERE state IN ('submitting', 'running') OR (state = 'unknown' AND ended > ?);

-- name: standing
-- Which of some jobs are in a worker's hands, which of them have been let in already, and which were replaced or cancelled before that.
-- They stay so until the commit.
SELECT seq, state = 'submitting' AND jobs.key = v.value->>1, state = 'new' AND (superseded = 1
    OR EXISTS (SELECT 1 FROM dbos.workflow_status AS w WHERE w.workflow_uuid = jobs.workflow AND w.status = 'CANCELLED'))
    FROM json_array_elements(?::json) AS v JOIN jobs ON jobs.seq = (v.value->>0)::bigint WHERE jobs.worker = ?
    FOR UPDATE OF jobs;

-- name: set-limits
UPDATE limits SET unfinished = CASE WHEN ? THEN ?::int ELSE unfinished END,
    rate = CASE WHEN ? THEN ?::float8 ELSE rate END, budget = CASE WHEN ? THEN ?::bigint ELSE budget END;

-- name: get-limits
SELECT unfinished, rate, budget, spent, reserved FROM limits;

-- name: claim
-- Only by the worker whose workflow it is: nobody else would be missed, should it die.
UPDATE jobs SET worker = ? WHERE seq = ? AND EXISTS (SELECT 1 FROM dbos.workflow_status AS w
    WHERE w.workflow_uuid = jobs.workflow AND w.executor_id = ? AND w.status IN ('PENDING', 'CANCELLED')) RETURNING {job};

-- name: begin-again
UPDATE jobs SET {sets}, attempt = attempt + 1, error = NULL, worker = NULL WHERE seq = ?;

-- name: look-again
-- With its task and its failure, of which the worker makes its next attempt or a job that goes on.
UPDATE jobs SET state = 'new', ended = NULL, ended_run = 0, worker = NULL WHERE seq = ?;

-- name: ask-again
UPDATE jobs SET state = 'submitting', ended = NULL, ended_run = 0, worker = NULL WHERE seq = ?;

-- name: leave
-- A job that another request has replaced before anything of it was sent has nothing to do any more.
UPDATE jobs SET worker = NULL, workflow = NULL WHERE seq = ? AND superseded = 1 AND state = 'new' RETURNING seq;

-- name: end-cancelled
-- Somebody has cancelled these jobs' workflows with DBOS's own tools, before anything of them was submitted. Nobody has them in hand,
-- except for one that its worker names.
UPDATE jobs SET state = 'failed', error = CASE WHEN task_id IS NULL THEN ? ELSE error END, ended = ?, worker = NULL
    WHERE state = 'new' AND (worker IS NULL OR seq = ?)
    AND workflow IN (SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'CANCELLED') RETURNING {job};

-- name: take-cancelled
-- The same after that: a video that is, or may be, paid for is not given up. Two workers never take the same one.
UPDATE jobs SET worker = ? WHERE state IN ('submitting', 'running', 'completed') AND worker IS NULL
    AND workflow IN (SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'CANCELLED') RETURNING workflow;

-- name: orphans
-- Where the jobs of some workflows stand, and those that a worker had in its hands.
SELECT workflow, state FROM jobs WHERE workflow = ANY (?) OR (worker = ? AND workflow IS NOT NULL AND state NOT IN ('saved', 'failed', 'unknown'));

-- name: release
UPDATE jobs SET worker = NULL WHERE worker = ?;

-- name: in-hand
SELECT seq FROM jobs WHERE worker IS NOT NULL AND state NOT IN ('saved', 'failed', 'unknown');

-- name: draw
-- Keys and workflows of jobs that are to be worked on: drawn once, so that the same job is the same workflow.
UPDATE jobs SET key = coalesce(jobs.key, v.value->>1), workflow = v.value->>2, rounds = rounds + 1
    FROM json_array_elements(?::json) AS v WHERE jobs.seq = (v.value->>0)::bigint;

-- name: rounds
SELECT json_object_agg(seq, json_build_array(rounds, workflow))::text FROM json_array_elements_text(?::json) AS v
    JOIN jobs ON seq = v.value::bigint;

-- name: slots
-- The next places in the row of submissions, all of one account's. A worker that takes them and dies leaves them empty.
UPDATE pace SET next = greatest(next, extract(epoch FROM clock_timestamp())::float8 + ?) + ?
    RETURNING next - ?::float8, extract(epoch FROM clock_timestamp())::float8;

-- name: add-worker
INSERT INTO workers (host, pid, started, seen) VALUES (?, ?, ?, ?) RETURNING id;

-- name: note-worker
-- One that seemed dead and was buried is noted again: should it really die, the others must know of it.
INSERT INTO workers (id, host, pid, started, seen, in_hand, adopted, word) OVERRIDING SYSTEM VALUE VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET host = excluded.host, pid = excluded.pid, started = excluded.started,
    seen = excluded.seen, in_hand = excluded.in_hand, adopted = excluded.adopted, word = excluded.word;

-- name: recall-workers
-- Those that have jobs and are not noted: they were buried, took jobs, and died before they were noted again.
INSERT INTO workers (id, host, pid, started, seen) OVERRIDING SYSTEM VALUE
    SELECT DISTINCT substr(w.executor_id, 12)::bigint, '', 0, 0, 0 FROM dbos.workflow_status AS w
    WHERE w.status = 'PENDING' AND substr(w.executor_id, 1, 11) = 'happyhorse-' ON CONFLICT (id) DO NOTHING;

-- name: drop-worker
-- Unless DBOS has given it more to do meanwhile: then somebody has to look after that.
DELETE FROM workers WHERE id = ? AND NOT EXISTS (SELECT 1 FROM dbos.workflow_status AS w
    WHERE w.status = 'PENDING' AND w.executor_id = 'happyhorse-' || workers.id);

-- name: workers
SELECT id, host, pid, started, seen, in_hand, adopted, word FROM workers ORDER BY id;

-- name: living
-- A worker lives as long as it holds its lock.
SELECT objid::bigint FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = ? AND objsubid = 2;

-- name: left-to-do
SELECT count(*) FROM jobs WHERE workflow IS NOT NULL AND state NOT IN ('saved', 'failed', 'unknown');

-- name: copy
-- Jobs of a folder's ledger, as they stand there. One that is here already is only replaced while nothing of it was begun.
INSERT INTO jobs ({names}) SELECT {values} FROM json_array_elements(?::json) WITH ORDINALITY AS v (value, place) ORDER BY v.place
    ON CONFLICT (id) DO UPDATE SET {sets}
    WHERE jobs.state = 'new' AND jobs.task_id IS NULL AND jobs.worker IS NULL AND jobs.fingerprint = excluded.fingerprint RETURNING id;

-- name: count-money
-- Whoever changes a job at this moment has not moved the sums yet, and adds to these.
UPDATE limits SET spent = (SELECT coalesce(sum(jobs.spent), 0) FROM jobs), reserved = (SELECT coalesce(sum(jobs.reserved), 0) FROM jobs);

-- name: any-job
SELECT 1 FROM jobs LIMIT 1;

-- name: any-at-stake
SELECT 1 FROM jobs WHERE state IN ('submitting', 'running', 'completed') LIMIT 1;

-- name: suspects
-- One look for all: a thousand workers that try each other's locks would do nothing else.
SELECT w.id FROM workers AS w WHERE w.id NOT IN (SELECT l.objid::bigint FROM pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid = ? AND l.objsubid = 2) AND w.id <> ?;
