"""To the recipients: route, plan, pool, client, worker."""
