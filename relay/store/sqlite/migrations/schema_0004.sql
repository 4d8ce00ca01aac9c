-- Version 4: what a message says about TLS.

-- 1 if MAIL said REQUIRETLS (RFC 8689), 2 if TLS-Required: No is honoured, else 0.
ALTER TABLE jobs ADD COLUMN tls_wish INTEGER NOT NULL DEFAULT 0;
