"""From the legacy MTA: listener, session, access, trace."""
