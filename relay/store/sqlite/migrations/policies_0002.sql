-- The journal of policies.

-- What changed about a domain's policy, as JSON (relay/store/sqlite/policy_journal.py); number grows with each change.
CREATE TABLE journal (
    policy_domain TEXT NOT NULL,
    number        INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    entry         TEXT NOT NULL,
    PRIMARY KEY (policy_domain, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX journal_at ON journal (at);
