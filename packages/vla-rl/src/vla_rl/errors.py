"""Errors that callers may want to catch."""


class CheckpointError(ValueError):
    """A checkpoint that does not belong to this model, algorithm or configuration."""
