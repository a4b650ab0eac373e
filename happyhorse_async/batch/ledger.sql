-- The ledger's queries. Each is named by a line "-- name: ..."; the lines of comment after it
-- say what it is for.
--
-- A group of changes of one kind is one statement over a JSON array: SQLite then walks the rows
-- without giving Python's lock back in
-- between, which a thread beside a busy event loop would have to wait for at every single row.

-- name: schema-1
-- Credits are whole millionths, so that sums are exact. Times are Unix seconds.
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE strangers (name TEXT PRIMARY KEY COLLATE NOCASE) WITHOUT ROWID;
CREATE TABLE runs (number INTEGER PRIMARY KEY, pid INTEGER NOT NULL, started REAL NOT NULL, ended REAL, how TEXT);
CREATE TABLE digests (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'new',
    request TEXT NOT NULL,
    extra TEXT NOT NULL DEFAULT '{}',
    name TEXT NOT NULL COLLATE NOCASE,
    own INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 1,
    key TEXT,
    image_url TEXT,
    uploaded REAL,
    callback_url TEXT,
    task_id TEXT,
    reserved INTEGER NOT NULL DEFAULT 0,
    spent INTEGER NOT NULL DEFAULT 0,
    accepted REAL,
    completed REAL,
    expires REAL,
    ended REAL,
    seconds REAL,
    size INTEGER,
    sha256 TEXT,
    length REAL,
    width INTEGER,
    height INTEGER,
    error TEXT,
    seen_run INTEGER NOT NULL DEFAULT 0,
    twins INTEGER NOT NULL DEFAULT 1,
    ended_run INTEGER NOT NULL DEFAULT 0,
    superseded INTEGER NOT NULL DEFAULT 0,
    was TEXT
);
-- A name made from a request's digest is no other job's, so only those made from callers' ids
-- are compared: an entry at a random place in
-- an index of all jobs costs the more, the more jobs there are.
CREATE UNIQUE INDEX jobs_own_names ON jobs (name) WHERE own = 1;
CREATE INDEX jobs_at_stake ON jobs (state, seq) WHERE state IN ('submitting', 'running', 'completed');
CREATE INDEX jobs_begun_again ON jobs (seq) WHERE state = 'new' AND attempt > 1;
CREATE INDEX jobs_replaced ON jobs (was) WHERE was IS NOT NULL;
CREATE INDEX jobs_in_trouble ON jobs (state, seq) WHERE state IN ('failed', 'unknown');

-- name: set-fact
INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: get-fact
SELECT value FROM facts WHERE name = ?;

-- name: count-at-stake
SELECT count(*) FROM jobs WHERE state IN ('submitting', 'running', 'completed', 'unknown');

-- name: proofs
-- The tasks that the service is the likeliest to know still.
SELECT task_id FROM jobs WHERE task_id IS NOT NULL ORDER BY state IN ('running', 'completed') DESC, accepted DESC LIMIT 5;

-- name: add-strangers
-- Videos that were in the folder before the ledger: never taken for a job's own.
INSERT OR IGNORE INTO strangers (name) SELECT value FROM json_each(?);

-- name: doubts
-- When the first run began, and when the first of the requests in some states was sent, as far
-- as is known.
SELECT min(r.started), (SELECT min(coalesce(j.accepted, 0)) FROM json_each(?) AS v JOIN jobs AS j ON j.state = v.value) FROM runs AS r;

-- name: claimed
-- The tasks that are jobs' own since some time.
SELECT task_id FROM jobs WHERE task_id IS NOT NULL AND accepted >= ?;

-- name: known-key
-- The key of the newest task, and its id.
SELECT key, task_id FROM jobs WHERE task_id IS NOT NULL AND key IS NOT NULL ORDER BY accepted DESC LIMIT 1;

-- name: begin-run
INSERT INTO runs (pid, started) VALUES (?, ?);

