"""Builds the relay from its settings and runs it; nothing else knows which adapter stands behind a seam."""
