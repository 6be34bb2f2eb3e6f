"""Recorded episodes of a LeRobot v3.0 or v2.1 dataset, one camera at a time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from progress_labels.errors import DatasetError
from progress_labels.lerobot import (
    CAMERA_PREFIX,
    EpisodeFiles,
    camera_names,
    check_parquet,
    column_matrix,
    decode_frames,
    read_episode_files,
    read_info,
    read_table,
    read_tasks,
)
from progress_labels.lerobot_v21 import read_episode_files_v21, read_tasks_v21
from progress_labels.types import Episode

_SUCCESS = "next.success"


class EpisodeDataset(Sequence[Episode]):
    """Episodes of a LeRobot v3.0 or v2.1 dataset, by index; frames are decoded on access.

    Opening checks that every file an episode needs is there and complete as far as headers tell.

    Args:
        root: Folder that holds ``meta``, ``data`` and ``videos``.
        camera: ``"wrist"`` or ``"observation.images.wrist"``; the first camera when None.
        check_videos: Refuse a dataset that lacks a video file. Without, only reading an episode
            that needs the file fails.

    Attributes:
        root: Folder of the dataset.
        cameras: Short names of all cameras stored as video.
        camera: Short name of the chosen one.
        fps: Frames per second.
        num_frames: Frames of all episodes.

    Raises:
        DatasetError: If a file is missing or damaged, the format version is another, or there is
            no such camera.
    """

    def __init__(
        self, root: str | Path, *, camera: str | None = None, check_videos: bool = True
    ) -> None:
        self.root = Path(root)
        info = read_info(self.root)
        self.cameras = camera_names(info)
        self.camera = self._choose(camera)
        self.fps = float(info["fps"])
        if str(info["codebase_version"]).startswith("v2"):
            self._tasks = read_tasks_v21(self.root)
            self._files = read_episode_files_v21(self.root, info, self.camera)
        else:
            self._tasks = read_tasks(self.root)
            self._files = read_episode_files(self.root, info, self.camera)
        self.num_frames = sum(files.length for files in self._files)
        self._columns = self._check_files(check_videos=check_videos)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: int) -> Episode:  # type: ignore[override]  # no slices
        """Read and decode one episode.

        Raises:
            DatasetError: If its rows or frames cannot be read.
        """
        files = self._files[position]
        wanted = ("index", "task_index", "observation.state", "action")
        table = self._rows(files, [name for name in wanted if name in self._columns])
        frames = decode_frames(files.video, start_s=files.start_s, count=files.length, fps=self.fps)
        return Episode(
            episode_index=files.episode_index,
            index=table["index"].to_numpy().astype(np.int64),
            frames=frames,
            state=torch.from_numpy(column_matrix(table, "observation.state")),
            action=torch.from_numpy(column_matrix(table, "action")),
            task=self.task(position),
            success=self.completion(position) is not None,
        )

    def files(self, position: int) -> EpisodeFiles:
        """Return where an episode lies: its index, first row, length, data and video files."""
        return self._files[position]

    def all_files(self) -> list[EpisodeFiles]:
        """Return where every episode lies, in order."""
        return list(self._files)

    def task(self, position: int) -> str:
        """Return the instruction of an episode.

        Raises:
            DatasetError: If its rows cannot be read or name no known task.
        """
        rows = self._rows(self._files[position], ["task_index"])["task_index"]
        number = rows[0].as_py() if len(rows) else None
        if number not in self._tasks:
            raise DatasetError(f"No task {number} in {self.root / 'meta'}.")
        return self._tasks[number]

    def check(self, position: int) -> None:
        """Check that an episode has frames and that its rows are numbered without a hole.

        Raises:
            DatasetError: If not.
        """
        files = self._files[position]
        if files.length < 1:
            raise DatasetError(f"Episode {files.episode_index} has no frames.")
        index = self._rows(files, ["index"])["index"].to_numpy()
        expected = files.first + np.arange(files.length)
        if not np.array_equal(np.sort(index), expected):
            wrong = int(np.sort(index)[np.sort(index) != expected][0])
            raise DatasetError(
                f"Episode {files.episode_index} should hold rows {expected[0]} … {expected[-1]} "
                f"of the dataset, but {files.data} has an `index` {wrong}: a hole or a duplicate."
            )

    def stamps(self) -> list[tuple[str, int, int]]:
        """Return name, size and time of change of the dataset's metadata and data files."""
        paths = [self.root / "meta" / "info.json", *sorted({f.data for f in self._files})]
        paths += sorted(self.root.glob("meta/episodes/*/*.parquet"))
        paths += sorted(self.root.glob("meta/*.jsonl"))
        return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.is_file()]

    def completion(self, position: int) -> int | None:
        """Return the frame at which the task was first done, None for a failed episode.

        A dataset without ``next.success`` holds demonstrations: done at the last frame. A null in
        that column reports no success.
        """
        files = self._files[position]
        if _SUCCESS not in self._columns:
            return files.length - 1
        success = column_matrix(self._rows(files, [_SUCCESS]), _SUCCESS)[:, 0]
        done = np.flatnonzero(success == 1.0)  # NaN, as nulls are read, would count as true
        return int(done[0]) if len(done) else None

    def _rows(self, files: EpisodeFiles, columns: list[str]) -> pa.Table:
        table = read_table(files.data, columns, episode=files.episode_index)
        if table.num_rows != files.length:
            raise DatasetError(
                f"{files.data} holds {table.num_rows} rows of episode {files.episode_index} where "
                f"meta/episodes says {files.length}; copy or record the dataset again."
            )
        return table

    def _choose(self, camera: str | None) -> str:
        if not self.cameras:
            raise DatasetError(f"{self.root / 'meta/info.json'} lists no camera stored as video.")
        name = self.cameras[0] if camera is None else camera.removeprefix(CAMERA_PREFIX)
        if name not in self.cameras:
            raise DatasetError(f"No camera {camera!r} in {self.root}; choose from {self.cameras}.")
        return name

    def _check_files(self, *, check_videos: bool) -> list[str]:
        columns: list[str] = []
        for path in dict.fromkeys(files.data for files in self._files):
            columns = check_parquet(path)
            for name in ("index", "episode_index", "task_index"):
                if name not in columns:
                    raise DatasetError(f"{path} has no column {name!r}; it has {columns}.")
        for path in dict.fromkeys(files.video for files in self._files if check_videos):
            if not path.is_file() or path.stat().st_size == 0:
                raise DatasetError(f"Missing or empty {path}; copy or record the dataset again.")
        return columns
