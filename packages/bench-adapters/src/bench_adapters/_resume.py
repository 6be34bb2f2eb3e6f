"""Finding out how far a recording has come."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench_adapters import _lerobot as lerobot
from bench_adapters._files import PART_SUFFIX, read_json
from bench_adapters._lerobot import EpisodeRow
from bench_adapters._schema import Schema

RECORDING = "meta/recording.json"
"""Marks a folder as written by `DatasetRecorder`; ``meta/info.json`` alone may be anybody's."""
SCHEMA_VERSION = 1


class Progress(NamedTuple):
    """What is on disk."""

    rows: list[EpisodeRow]
    tasks: list[str]
    labels: dict[str, list[str]]
    num_files: int


def digest(*arrays: NDArray[Any]) -> str:
    """Return what tells a source from another one: put into provenance, it keeps them apart."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(array.tobytes())
    return content.hexdigest()[:16]


def read_progress(
    root: Path, *, provenance: Mapping[str, Any], schema: Schema, robot_type: str
) -> Progress:
    """Read the groups that were written completely and delete the leavings of an unfinished one.

    Args:
        root: Folder of the dataset.
        provenance: What the recording must have been made with.
        schema: What it must hold.
        robot_type: The robot it must have been recorded with.

    Raises:
        FileExistsError: If ``root`` was not written by this recorder.
        ValueError: If provenance, features or schema version differ, or a file is missing or
            damaged.
    """
    if not (root / RECORDING).exists():
        raise FileExistsError(
            f"{root} is not empty and holds no recording to continue; choose another folder"
        )
    recording = read_json(root / RECORDING)
    if recording.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{root / RECORDING} has schema version {recording.get('schema_version')!r}, this "
            f"release writes {SCHEMA_VERSION}; record into another folder"
        )
    if recording["provenance"] != dict(provenance):
        raise ValueError(
            f"{root} was recorded with {recording['provenance']}, not {dict(provenance)}; repeat "
            f"the old settings or record into another folder"
        )
    _require_same_robot(root, schema, robot_type)
    cameras = list(schema.cameras)
    features = list(schema.features)
    rows: list[EpisodeRow] = []
    num_files = 0
    while (path := root / lerobot.file_path(lerobot.EPISODES_PATH, num_files)).exists():
        group = lerobot.read_episode_table(path, file=num_files, features=features)
        _require_complete(root, num_files, num_frames=sum(r.length for r in group), cameras=cameras)
        rows += group
        num_files += 1
    _remove_leavings(root, num_files, cameras)
    tasks: list[str] = []
    if num_files:
        tasks = lerobot.read_parquet(root / "meta/tasks.parquet")["task"].to_pylist()
    return Progress(rows, tasks, recording["labels"], num_files)


def _require_same_robot(root: Path, schema: Schema, robot_type: str) -> None:
    path = root / "meta/info.json"
    if not path.exists():  # stopped right after the start
        return
    info = read_json(path)
    settings = {"fps": schema.fps, "robot_type": robot_type}
    for name, ours in settings.items():
        if info.get(name) != ours:
            raise ValueError(
                f"{root} was recorded with {name} {info.get(name)!r}, not {ours!r}; record into "
                f"another folder"
            )
    schema.require_equal(info["features"], str(root))


def _require_complete(root: Path, file: int, *, num_frames: int, cameras: Sequence[str]) -> None:
    data = root / lerobot.file_path(lerobot.DATA_PATH, file)
    try:
        stored = pq.read_metadata(data).num_rows
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{data} is missing or not a complete parquet file ({error}); restore it, or record "
            f"into an empty folder"
        ) from error
    if stored != num_frames:
        raise ValueError(
            f"{data} holds {stored} frames, but meta/episodes lists {num_frames}; restore it, or "
            f"record into an empty folder"
        )
    for camera in cameras:
        video = root / lerobot.file_path(lerobot.VIDEO_PATH, file, video_key=camera)
        if not video.exists():
            raise ValueError(f"{video} is missing; restore it, or record into an empty folder")


def _remove_leavings(root: Path, num_files: int, cameras: Sequence[str]) -> None:
    for part in root.rglob(f".*{PART_SUFFIX}"):
        part.unlink()
    # Only the group after the last committed one can have been begun.
    (root / lerobot.file_path(lerobot.DATA_PATH, num_files)).unlink(missing_ok=True)
    for camera in cameras:
        video = root / lerobot.file_path(lerobot.VIDEO_PATH, num_files, video_key=camera)
        video.unlink(missing_ok=True)
