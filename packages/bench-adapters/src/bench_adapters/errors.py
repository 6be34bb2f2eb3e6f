"""Errors that callers catch."""


class BenchAdaptersError(RuntimeError):
    """Something outside the caller's arguments went wrong; the message holds the remedy."""


class SimulatorUnavailableError(BenchAdaptersError):
    """A simulator, its rendering device or its assets are missing on this machine."""


class WorkerError(BenchAdaptersError):
    """An environment raised, died or stopped answering.

    Attributes:
        env_index: The environment that was being built, reset or stepped.
        summary: One line on what happened.
        traceback: The environment's own traceback, empty when there is none.
    """

    def __init__(self, summary: str, *, env_index: int, traceback: str = "") -> None:
        super().__init__(f"{summary}\n{traceback}".rstrip())
        self.summary = summary
        self.env_index = env_index
        self.traceback = traceback
