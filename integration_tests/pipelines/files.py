"""Files that are whole or not there, and what a result file says of its making."""

import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

DISTRIBUTIONS = (
    "progress-labels",
    "value-models",
    "vla-rl",
    "bench-adapters",
    "mani_skill",
    "torch",
)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name of this process and rename it."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def provenance(command: str, seed: int) -> dict[str, Any]:
    """Return what it takes to make a result again: command, seed, date and package versions."""
    return {
        "command": command,
        "seed": seed,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in DISTRIBUTIONS},
    }
