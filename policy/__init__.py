"""What a recipient domain demands of a sender: MTA-STS (RFC 8461), later DANE and TLS-RPT. Moves no mail."""
