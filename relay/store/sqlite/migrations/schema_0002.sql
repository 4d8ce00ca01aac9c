-- Messages, recipients and the last attempt move into the row of their job.

DROP TRIGGER job_queued;
DROP TRIGGER job_leased_at_once;
DROP TRIGGER job_finished;
DROP TRIGGER job_moved;
DROP INDEX jobs_message;
DROP INDEX jobs_due;
DROP INDEX jobs_leased;
DROP INDEX jobs_held;
DROP INDEX jobs_waiting;

ALTER TABLE jobs RENAME TO old_jobs;
ALTER TABLE attempts RENAME TO old_attempts;

CREATE TABLE shared (
    content_id INTEGER NOT NULL,
    job_id     INTEGER NOT NULL,
    PRIMARY KEY (content_id, job_id)
) STRICT, WITHOUT ROWID;

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
    waiting_since      INTEGER GENERATED ALWAYS AS (CASE WHEN state IN ('queued', 'leased') THEN accepted_at END) VIRTUAL,
    CHECK ((state = 'leased') = (leased_by IS NOT NULL AND leased_until IS NOT NULL)),
    CHECK (state <> 'held' OR (hold_reason IS NOT NULL AND held_at IS NOT NULL)),
    CHECK ((waiting = 0) = (state IN ('delivered', 'failed', 'dropped'))),
    CHECK ((waiting = 0) = (finished_at IS NOT NULL))
) STRICT;

CREATE TABLE attempts (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    id     INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (job_id, id)
) STRICT, WITHOUT ROWID;

INSERT INTO shared (content_id, job_id)
SELECT messages.content_id, old_jobs.id FROM old_jobs JOIN messages ON messages.id = old_jobs.message_id
WHERE old_jobs.waiting > 0 AND messages.open_jobs > 1;

INSERT INTO jobs (
    id, queue_id, number, content_id, destination, state, waiting, size, accepted_at, finished_at, next_attempt_at,
    attempts, fence, leased_by, leased_until, counted, lapses, hold_reason, held_at, held_us, delay_notified,
    origin, message_id, reverse_path, ret, envid, smtputf8, eight_bit, utf8_header,
    client_address, client_helo, client_tls_version, client_tls_cipher, client_user, recipients, finished, record
)
SELECT
    j.id, m.queue_id, row_number() OVER (PARTITION BY m.id ORDER BY j.id) - 1, m.content_id, j.destination, j.state,
    j.waiting, j.size, j.accepted_at, iif(j.waiting > 0, NULL, ifnull(m.finished_at, j.accepted_at)), j.next_attempt_at,
    j.attempts, j.fence, j.leased_by, j.leased_until, j.counted, j.lapses, j.hold_reason, j.held_at, j.held_us,
    j.delay_notified, m.origin, m.message_id, m.reverse_path, m.ret, m.envid, m.smtputf8, m.eight_bit, m.utf8_header,
    m.client_address, m.client_helo, m.client_tls_version, m.client_tls_cipher, m.client_user,
    (SELECT json_group_array(json_array(id, forward_path, notify, orcpt, status, diagnostic))
     FROM recipients WHERE job_id = j.id AND state = 'waiting'),
    (SELECT ifnull(group_concat(json_array(id, forward_path, notify, orcpt, status, diagnostic, state) || ',', ''), '')
     FROM recipients WHERE job_id = j.id AND state <> 'waiting'),
    (SELECT record FROM old_attempts WHERE job_id = j.id ORDER BY id DESC LIMIT 1)
FROM old_jobs AS j JOIN messages AS m ON m.id = j.message_id
ORDER BY j.id;

INSERT INTO attempts (job_id, id, record)
SELECT job_id, row_number() OVER (PARTITION BY job_id ORDER BY id) - 1000, record FROM old_attempts AS a
WHERE id < (SELECT max(id) FROM old_attempts WHERE job_id = a.job_id);

-- Those that refer to others first, or each row of the others would be looked for in them.
DROP TABLE old_attempts;
DROP TABLE recipients;
DROP TABLE old_jobs;
DROP TABLE messages;

CREATE UNIQUE INDEX jobs_queue_id ON jobs (queue_id, number);
CREATE INDEX jobs_due ON jobs (destination, next_attempt_at) WHERE state = 'queued';
CREATE INDEX jobs_leased ON jobs (leased_until) WHERE state = 'leased';
CREATE INDEX jobs_held ON jobs (destination) WHERE state = 'held';
CREATE INDEX jobs_waiting ON jobs (destination, waiting_since) WHERE waiting_since IS NOT NULL;
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

CREATE TRIGGER attempt_followed AFTER UPDATE OF record ON jobs
WHEN old.record IS NOT NULL AND new.record IS NOT old.record BEGIN
    INSERT INTO attempts (job_id, id, record) VALUES (old.id, old.fence, old.record);
END;

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

CREATE TRIGGER job_leased_at_once AFTER INSERT ON jobs WHEN new.state = 'leased' BEGIN
    INSERT INTO destinations (name, in_flight, bytes, recipients_leased, oldest_at)
    VALUES (new.destination, 1, new.size, new.waiting, new.accepted_at)
    ON CONFLICT (name) DO UPDATE SET
        in_flight = in_flight + 1,
        bytes = bytes + excluded.bytes,
        recipients_leased = recipients_leased + excluded.recipients_leased,
        oldest_at = ifnull(min(oldest_at, excluded.oldest_at), excluded.oldest_at);
END;

CREATE TRIGGER job_finished AFTER UPDATE OF state ON jobs WHEN old.state = 'leased' AND new.waiting = 0 BEGIN
    UPDATE destinations SET
        in_flight = in_flight - 1,
        bytes = bytes - new.size,
        recipients_leased = recipients_leased - old.waiting,
        oldest_at = (SELECT min(waiting_since) FROM jobs
                     WHERE destination = new.destination AND waiting_since IS NOT NULL)
    WHERE name = new.destination;
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

CREATE TRIGGER job_moved AFTER UPDATE OF state, waiting, next_attempt_at ON jobs WHEN new.waiting > 0 BEGIN
    UPDATE destinations SET
        queued = queued + (new.state = 'queued') - (old.state = 'queued'),
        in_flight = in_flight + (new.state = 'leased') - (old.state = 'leased'),
        recipients_queued = recipients_queued + (new.state = 'queued') * new.waiting - (old.state = 'queued') * old.waiting,
        recipients_leased = recipients_leased + (new.state = 'leased') * new.waiting - (old.state = 'leased') * old.waiting,
        recipients_held = recipients_held + (new.state = 'held') * new.waiting - (old.state = 'held') * old.waiting,
        oldest_at = (SELECT min(waiting_since) FROM jobs
                     WHERE destination = new.destination AND waiting_since IS NOT NULL),
        next_attempt_at = (SELECT min(next_attempt_at) FROM jobs
                           WHERE destination = new.destination AND state = 'queued')
    WHERE name = new.destination;
END;
