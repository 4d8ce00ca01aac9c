"""For the operator: metrics, health."""
