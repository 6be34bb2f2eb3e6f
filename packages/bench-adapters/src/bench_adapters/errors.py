"""Errors that callers catch."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class BenchAdaptersError(RuntimeError):
    """Something outside the caller's arguments went wrong; the message holds the remedy."""


class SimulatorUnavailableError(BenchAdaptersError):
    """A simulator, its rendering device or its assets are missing on this machine."""


class EnvFailure(NamedTuple):
    """How an environment of a vector lost its episode."""

    env_index: int
    summary: str
    """One line on what happened."""
    traceback: str = ""
    """The environment's own, empty when there is none."""
    bystander: bool = False
    """True when it did nothing wrong but shared a worker process with one that did."""


class WorkerError(BenchAdaptersError):
    """An environment raised, died, stopped answering or gave something that cannot be right.

    Attributes:
        env_index: The environment that was being built, reset or stepped.
        summary: One line on what happened.
        traceback: The environment's own traceback, empty when there is none.
        failures: All environments that lost their episode in the call, this one first. Empty when
            the vector could not be built.
        result: What the call gave for the other environments: a `ChunkStep` of ``step_chunk``,
            observation and info of ``reset``. None when the vector could not be built.
    """

    def __init__(
        self,
        summary: str,
        *,
        env_index: int,
        traceback: str = "",
        failures: Sequence[EnvFailure] = (),
        result: Any = None,
    ) -> None:
        super().__init__(f"{summary}\n{traceback}".rstrip())
        self.summary = summary
        self.env_index = env_index
        self.traceback = traceback
        self.failures = tuple(failures)
        self.result = result
