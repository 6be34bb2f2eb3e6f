"""Worker processes: starting, listening to and ending them, and the memory shared with them."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Layout = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape and dtype of each array of a block."""

# One thread per process: workers are the parallelism. Lavapipe (LP) would start one per core; at 0
# it draws in the thread that asks, which on a busy machine halves the wait for a frame.
_THREAD_LIMITS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",
}


class Worker(NamedTuple):
    """A process and the parent's end of its pipe."""

    process: Any
    connection: Connection


class WorkerGoneError(Exception):
    """A worker died or did not answer in time.

    Attributes:
        worker: Its index.
        reason: What happened to it, to follow "the worker process".
    """

    def __init__(self, worker: int, reason: str) -> None:
        super().__init__(reason)
        self.worker = worker
        self.reason = reason


class ArrayBlock:
    """Named arrays in one piece of shared memory.

    Args:
        layout: What the block holds.
        name: Attach to the block of this name in place of creating one.
    """

    def __init__(self, layout: Layout, name: str | None = None) -> None:
        offsets, total = {}, 0
        for key, (shape, dtype) in layout.items():
            offsets[key] = total
            total += -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64  # keep arrays aligned
        self._memory = SharedMemory(name=name, create=name is None, size=max(total, 1))
        self._owner = name is None
        self.name = self._memory.name
        self.arrays: dict[str, NDArray[Any]] = {
            key: np.ndarray(shape, dtype, self._memory.buf, offsets[key])
            for key, (shape, dtype) in layout.items()
        }

    def close(self) -> None:
        """Detach, and free the memory where this object created it."""
        self.arrays.clear()
        with contextlib.suppress(BufferError):  # a view lives on; unlinking still frees the name
            self._memory.close()
        if self._owner:
            self._owner = False
            self._memory.unlink()


def start_worker(target: Callable[..., None], *args: Any) -> Worker:
    """Spawn a process that runs ``target(connection, *args)``.

    Raises:
        ValueError: If the arguments cannot be pickled.
    """
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_run, args=(target, child_end, *args), daemon=True)
    try:
        with _limited_threads(), _interrupts_held():
            process.start()
    except (AttributeError, TypeError, ImportError) as error:
        raise _not_picklable(error) from error
    except Exception as error:
        if "pickle" not in f"{type(error).__name__} {error}".lower():
            raise
        raise _not_picklable(error) from error
    finally:
        child_end.close()
    return Worker(process, parent_end)


def _not_picklable(error: Exception) -> ValueError:
    return ValueError(
        f"worker processes need an environment factory that can be pickled, such as a function of "
        f"a module or a functools.partial of one ({error}); or use `num_workers=0`"
    )


def _run(target: Callable[..., None], connection: Connection, *args: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # The parent has gone when the pipe breaks: nothing is left to do.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        target(connection, *args)


@contextlib.contextmanager
def _limited_threads() -> Iterator[None]:
    """Set the limits where a spawned process finds them before its first import."""
    before = {name: os.environ.get(name) for name in _THREAD_LIMITS}
    os.environ.update(_THREAD_LIMITS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block Ctrl-C, which a spawned process inherits until it ignores it for good."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def receive_any(workers: Mapping[int, Worker], *, timeout_s: float) -> Iterator[tuple[int, Any]]:
    """Yield the next message of each worker, in the order of arrival.

    A worker that died yields a `WorkerGoneError`, as do those that have not answered in time.

    Args:
        workers: The workers that owe an answer, by index.
        timeout_s: How long the slowest may take, in seconds.
    """
    waiting = dict(workers)
    deadline = time.monotonic() + timeout_s
    while waiting:
        handles = {w.connection: i for i, w in waiting.items()}
        handles |= {w.process.sentinel: i for i, w in waiting.items()}
        ready = wait(list(handles), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            for index in waiting:
                yield index, WorkerGoneError(index, f"did not answer for {timeout_s:g} s")
            return
        for index in sorted({handles[handle] for handle in ready}):  # type: ignore[index]
            worker = waiting.pop(index)
            try:
                # A message may be left in the pipe of a worker that has exited.
                message = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                worker.process.join(timeout=5.0)
                message = WorkerGoneError(index, _how_it_ended(worker.process.exitcode))
            yield index, message


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    hint = ""
    if exit_code == 1:
        hint = " (a script that starts workers needs `if __name__ == '__main__':`)"
    return f"exited with code {exit_code}{hint}"


def stop_workers(workers: Sequence[Worker], *, grace_s: float = 2.0) -> None:
    """Close the pipes, give the processes ``grace_s`` seconds in all to end, then end them."""
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + grace_s
    for worker in workers:
        worker.process.join(timeout=max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.terminate()
            worker.process.join(timeout=1.0)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