-- name: end-run
UPDATE runs SET ended = ?, how = ? WHERE number = ?;

-- name: last-run
SELECT number, pid, started, ended, how FROM runs ORDER BY number DESC LIMIT 1;

-- name: digests
-- The digests of files whose stamp (size and times) is still the one that they were read with.
SELECT json_group_object(d.path, d.sha256) FROM json_each(?) AS v JOIN digests AS d
    ON d.path = json_extract(v.value, '$[0]') AND d.stamp = json_extract(v.value, '$[1]');

-- name: digest-sizes
-- The sizes of the files whose digests are known; a stamp begins with it.
SELECT json_group_array(DISTINCT substr(stamp, 1, instr(stamp, ':') - 1)) FROM digests;

-- name: keep-digests
INSERT INTO digests (path, stamp, sha256)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?) WHERE true
    ON CONFLICT (path) DO UPDATE SET stamp = excluded.stamp, sha256 = excluded.sha256;

-- name: known
-- What is known of the ids of an input group. "superseded": of a job that another request has
-- replaced, whose id only looks like a caller's.
SELECT json_group_object(j.id, json_array(j.fingerprint, j.seen_run, j.twins, j.superseded, j.seq))
    FROM json_each(?) AS v JOIN jobs AS j ON j.id = v.value;

-- name: taken-names
-- Those of some names that jobs with callers' ids have.
SELECT json_group_array(t.name) FROM json_each(?) AS v JOIN jobs AS t ON t.name = v.value AND t.own = 1;

-- name: supersede
-- An id that stands for another request now: the old job keeps its fate, its video and its cost
-- under another id, and the id it had.
-- One that has no video, and will have none because nobody works on it, gives its video's name
-- away.
UPDATE jobs SET id = json_extract(v.value, '$[1]'), superseded = 1, was = coalesce(jobs.was, jobs.id),
    name = CASE WHEN jobs.state IN ('new', 'failed') AND NOT json_extract(v.value, '$[2]') THEN '~' || jobs.seq ELSE jobs.name END
    FROM json_each(?) AS v WHERE jobs.id = json_extract(v.value, '$[0]');

-- name: earlier
-- Replaced jobs whose request is wanted again under the id that they had, by that id.
SELECT json_group_object(j.was, j.id) FROM json_each(?) AS v JOIN jobs AS j
    ON j.was = json_extract(v.value, '$[0]') AND j.fingerprint = json_extract(v.value, '$[1]');

-- name: revive
-- Its key, its video and its cost are the job's again, and nothing is bought twice.
UPDATE jobs SET id = json_extract(v.value, '$[1]'), superseded = 0, was = NULL,
    name = CASE WHEN jobs.name = '~' || jobs.seq THEN json_extract(v.value, '$[2]') ELSE jobs.name END
    FROM json_each(?) AS v WHERE jobs.id = json_extract(v.value, '$[0]');

-- name: admit
INSERT OR IGNORE INTO jobs (id, fingerprint, request, extra, name, own, seen_run)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
           json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]') FROM json_each(?);

-- name: renew
-- The extra columns may change at any time; the request as long as nothing of it has left. Its
-- local image may lie elsewhere by now: its
-- content is the same, or else this would be another job.
UPDATE jobs SET
    extra = json_extract(v.value, '$[2]'), seen_run = json_extract(v.value, '$[3]'),
    request = CASE
        WHEN jobs.state = 'new' THEN json_extract(v.value, '$[1]')
        WHEN json_extract(json_extract(v.value, '$[1]'), '$.image.path') <> coalesce(json_extract(jobs.request, '$.image.path'), '')
            THEN json_set(jobs.request, '$.image', json(json_extract(json_extract(v.value, '$[1]'), '$.image')))
        ELSE jobs.request END
    FROM json_each(?) AS v WHERE jobs.id = json_extract(v.value, '$[0]');

