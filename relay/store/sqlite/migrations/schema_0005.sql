-- Version 5: destination rows tell of what is queued or held, and no longer of what is leased.

DROP TRIGGER job_leased_at_once;
DROP TRIGGER job_finished;
DROP TRIGGER job_moved;
DROP INDEX jobs_waiting;

ALTER TABLE jobs DROP COLUMN waiting_since;
ALTER TABLE destinations DROP COLUMN in_flight;
ALTER TABLE destinations DROP COLUMN recipients_leased;

CREATE INDEX jobs_oldest ON jobs (destination, accepted_at) WHERE state = 'queued';

UPDATE destinations SET
    oldest_at = (SELECT min(accepted_at) FROM jobs WHERE destination = name AND state = 'queued');
UPDATE destinations SET bytes = bytes - leased.size
FROM (SELECT destination, sum(size) AS size FROM jobs WHERE state = 'leased' GROUP BY destination) AS leased
WHERE name = leased.destination;

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
