"""Errors that callers catch."""


class DatasetError(ValueError):
    """A dataset or label file is missing, damaged or of another version.

    The message names the file and the remedy.
    """


class CollapseError(RuntimeError):
    """Self-supervised training ended in constant or low-rank features."""
