"""The files of a LeRobotDataset v3.0: their paths, schemas and metadata."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench_adapters._files import replacing
from bench_adapters.functional.statistics import Stats

CODEBASE_VERSION = "v3.0"
FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
STAT_NAMES = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")
INDEX_FEATURES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
OUTCOME_FEATURES = {"next.reward": "float32", "next.done": "bool", "next.success": "bool"}


class EpisodeRow(NamedTuple):
    """One row of ``meta/episodes``."""

    episode_index: int
    length: int
    task: str
    seed: int
    success: bool
    failure: str
    first_frame: int
    """Index of the first frame in the whole dataset."""
    file: int
    """Running number of the data, video and metadata file that holds the episode."""
    video_start: int
    """Frames that precede the episode in its video file."""
    stats: Mapping[str, Stats]


def file_path(template: str, file: int, **names: str) -> str:
    """Return the path of the ``file``-th file of a kind, relative to the dataset."""
    chunk_index, file_index = divmod(file, FILES_PER_CHUNK)
    return template.format(chunk_index=chunk_index, file_index=file_index, **names)


def scalar_feature(dtype: str) -> dict[str, Any]:
    """Describe a feature with one number per frame."""
    return {"dtype": dtype, "shape": [1], "names": None}


def vector_feature(size: int) -> dict[str, Any]:
    """Describe a feature with ``size`` float32 numbers per frame."""
    return {"dtype": "float32", "shape": [size], "names": None}


def video_feature(height: int, width: int, fps: int) -> dict[str, Any]:
    """Describe a camera."""
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.channels": 3,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "has_audio": False,
        },
    }


def frame_table(columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Build a data table; ``(t, d)`` columns become fixed-size lists."""
    arrays = {}
    for name, values in columns.items():
        if values.ndim == 1:
            arrays[name] = pa.array(values)
        else:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(arrays)


def column_values(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of a data table, ``(t,)`` or ``(t, d)``."""
    values = column.combine_chunks()
    vectors = pa.types.is_fixed_size_list(values.type)
    flat = values.flatten() if vectors else values
    array: NDArray[np.float64] = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    return array.reshape(len(values), -1) if vectors else array


def episode_table(rows: Sequence[EpisodeRow], *, cameras: Sequence[str], fps: int) -> pa.Table:
    """Build the ``meta/episodes`` table; ``seed``, ``success`` and ``failure`` are our own."""
    return pa.Table.from_pylist([_episode_record(row, cameras=cameras, fps=fps) for row in rows])


def _episode_record(row: EpisodeRow, *, cameras: Sequence[str], fps: int) -> dict[str, Any]:
    chunk_index, file_index = divmod(row.file, FILES_PER_CHUNK)
    place = {"chunk_index": chunk_index, "file_index": file_index}
    record: dict[str, Any] = {
        "episode_index": row.episode_index,
        "tasks": [row.task],
        "length": row.length,
        "seed": row.seed,
        "success": row.success,
        "failure": row.failure,
        "dataset_from_index": row.first_frame,
        "dataset_to_index": row.first_frame + row.length,
        **{f"data/{key}": value for key, value in place.items()},
        **{f"meta/episodes/{key}": value for key, value in place.items()},
    }
    for camera in cameras:
        record |= {f"videos/{camera}/{key}": value for key, value in place.items()}
        record[f"videos/{camera}/from_timestamp"] = row.video_start / fps
        record[f"videos/{camera}/to_timestamp"] = (row.video_start + row.length) / fps
    for feature, stats in row.stats.items():
        for name in STAT_NAMES:
            values = stats[name].astype(int) if name == "count" else stats[name]
            record[f"stats/{feature}/{name}"] = values.tolist()
    return record


def read_episode_table(path: Path, *, file: int, features: Sequence[str]) -> list[EpisodeRow]:
    """Read back what `episode_table` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    records = read_parquet(path).to_pylist()
    rows, video_start = [], 0
    for record in records:
        stats = {
            feature: {
                name: np.array(record[f"stats/{feature}/{name}"], np.float64) for name in STAT_NAMES
            }
            for feature in features
        }
        rows.append(
            EpisodeRow(
                record["episode_index"],
                record["length"],
                record["tasks"][0],
                record["seed"],
                record["success"],
                record["failure"],
                record["dataset_from_index"],
                file,
                video_start,
                stats,
            )
        )
        video_start += record["length"]
    return rows


def info(
    rows: Sequence[EpisodeRow],
    *,
    fps: int,
    robot_type: str,
    num_tasks: int,
    features: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of ``meta/info.json``."""
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": robot_type,
        "total_episodes": len(rows),
        "total_frames": sum(row.length for row in rows),
        "total_tasks": num_tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": dict(features),
    }


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Build ``meta/tasks.parquet``: LeRobot reads it through pandas, with ``task`` as the index."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": list(tasks)})
    columns = [
        {
            "name": name,
            "field_name": name,
            "pandas_type": pandas_type,
            "numpy_type": numpy_type,
            "metadata": None,
        }
        for name, pandas_type, numpy_type in [
            ("task_index", "int64", "int64"),
            ("task", "unicode", "object"),
        ]
    ]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": columns,
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write ``table``, atomically."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path) -> pa.Table:
    """Read a parquet file.

    Raises:
        ValueError: If it is missing or damaged; the message names it.
    """
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is missing or not a complete parquet file ({error}); restore it, or record "
            f"into an empty folder"
        ) from error
