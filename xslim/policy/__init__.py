"""Layer 1: what to compute at which step. Pure Python; no torch."""
