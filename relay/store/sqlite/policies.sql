-- The policy cache (RFC 8461 §3.3, §10.2), version 2. Times are microseconds since 1970-01-01 UTC.

-- What is known of one policy domain. policy_text is the file as it was served; expires_at follows from its max_age.
CREATE TABLE policies (
    policy_domain TEXT PRIMARY KEY,
    record_id     TEXT,
    policy_text   BLOB,
    fetched_at    INTEGER,
    expires_at    INTEGER,
    failed_id     TEXT,
    result_type   TEXT,
    detail        TEXT,
    failed_at     INTEGER,
    failing_since INTEGER,
    unknown_since INTEGER
) STRICT;

CREATE INDEX policies_fetched ON policies (fetched_at) WHERE fetched_at IS NOT NULL;

-- What changed about a domain's policy, as JSON (relay/store/sqlite/policy_journal.py); number grows with each change.
CREATE TABLE journal (
    policy_domain TEXT NOT NULL,
    number        INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    entry         TEXT NOT NULL,
    PRIMARY KEY (policy_domain, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX journal_at ON journal (at);
