-- TLS reports (RFC 8460), version 1. Times are microseconds since 1970-01-01 UTC, days are days since then.

-- Reports that were planned: one for each day and domain, whoever wants to plan it. unique_id is in its report-id.
CREATE TABLE reports (
    day       INTEGER NOT NULL,
    domain    TEXT NOT NULL,
    unique_id TEXT NOT NULL UNIQUE,
    PRIMARY KEY (day, domain)
) STRICT, WITHOUT ROWID;

-- Where a report goes, fixed before any of it is sent. queue_id is what its mail is or will be queued under.
-- in-flight: being sent, or sent by a process that died before it could say so; it is not sent again then.
CREATE TABLE report_deliveries (
    day             INTEGER NOT NULL,
    domain          TEXT NOT NULL,
    number          INTEGER NOT NULL,
    scheme          TEXT NOT NULL CHECK (scheme IN ('mailto', 'https')),
    target          TEXT NOT NULL,
    queue_id        TEXT NOT NULL UNIQUE,
    state           TEXT NOT NULL CHECK (state IN ('waiting', 'in-flight', 'accepted', 'dropped')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL,
    give_up_at      INTEGER NOT NULL,
    PRIMARY KEY (day, domain, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX report_deliveries_due ON report_deliveries (next_attempt_at) WHERE state = 'waiting';