-- name: count-twins
UPDATE jobs SET twins = json_extract(v.value, '$[1]') FROM json_each(?) AS v WHERE jobs.id = json_extract(v.value, '$[0]');

-- name: by-id
SELECT json_group_array(json_array({columns})) FROM json_each(?) AS v JOIN jobs AS j ON j.id = v.value;

-- name: page
-- Jobs in order of their coming, from some place on; "{where}" is one of the conditions below.
SELECT {columns} FROM jobs AS j WHERE seq > ? AND {where} ORDER BY seq LIMIT ?;

-- name: saved-files
-- Where saved videos should lie, of jobs that are neither in the input of a run nor ended in it.
SELECT seq, id, name, size FROM jobs
    WHERE seq > ? AND state = 'saved' AND seen_run <> ? AND ended_run <> ? ORDER BY seq LIMIT ?;

-- name: where-at-stake
-- Paid, or perhaps paid, and not ended: links that may die come first, one state after the other.
state = '{state}' AND state IN ('submitting', 'running', 'completed')

-- name: where-begun-again
-- What the user has begun again and an earlier run did not come to, or a failure has that the
-- service calls retryable.
state = 'new' AND attempt > 1 AND superseded = 0

-- name: where-in-trouble
-- Of what was replaced only that which may be paid for: asking for it with its key brings it home.
state = '{state}' AND state IN ('failed', 'unknown') AND (superseded = 0 OR state = 'unknown')

-- name: where-shown
-- What a report shows: everything but old versions that never became anything, and cost nothing.
(superseded = 0 OR state NOT IN ('new', 'failed') OR spent > 0)

-- name: submitting
-- Before the POST: the key, what it may cost, and what of the body that the key stands for
-- another run may not know: an uploaded
-- first frame's link, and where the service is to call back (an empty text: nowhere).
UPDATE jobs SET state = 'submitting', {columns}, error = NULL
    FROM json_each(?) AS v WHERE jobs.seq = json_extract(v.value, '$[0]');

-- name: running
UPDATE jobs SET state = 'running', {columns} FROM json_each(?) AS v WHERE jobs.seq = json_extract(v.value, '$[0]');

-- name: completed
UPDATE jobs SET state = 'completed', {columns} FROM json_each(?) AS v WHERE jobs.seq = json_extract(v.value, '$[0]');

-- name: saved
UPDATE jobs SET state = 'saved', {columns}, reserved = 0, error = NULL
    FROM json_each(?) AS v WHERE jobs.seq = json_extract(v.value, '$[0]');

-- name: ended
-- Ended without a video, now or for good: failed, unknown, or completed whose video could not be
-- fetched yet.
UPDATE jobs SET {columns} FROM json_each(?) AS v WHERE jobs.seq = json_extract(v.value, '$[0]');

-- name: again
-- Back to the beginning, with the next attempt's key; what was spent stays spent.
UPDATE jobs SET state = 'new', {columns},
    key = NULL, image_url = NULL, uploaded = NULL, callback_url = NULL, task_id = NULL, reserved = 0, accepted = NULL, completed = NULL, expires = NULL,
    ended = NULL, seconds = NULL, ended_run = 0
    FROM json_each(?) AS v WHERE jobs.seq = json_extract(v.value, '$[0]');

-- name: totals
-- Counted is what a report shows; money is added up of everything.
SELECT state, sum({shown}), sum(spent), sum(reserved) FROM jobs GROUP BY state;

-- name: failures
SELECT coalesce(json_extract(error, '$.code'), 'unknown_error'), count(*) FROM jobs
    WHERE state IN ('failed', 'unknown') AND {shown} GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: dying
-- Videos that are not here yet and whose links die before some time.
SELECT count(*), min(expires) FROM jobs WHERE state = 'completed' AND expires < ?;

-- name: pace
-- How many ended since some time.
SELECT count(*) FROM jobs WHERE ended >= ?;
