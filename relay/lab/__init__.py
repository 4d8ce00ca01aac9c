"""A pocket internet on loopback: DNS, policy hosts and MX hosts with chosen faults, under a CA of their own."""
