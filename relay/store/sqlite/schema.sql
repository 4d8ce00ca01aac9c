-- The queue (docs/architecture.md, "The queue"), version 5.
--
-- Times are microseconds since 1970-01-01 UTC by the store's clock; durations end in _us.
-- Ids come from `sequence`, a block at a time, and are never used twice: an old lease or upload can name nothing new.
-- A message that is delivered at once is two rows: a job and a chunk. All else about it stands in the job's row, for
-- each further table would cost its commit and its settlement a row and its pages in the write-ahead log.

CREATE TABLE sequence (
    last_id INTEGER NOT NULL
) STRICT;

INSERT INTO sequence (last_id) VALUES (0);

-- Processes that work on this queue. A starting one frees the leases of its node's earlier incarnations.
CREATE TABLE incarnations (
    incarnation TEXT PRIMARY KEY,
    node        TEXT NOT NULL,
    started_at  INTEGER NOT NULL
) STRICT;

-- Content in pieces of at most 256 KiB. The key is content_id * 2^20 + number: one B-tree, pieces side by side.
CREATE TABLE chunks (
    id   INTEGER PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

-- Contents that no message names: uploads on their way in (incarnation says whose), big contents on their way out ('').
CREATE TABLE nameless (
    content_id  INTEGER PRIMARY KEY,
    incarnation TEXT NOT NULL,
    size        INTEGER NOT NULL,
    touched_at  INTEGER NOT NULL
) STRICT;

-- Which jobs still need the content of a message that has several: one that has a single job has no row here.
CREATE TABLE shared (
    content_id INTEGER NOT NULL,
    job_id     INTEGER NOT NULL,
    PRIMARY KEY (content_id, job_id)
) STRICT, WITHOUT ROWID;

-- The recipients of one message at one destination: the unit of work, and when it is final its trace.
-- number counts the jobs of one message from 0; together with the queue id it is used once.
-- waiting counts the recipients not yet final. fence grows with each lease. counted: this lease counted an attempt.
-- next_attempt_at matters while queued, and is kept under a lease for the case that the lease is given back.
-- A job that was leased in order to be dropped keeps hold_reason and held_at, and goes back to held if it is not.
-- tls_wish: 1 if MAIL said REQUIRETLS (RFC 8689), 2 if TLS-Required: No is honoured, else 0.
-- recipients: those in the job's state, as a JSON array (relay/store/records.py); finished: those that became final on
-- their own, each with a comma behind it, so that more of them are just appended. record: the last attempt (JSON).
CREATE TABLE jobs (
    id                 INTEGER PRIMARY KEY,
    queue_id           TEXT NOT NULL,
    number             INTEGER NOT NULL,
    content_id         INTEGER NOT NULL,
    destination        TEXT NOT NULL,
    state              TEXT NOT NULL CHECK (state IN ('queued', 'leased', 'held', 'delivered', 'failed', 'dropped')),
    waiting            INTEGER NOT NULL CHECK (waiting >= 0),
    size               INTEGER NOT NULL,
    accepted_at        INTEGER NOT NULL,
    finished_at        INTEGER,
    next_attempt_at    INTEGER NOT NULL,
    attempts           INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    fence              INTEGER NOT NULL DEFAULT 0,
    leased_by          TEXT,
    leased_until       INTEGER,
    counted            INTEGER NOT NULL DEFAULT 0 CHECK (counted IN (0, 1)),
    lapses             INTEGER NOT NULL DEFAULT 0,
    hold_reason        TEXT,
    held_at            INTEGER,
    held_us            INTEGER NOT NULL DEFAULT 0,
    delay_notified     INTEGER NOT NULL DEFAULT 0,
    origin             TEXT NOT NULL,
    message_id         TEXT NOT NULL,
    reverse_path       TEXT NOT NULL,
    ret                TEXT,
    envid              TEXT,
    smtputf8           INTEGER NOT NULL,
    eight_bit          INTEGER NOT NULL,
    utf8_header        INTEGER NOT NULL,
    client_address     TEXT NOT NULL,
    client_helo        TEXT NOT NULL,
    client_tls_version TEXT,
    client_tls_cipher  TEXT,
    client_user        TEXT,
    recipients         TEXT NOT NULL,
    finished           TEXT NOT NULL DEFAULT '',
    record             TEXT,
    tls_wish           INTEGER NOT NULL DEFAULT 0,
    CHECK ((state = 'leased') = (leased_by IS NOT NULL AND leased_until IS NOT NULL)),
    CHECK (state <> 'held' OR (hold_reason IS NOT NULL AND held_at IS NOT NULL)),
    CHECK ((waiting = 0) = (state IN ('delivered', 'failed', 'dropped'))),
    CHECK ((waiting = 0) = (finished_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX jobs_queue_id ON jobs (queue_id, number);
CREATE INDEX jobs_due ON jobs (destination, next_attempt_at) WHERE state = 'queued';
CREATE INDEX jobs_leased ON jobs (leased_until) WHERE state = 'leased';
CREATE INDEX jobs_held ON jobs (destination) WHERE state = 'held';
CREATE INDEX jobs_oldest ON jobs (destination, accepted_at) WHERE state = 'queued';
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- Records of attempts before the last: a job's first and the last ten are kept. id is the fence under which it went here.
CREATE TABLE attempts (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    id     INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (job_id, id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attempt_followed AFTER UPDATE OF record ON jobs
WHEN old.record IS NOT NULL AND new.record IS NOT old.record BEGIN
    INSERT INTO attempts (job_id, id, record) VALUES (old.id, old.fence, old.record);
END;

-- What is queued or held at one destination; kept true by the triggers below. What is leased is counted when it is asked
-- for (jobs_leased): there is little of it, and mail that is leased at once and then final touches no row here.
-- oldest_at is of what is queued. due_at is when there is something to do: NULL if nothing is queued or it is paused.
CREATE TABLE destinations (
    name              TEXT PRIMARY KEY,
    queued            INTEGER NOT NULL DEFAULT 0,
    bytes             INTEGER NOT NULL DEFAULT 0,
    recipients_queued INTEGER NOT NULL DEFAULT 0,
    recipients_held   INTEGER NOT NULL DEFAULT 0,
    oldest_at         INTEGER,
    next_attempt_at   INTEGER,
    cooled_until      INTEGER NOT NULL DEFAULT 0,
    paused            INTEGER NOT NULL DEFAULT 0,
    due_at            INTEGER GENERATED ALWAYS AS (CASE WHEN NOT paused THEN max(next_attempt_at, cooled_until) END) VIRTUAL
) STRICT, WITHOUT ROWID;

CREATE INDEX destinations_due ON destinations (due_at) WHERE due_at IS NOT NULL;

CREATE TRIGGER job_queued AFTER INSERT ON jobs WHEN new.state = 'queued' BEGIN
    INSERT INTO destinations (name, queued, bytes, recipients_queued, oldest_at, next_attempt_at)
    VALUES (new.destination, 1, new.size, new.waiting, new.accepted_at, new.next_attempt_at)
    ON CONFLICT (name) DO UPDATE SET
        queued = queued + 1,
        bytes = bytes + excluded.bytes,
        recipients_queued = recipients_queued + excluded.recipients_queued,
        oldest_at = ifnull(min(oldest_at, excluded.oldest_at), excluded.oldest_at),
        next_attempt_at = ifnull(min(next_attempt_at, excluded.next_attempt_at), excluded.next_attempt_at);
END;

-- The content goes with the last job that needs it: up to 1 MiB (4 pieces) at once, more of it later in bounded steps.
CREATE TRIGGER job_needs_no_content AFTER UPDATE OF state ON jobs WHEN old.waiting > 0 AND new.waiting = 0 BEGIN
    DELETE FROM shared WHERE content_id = new.content_id AND job_id = new.id;
    DELETE FROM chunks
    WHERE id >= new.content_id << 20 AND id < (new.content_id << 20) + 4 AND new.size <= 1048576
        AND NOT EXISTS (SELECT 1 FROM shared WHERE content_id = new.content_id);
    INSERT INTO nameless (content_id, incarnation, size, touched_at)
    SELECT new.content_id, '', new.size, 0
    WHERE new.size > 1048576 AND NOT EXISTS (SELECT 1 FROM shared WHERE content_id = new.content_id);
END;

CREATE TRIGGER job_moved AFTER UPDATE OF state, waiting, next_attempt_at ON jobs
WHEN old.state IN ('queued', 'held') OR new.state IN ('queued', 'held') BEGIN
    INSERT INTO destinations (name) VALUES (new.destination) ON CONFLICT (name) DO NOTHING;
    UPDATE destinations SET
        queued = queued + (new.state = 'queued') - (old.state = 'queued'),
        bytes = bytes + ((new.state IN ('queued', 'held')) - (old.state IN ('queued', 'held'))) * new.size,
        recipients_queued = recipients_queued + (new.state = 'queued') * new.waiting - (old.state = 'queued') * old.waiting,
        recipients_held = recipients_held + (new.state = 'held') * new.waiting - (old.state = 'held') * old.waiting,
        oldest_at = (SELECT min(accepted_at) FROM jobs WHERE destination = new.destination AND state = 'queued'),
        next_attempt_at = (SELECT min(next_attempt_at) FROM jobs WHERE destination = new.destination AND state = 'queued')
    WHERE name = new.destination;
END;

-- TLS sessions (RFC 8460), counted by the settlement that tells of them, or alone (policies that could not be had).
-- policy and failures are JSON (relay/store/tls_records.py); failures is [] for sessions that succeeded.
CREATE TABLE tls_results (
    day      INTEGER NOT NULL,
    domain   TEXT NOT NULL,
    policy   TEXT NOT NULL,
    failures TEXT NOT NULL,
    sessions INTEGER NOT NULL CHECK (sessions > 0),
    PRIMARY KEY (day, domain, policy, failures)
) STRICT, WITHOUT ROWID;
