"""Where the environments of a vector live: in this process, or spread over worker processes."""

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from bench_adapters._shares import EnvFactory, EnvSpec, Share, serve_share
from bench_adapters._workers import (
    ArrayBlock,
    Layout,
    Worker,
    WorkerGoneError,
    receive_any,
    start_worker,
    stop_workers,
)
from bench_adapters.errors import EnvFailure, WorkerError


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
        """Call ``reset`` or ``step`` of `Share` with one argument per environment.

        Returns:
            By environment, the answer or an `EnvFailure`.
        """
        result: dict[int, Any] = getattr(self._share, method)(arguments)
        return result

    def close(self) -> None:
        """Close the environments and free what they used."""
        self._share.close()


class Workers:
    """Environments spread over worker processes.

    A process that dies, hangs or has no environment left is ended; the next reset of one of its
    environments starts another in its place.
    """

    def __init__(
        self, env_fn: EnvFactory, num_envs: int, num_workers: int, timeout_s: float
    ) -> None:
        self._env_fn = env_fn
        self._timeout_s = timeout_s
        self._shares = [s.tolist() for s in np.array_split(np.arange(num_envs), num_workers)]
        self._owner = {index: slot for slot, share in enumerate(self._shares) for index in share}
        self._workers: dict[int, Worker] = {}
        self._healthy: dict[int, set[int]] = {}
        self._blocks = [ArrayBlock({"busy": ((num_workers,), np.dtype(np.int64))})]
        self._layout: Any = None
        # Also runs when the object is collected or the program ends, so nothing outlives us.
        self._release = weakref.finalize(self, _release, self._workers, self._blocks)
        try:
            self.specs = self._all_or_raise(self._start(range(num_workers)))
            layout = _layout(self.specs[0].observation_space, num_envs)
            self._blocks.append(ArrayBlock(layout))
            self._layout = {key: (shape, dtype.str) for key, (shape, dtype) in layout.items()}
            self._all_or_raise(self._connect(range(num_workers)))
        except BaseException:
            self.close()
            raise
        self.arrays: Mapping[str, NDArray[Any]] = self._blocks[1].arrays

    def call(self, method: str, arguments: dict[int, Any]) -> dict[int, Any]:
        """Call ``reset`` or ``step`` of `Share` with one argument per environment.

        Returns:
            By environment, the answer or an `EnvFailure`; also of environments that were not
            called and were lost with their process.
        """
        by_slot: dict[int, dict[int, Any]] = {}
        for index, argument in arguments.items():
            by_slot.setdefault(self._owner[index], {})[index] = argument
        merged = self._revive([slot for slot in by_slot if slot not in self._workers])
        sent = {slot: share for slot, share in by_slot.items() if slot in self._workers}
        for slot, argument in sent.items():
            with contextlib.suppress(BrokenPipeError):  # the wait for its answer reports its end
                self._workers[slot].connection.send((method, argument))
        doing = {"step": "stepped"}.get(method, method)
        for slot, answer in self._answers(sent):
            if isinstance(answer, WorkerGoneError):
                merged |= self._lost(slot, answer.reason, doing, list(sent[slot]))
                continue
            merged |= answer
            for index, value in answer.items():
                if isinstance(value, EnvFailure):
                    self._healthy[slot].discard(index)
                else:
                    self._healthy[slot].add(index)
            if not self._healthy[slot]:
                self._end(slot)
        return merged

    def close(self) -> None:
        """Close the environments and free what they used."""
        self._release()

    def _answers(self, slots: Iterable[int]) -> Iterator[tuple[int, Any]]:
        waiting = {slot: self._workers[slot] for slot in slots}
        return receive_any(waiting, timeout_s=self._timeout_s)

    def _start(self, slots: Iterable[int]) -> dict[int, Any]:
        """Start processes and return, by slot, the specifications or what went wrong."""
        slots = list(slots)
        busy = self._blocks[0]
        for slot in slots:
            share = self._shares[slot]
            busy.arrays["busy"][slot] = share[0]
            arguments = (self._env_fn, share[0], len(share), busy.name, slot)
            self._workers[slot] = start_worker(serve_share, *arguments)
            self._healthy[slot] = set(share)
        return self._checked(self._answers(slots), "built")

    def _connect(self, slots: Iterable[int]) -> dict[int, Any]:
        """Tell processes where observations go, and return what went wrong by slot."""
        slots = list(slots)
        for slot in slots:
            with contextlib.suppress(BrokenPipeError):
                connection = self._workers[slot].connection
                connection.send(("attach", (self._blocks[1].name, self._layout)))
        return self._checked(self._answers(slots), "connected")

    def _checked(self, answers: Iterable[tuple[int, Any]], doing: str) -> dict[int, Any]:
        return {
            slot: self._gone(slot, answer.reason, doing)
            if isinstance(answer, WorkerGoneError)
            else answer
            for slot, answer in answers
        }

    def _all_or_raise(self, outcomes: Mapping[int, Any]) -> dict[int, EnvSpec]:
        specs: dict[int, EnvSpec] = {}
        for slot in sorted(outcomes):
            outcome = outcomes[slot]
            if isinstance(outcome, EnvFailure):
                raise WorkerError(
                    outcome.summary, env_index=outcome.env_index, traceback=outcome.traceback
                )
            if isinstance(outcome, Exception):
                raise outcome
            specs |= outcome or {}
        return specs

    def _revive(self, slots: Sequence[int]) -> dict[int, Any]:
        """Start ended processes again and return the environments for which that failed."""
        outcomes = self._start(slots)
        healthy = [slot for slot, outcome in outcomes.items() if isinstance(outcome, dict)]
        outcomes |= self._connect(healthy)
        failed: dict[int, EnvFailure] = {}
        for slot, outcome in outcomes.items():
            if outcome is None:  # connected
                continue
            if isinstance(outcome, Exception):
                first = self._shares[slot][0]
                summary = f"environment {first} could not be built again: {outcome}"
                outcome = EnvFailure(first, summary, "\n".join(getattr(outcome, "__notes__", [])))
            self._end(slot)
            failed |= self._everyone(slot, outcome)
        return failed

    def _gone(self, slot: int, reason: str, doing: str) -> EnvFailure:
        index = int(self._blocks[0].arrays["busy"][slot])
        return EnvFailure(
            index, f"the worker process {reason} while environment {index} was being {doing}"
        )

    def _lost(self, slot: int, reason: str, doing: str, called: list[int]) -> dict[int, EnvFailure]:
        self._end(slot)
        failure = self._gone(slot, reason, doing)
        if failure.env_index not in called:  # it ended between two calls
            failure = EnvFailure(
                called[0], f"the worker process of environment {called[0]} {reason}"
            )
        return self._everyone(slot, failure)

    def _everyone(self, slot: int, failure: EnvFailure) -> dict[int, EnvFailure]:
        """Return a failure for each environment of a lost process."""
        summary = f"lost with its worker process: {failure.summary}"
        others = {index: EnvFailure(index, summary, bystander=True) for index in self._shares[slot]}
        return others | {failure.env_index: failure}

    def _end(self, slot: int) -> None:
        stop_workers([self._workers.pop(slot)], grace_s=0.0)


def _release(workers: dict[int, Worker], blocks: list[ArrayBlock]) -> None:
    stop_workers(list(workers.values()))
    for block in blocks:
        block.close()
