"""mta-sts-relay: takes mail from a legacy MTA and delivers it as the recipient domains' policies demand."""
