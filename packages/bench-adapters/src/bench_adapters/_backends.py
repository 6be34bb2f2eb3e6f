"""Where the environments of a vector live: in this process, or spread over worker processes."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from bench_adapters._shares import EnvFactory, EnvSpec, Share, WorkerFailure, serve_share
from bench_adapters._workers import (
    ArrayBlock,
    Layout,
    Worker,
    WorkerGoneError,
    receive_any,
    start_worker,
    stop_workers,
)
from bench_adapters.errors import WorkerError


def _layout(space: spaces.Space[Any], num_envs: int) -> Layout:
    if not isinstance(space, spaces.Dict):
        raise TypeError(f"Expected `observation_space` to be a Dict of boxes, got {space}.")
    return {
        key: ((num_envs, *(box.shape or ())), np.dtype(box.dtype)) for key, box in space.items()
    }


class InProcess:
    """All environments in this process."""

    def __init__(self, env_fn: EnvFactory, num_envs: int) -> None:
        self._share = Share(env_fn, first=0, count=num_envs, busy=np.zeros(1, np.int64))
        self.specs: dict[int, EnvSpec] = self._share.specs()
        layout = _layout(self.specs[0].observation_space, num_envs)
        self.arrays: Mapping[str, NDArray[Any]] = {
            key: np.zeros(shape, dtype) for key, (shape, dtype) in layout.items()
        }
        self._share.arrays = self.arrays

    def call(self, method: str, arguments: dict[int, Any]) -> dict[int, Any]:
        """Call ``reset`` or ``step`` of `Share` with one argument per environment."""
        result: dict[int, Any] = getattr(self._share, method)(arguments)
        return result

    def close(self) -> None:
        """Close the environments and free what they used."""
        self._share.close()


class Workers:
    """Environments spread over worker processes."""

    def __init__(
        self, env_fn: EnvFactory, num_envs: int, num_workers: int, timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._workers: list[Worker] = []
        self._blocks = [ArrayBlock({"busy": ((num_workers,), np.dtype(np.int64))})]
        # Also runs when the object is collected or the program ends, so nothing outlives us.
        self._release = weakref.finalize(self, _release, self._workers, self._blocks)
        shares = np.array_split(np.arange(num_envs), num_workers)
        self._owner = {int(i): slot for slot, share in enumerate(shares) for i in share}
        try:
            for slot, share in enumerate(shares):
                arguments = (env_fn, int(share[0]), len(share), self._blocks[0].name, slot)
                self._workers.append(start_worker(serve_share, *arguments))
            self.specs: dict[int, EnvSpec] = self._gather(range(num_workers), "built")
            layout = _layout(self.specs[0].observation_space, num_envs)
            self._blocks.append(ArrayBlock(layout))
            plain = {key: (shape, dtype.str) for key, (shape, dtype) in layout.items()}
            for worker in self._workers:
                worker.connection.send(("attach", (self._blocks[1].name, plain)))
            self._gather(range(num_workers), "connected")
        except BaseException:
            self.close()
            raise
        self.arrays: Mapping[str, NDArray[Any]] = self._blocks[1].arrays

    def call(self, method: str, arguments: dict[int, Any]) -> dict[int, Any]:
        """Call ``reset`` or ``step`` of `Share` with one argument per environment."""
        by_worker: dict[int, dict[int, Any]] = {}
        for index, argument in arguments.items():
            by_worker.setdefault(self._owner[index], {})[index] = argument
        for slot, argument in by_worker.items():
            try:
                self._workers[slot].connection.send((method, argument))
            except BrokenPipeError:
                continue  # its end is reported by the wait for its answer
        return self._gather(by_worker, {"step": "stepped"}.get(method, method))

    def _gather(self, slots: Iterable[int], doing: str) -> dict[int, Any]:
        """Merge the answers of ``slots``, or raise what the first failed one reports."""
        merged: dict[int, Any] = {}
        try:
            waiting = {slot: self._workers[slot] for slot in slots}
            for _, answer in receive_any(waiting, timeout_s=self._timeout_s):
                if isinstance(answer, WorkerFailure):
                    raise WorkerError(
                        answer.summary, env_index=answer.env_index, traceback=answer.traceback
                    )
                if isinstance(answer, Exception):
                    raise answer
                merged |= answer or {}
        except WorkerGoneError as gone:
            index = int(self._blocks[0].arrays["busy"][gone.worker])
            raise WorkerError(
                f"the worker process {gone.reason} while environment {index} was being {doing}",
                env_index=index,
            ) from None
        return merged

    def close(self) -> None:
        """Close the environments and free what they used."""
        self._release()


def _release(workers: list[Worker], blocks: list[ArrayBlock]) -> None:
    stop_workers(workers)
    for block in blocks:
        block.close()
