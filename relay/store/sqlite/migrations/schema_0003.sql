-- Version 3: TLS sessions are counted.

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
