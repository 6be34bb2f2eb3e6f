"""The finished waves of an evaluation, on disk."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_adapters._files import replacing, require_writable, write_json
from bench_adapters.types import EpisodeError, EpisodeResult, EvaluationResult

Record = EpisodeResult | EpisodeError
"""How an episode went, or why it could not be run."""


def as_record(content: dict[str, Any]) -> Record:
    """Turn a line of the journal back into what it was."""
    return EpisodeError(**content) if "message" in content else EpisodeResult(**content)


class Journal:
    """Appends waves to ``<out>.partial.jsonl`` until the result is complete.

    Args:
        out: File of the result.
        header: What a run must have in common with the one that it continues.

    Raises:
        FileExistsError: If ``out`` exists.
        PermissionError: If its folder cannot be written to.
        ValueError: If the journal is damaged or was begun with another header.
    """

    def __init__(self, out: Path, header: dict[str, Any]) -> None:
        self._out = out
        self._path = out.with_name(f"{out.name}.partial.jsonl")
        if out.exists():
            raise FileExistsError(f"{out} exists; remove it or choose another file")
        require_writable(out.parent)
        self.waves = self._load(header) if self._path.exists() else {}
        """Complete waves without an error, by the number of their first episode."""
        with replacing(self._path) as temporary, temporary.open("w") as file:
            file.write(json.dumps(header) + "\n")
            for wave in self.waves.values():
                file.writelines(json.dumps(record._asdict()) + "\n" for record in wave)

    def append(self, wave: Sequence[Record]) -> None:
        """Add the episodes of a wave."""
        with self._path.open("a") as file:
            file.writelines(json.dumps(record._asdict()) + "\n" for record in wave)
            file.flush()
            os.fsync(file.fileno())

    def finish(self, result: EvaluationResult) -> None:
        """Write the result and drop the journal."""
        content = result._asdict() | {
            "episodes": [episode._asdict() for episode in result.episodes],
            "errors": [error._asdict() for error in result.errors],
        }
        write_json(self._out, content)
        self._path.unlink()

    def _load(self, header: dict[str, Any]) -> dict[int, list[Record]]:
        """Read the waves; one that was cut off or lost an episode to its simulator is run again."""
        complete, newline, _ = self._path.read_text().rpartition("\n")
        lines = complete.split("\n")
        try:
            found = json.loads(lines[0])
            records = [as_record(json.loads(line)) for line in lines[1:]]
        except (ValueError, TypeError) as error:
            if not newline:
                return {}
            raise ValueError(
                f"{self._path} is damaged ({error}); remove it to start again"
            ) from error
        if found != header:
            different = sorted(k for k in header if found.get(k) != header[k])
            raise ValueError(
                f"{self._path} was begun with other {', '.join(different)}; repeat the old "
                f"settings, or remove it to start again"
            )
        size, total = header["num_envs"], len(header["seeds"])
        waves: dict[int, list[Record]] = {}
        for record in records:
            waves.setdefault(record.episode // size * size, []).append(record)
        return {
            first: wave
            for first, wave in waves.items()
            if len(wave) == min(size, total - first)
            and all(isinstance(record, EpisodeResult) for record in wave)
        }
