"""Where messages and policies are kept: the protocols and their implementations."""
