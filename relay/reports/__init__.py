"""What senders are told: NDRs, delay notices, success notices (RFC 3464)."""
