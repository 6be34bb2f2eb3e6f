"""Writes episodes as a LeRobotDataset v3.0, a few episodes per file."""

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench_adapters import _lerobot as lerobot
from bench_adapters._files import require_writable, write_json
from bench_adapters._lerobot import EpisodeRow
from bench_adapters._resume import RECORDING, SCHEMA_VERSION, read_progress
from bench_adapters._schema import Schema
from bench_adapters.functional.statistics import Stats, feature_stats, image_stats, merge_stats
from bench_adapters.video import VideoWriter

__all__ = ["DatasetRecorder"]

_MAX_BUFFERED_BYTES = 256 * 2**20


class _Episode(NamedTuple):
    """An episode that waits to be written."""

    row: EpisodeRow
    columns: dict[str, NDArray[Any]]
    images: dict[str, NDArray[np.uint8]]


class DatasetRecorder:
    """Appends episodes to a LeRobotDataset v3.0.

    Episodes are written in groups. Within a group videos and data come first and the group's
    ``meta/episodes`` file last, each under its final name only when complete: whenever the process
    stops, the folder is a dataset of the groups written so far, and ``resume=True`` continues it.
    Leaving the ``with`` block, by an exception too, writes the episodes that wait for their group.

    Args:
        root: Folder of the dataset; new or empty, unless ``resume``.
        fps: Frames per second.
        cameras: Height and width in pixels, both even, by camera name.
        state_dim: Size of ``observation.state``.
        action_dim: Size of ``action``.
        robot_type: Name of the robot.
        extra_features: Further columns with one value per frame and their type: ``float32``,
            ``int64``, ``bool``, or ``label`` for strings that are stored as int64 and listed under
            the feature's ``labels`` in ``meta/info.json``.
        provenance: JSON-able facts (or paths) on how the episodes are made. A resumed recording
            must repeat them.
        episodes_per_file: Size of a group; a group of more than 256 MiB of frames is written early.
        resume: Continue the dataset in ``root`` if there is one.

    Raises:
        FileExistsError: If ``root`` holds something and ``resume`` is off, or something else than
            a dataset of this recorder.
        PermissionError: If ``root`` cannot be written.
        ValueError: If an argument is out of range, differs from the dataset to continue, or that
            dataset is damaged.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        fps: int,
        cameras: Mapping[str, tuple[int, int]],
        state_dim: int,
        action_dim: int,
        robot_type: str = "unknown",
        extra_features: Mapping[str, str] | None = None,
        provenance: Mapping[str, Any] | None = None,
        episodes_per_file: int = 10,
        resume: bool = False,
    ) -> None:
        if episodes_per_file < 1:
            raise ValueError(f"Expected positive `episodes_per_file`, got {episodes_per_file}.")
        self.root = Path(root)
        self.robot_type = robot_type
        self.schema = Schema(
            fps=fps,
            cameras=cameras,
            state_dim=state_dim,
            action_dim=action_dim,
            extra_features=extra_features or {},
        )
        # As it comes back from disk, so that a tuple or a path equals itself.
        self._provenance = json.loads(json.dumps(dict(provenance or {}), default=os.fspath))
        self._episodes_per_file = episodes_per_file
        self._tasks: list[str] = []
        self._rows: list[EpisodeRow] = []
        self._stats: dict[str, Stats] = {}
        self._num_files = 0
        self._waiting: list[_Episode] = []
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            if not resume:
                raise FileExistsError(
                    f"{self.root} is not empty; choose another folder, or resume its recording"
                )
            self._continue()
        require_writable(self.root)
        self._write_recording()
        self._write_totals()

    @property
    def num_episodes(self) -> int:
        """Episodes in the dataset, including those that wait for their group."""
        return len(self._rows) + len(self._waiting)

    @property
    def num_frames(self) -> int:
        """Frames in the dataset, including those that wait for their group."""
        rows = [*self._rows[-1:], *(episode.row for episode in self._waiting[-1:])]
        return rows[-1].first_frame + rows[-1].length if rows else 0

    @property
    def episodes(self) -> list[EpisodeRow]:
        """Index, length, task, seed, outcome and place of every episode."""
        return self._rows + [episode.row for episode in self._waiting]

    def add_episode(
        self,
        frames: Mapping[str, NDArray[np.uint8]],
        *,
        state: NDArray[np.float32],
        action: NDArray[np.float32],
        reward: NDArray[np.float32],
        success: NDArray[np.bool_],
        done: NDArray[np.bool_],
        task: str,
        seed: int,
        failure: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one episode of ``t`` steps.

        Row i holds what was observed before action i, and what the action led to.

        Args:
            frames: ``(t, h, w, 3)`` RGB by camera name.
            state: ``(t, p)``.
            action: ``(t, a)``.
            reward: ``(t,)``, after the action.
            success: ``(t,)``, whether the state after the action is a success.
            done: ``(t,)``, true where the action ended the episode.
            task: Instruction.
            seed: Seed of the episode.
            failure: What the episode was made to fail by, if anything.
            extra: ``(t,)`` values, or strings for labels, by name of the extra feature.

        Raises:
            ValueError: If a name, shape or dtype is not as announced or a number is not finite.
        """
        given = {
            "observation.state": state,
            "action": action,
            "next.reward": reward,
            "next.done": done,
            "next.success": success,
            **(extra or {}),
        }
        length = len(action)
        images = self.schema.images(frames, length)
        columns = self.schema.columns(given, length)
        if task not in self._tasks:
            self._tasks.append(task)
        columns |= self._index_columns(length, task)
        stats = {name: feature_stats(values) for name, values in columns.items()}
        stats |= {name: image_stats(array) for name, array in images.items()}
        row = EpisodeRow(
            episode_index=self.num_episodes,
            length=length,
            task=task,
            seed=int(seed),
            success=bool(columns["next.success"].any()),
            failure=failure,
            first_frame=self.num_frames,
            file=self._num_files,
            video_start=sum(episode.row.length for episode in self._waiting),
            stats=stats,
        )
        self._waiting.append(_Episode(row, columns, images))
        buffered = sum(a.nbytes for episode in self._waiting for a in episode.images.values())
        if len(self._waiting) >= self._episodes_per_file or buffered > _MAX_BUFFERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the episodes that wait for their group. Interrupted, it can be called again."""
        if not self._waiting:
            return
        rows = [episode.row for episode in self._waiting]
        for camera in self.schema.cameras:
            self._write_video(camera)
        columns = {
            name: np.concatenate([episode.columns[name] for episode in self._waiting])
            for name in self._waiting[0].columns
        }
        self._write_table(lerobot.DATA_PATH, lerobot.frame_table(columns))
        lerobot.write_parquet(self.root / "meta/tasks.parquet", lerobot.tasks_table(self._tasks))
        self._write_recording()
        cameras = list(self.schema.cameras)
        table = lerobot.episode_table(rows, cameras=cameras, fps=self.schema.fps)
        self._write_table(lerobot.EPISODES_PATH, table)
        # Committed: what follows can be worked out from the files above.
        self._waiting = []
        self._num_files += 1
        self._take(rows)
        self._write_totals()

    def close(self) -> None:
        """Write what waits, and put exact quantiles in place of the running approximation."""
        self.flush()
        if not self._rows:
            return
        paths = [lerobot.file_path(lerobot.DATA_PATH, file) for file in range(self._num_files)]
        data = pa.concat_tables([lerobot.read_parquet(self.root / path) for path in paths])
        for name in data.column_names:
            self._stats[name] = feature_stats(lerobot.column_values(data[name]))
        self._write_totals()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _continue(self) -> None:
        progress = read_progress(
            self.root,
            provenance=self._provenance,
            schema=self.schema,
            robot_type=self.robot_type,
        )
        self._tasks, self._num_files = progress.tasks, progress.num_files
        self.schema.labels = progress.labels
        # Group by group, as they were written: sums round the same way.
        for _, group in itertools.groupby(progress.rows, key=lambda row: row.file):
            self._take(list(group))

    def _take(self, rows: list[EpisodeRow]) -> None:
        """Count ``rows`` as written."""
        for name in rows[0].stats:
            parts = [row.stats[name] for row in rows]
            self._stats[name] = merge_stats([*filter(None, [self._stats.get(name)]), *parts])
        self._rows += [row._replace(stats={}) for row in rows]

    def _index_columns(self, length: int, task: str) -> dict[str, NDArray[Any]]:
        steps = np.arange(length)
        return {
            "timestamp": (steps / self.schema.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, self.num_episodes),
            "index": self.num_frames + steps,
            "task_index": np.full(length, self._tasks.index(task)),
        }

    def _write_video(self, camera: str) -> None:
        path = lerobot.file_path(lerobot.VIDEO_PATH, self._num_files, video_key=camera)
        height, width = self.schema.cameras[camera]
        writer = VideoWriter(self.root / path, fps=self.schema.fps, height=height, width=width)
        try:
            for episode in self._waiting:
                writer.write(episode.images[camera])
            writer.finish()
        except BaseException:
            writer.discard()
            raise

    def _write_table(self, template: str, table: pa.Table) -> None:
        lerobot.write_parquet(self.root / lerobot.file_path(template, self._num_files), table)

    def _write_recording(self) -> None:
        write_json(
            self.root / RECORDING,
            {
                "schema_version": SCHEMA_VERSION,
                "provenance": self._provenance,
                "labels": self.schema.labels,
            },
        )

    def _write_totals(self) -> None:
        stats = {
            name: {key: np.asarray(values).tolist() for key, values in self._stats[name].items()}
            for name in self.schema.features
            if name in self._stats
        }
        write_json(self.root / "meta/stats.json", stats)
        info = lerobot.info(
            self._rows,
            fps=self.schema.fps,
            robot_type=self.robot_type,
            num_tasks=len(self._tasks),
            features=self.schema.described(),
        )
        write_json(self.root / "meta/info.json", info)
