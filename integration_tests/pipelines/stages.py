"""Run a pipeline stage once: finished stages are reused, interrupted ones are continued."""

import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integration_tests.pipelines.files import write_whole

Result = dict[str, Any]


class StageError(RuntimeError):
    """The output folder cannot be used; the message says what to do."""


@contextmanager
def alone(path: Path, *, wait: bool) -> Iterator[None]:
    """Keep other processes from making the same thing at the same time.

    Args:
        path: Of the lock file; its folder is made. The lock ends with its process at the latest.
        wait: For the other one to finish.

    Raises:
        StageError: If another process holds the lock and this one shall not wait, or the folder
            cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise StageError(
                f"another process works in {str(path.parent)!r}; wait for it, or choose another "
                "--out"
            ) from error
        yield


def interrupt_on_sigterm() -> None:
    """Let a scheduler's SIGTERM stop this process as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _not_writable(folder: Path, error: OSError) -> StageError:
    return StageError(
        f"cannot write to the output folder {str(folder)!r} ({error}); choose another by --out"
    )


def _digest(settings: Any) -> str:
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Stages:
    """The stages of one run, each with a folder and, when it is finished, a ``done.json``.

    A stage's fingerprint covers its own settings and those of every stage before it, so that a
    folder made with other settings is never mistaken for this run's.

    Args:
        out: Folder of the run; created when it does not exist.
        basis: What every stage depends on besides, JSON-serialisable.

    Raises:
        StageError: If ``out`` cannot be written.
    """

    def __init__(self, out: Path, basis: Any = None) -> None:
        self.out = out
        self._fingerprint = "" if basis is None else _digest(basis)
        self.folders: dict[str, Path] = {}
        self.results: dict[str, Result] = {}
        self.seconds: dict[str, float] = {}
        try:
            out.mkdir(parents=True, exist_ok=True)
            probe = out / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise _not_writable(out, error) from error

    def run(self, name: str, settings: Any, work: Callable[[Path], Result]) -> Result:
        """Do ``work`` in the stage's folder, unless a run with these settings has done it.

        Args:
            name: Stage name, part of the folder's name.
            settings: What the stage depends on, JSON-serialisable.
            work: Gets the folder, returns a JSON-serialisable result; called again after an
                interruption, it continues from what it finds there.

        Returns:
            The stage's result.

        Raises:
            StageError: If the folder holds a stage of other settings or an unreadable record.
        """
        self._fingerprint = _digest([self._fingerprint, name, settings])
        number = len(self.folders) + 1
        folder = self.folders[name] = self.out / f"{number}-{name}"
        record, done = folder / "stage.json", folder / "done.json"
        if record.exists():
            self._check(record, settings)
        else:
            folder.mkdir(exist_ok=True)
            self._write(record, {"fingerprint": self._fingerprint, "settings": settings})
        if done.exists():
            finished = self._read(done)
            print(f"[{number}] {name}: reused", flush=True)
        else:
            print(f"[{number}] {name} …", flush=True)
            start = time.perf_counter()
            finished = {"result": work(folder), "seconds": time.perf_counter() - start}
            self._write(done, finished)
        self.results[name], self.seconds[name] = finished["result"], finished["seconds"]
        return self.results[name]

    def _check(self, record: Path, settings: Any) -> None:
        found = self._read(record)
        if found.get("fingerprint") != self._fingerprint:
            raise StageError(
                f"{str(record.parent)!r} was made with other settings "
                f"({found.get('settings')!r}, now {settings!r}, or an earlier stage differs); "
                "remove it or choose another --out"
            )

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StageError(
                f"{str(path)!r} cannot be read ({error}); remove its folder to redo the stage"
            ) from error
        return content

    @staticmethod
    def _write(path: Path, content: dict[str, Any]) -> None:
        write_whole(path, json.dumps(content, indent=2, default=str) + "\n")
