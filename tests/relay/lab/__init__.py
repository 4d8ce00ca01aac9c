"""Tests of the pocket internet."""
