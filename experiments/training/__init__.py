"""Scripts that train the reference models which the repository ships (see docs/reference-models.md)."""
