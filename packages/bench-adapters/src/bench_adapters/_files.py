"""Files that are either complete or not there."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PART_SUFFIX = ".part"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{PART_SUFFIX}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically."""
    with replacing(path) as temporary, temporary.open("w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it is not JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); restore it or remove it and start again"
        ) from error


def require_writable(folder: Path) -> None:
    """Create ``folder`` and check that files can be made in it.

    Raises:
        PermissionError: If that is not possible; the message names the folder.
    """
    probe = folder / f".writable{PART_SUFFIX}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"cannot write to {folder} ({error.strerror}); choose another folder"
        ) from error
