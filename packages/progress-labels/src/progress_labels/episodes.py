"""Episodes together with their labels, as value models train on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from progress_labels.dataset import EpisodeDataset
from progress_labels.errors import DatasetError
from progress_labels.labels import LABEL_FILE, read_labels
from progress_labels.lerobot import CAMERA_PREFIX


class LabeledEpisodes(Sequence[dict[str, Any]]):
    """Episodes of a LeRobot v3 dataset with progress, under LeRobot's key names.

    Each item is a dict: ``observation.images.<camera>`` uint8 ``(t, h, w, 3)`` RGB; ``task`` str;
    ``episode_index`` int; ``success`` bool; ``progress`` float32 ``(t,)`` in [0, 1], NaN where it
    is not known; ``stage`` int64 ``(t,)``, −1 where it is not known. Frames are decoded on access.
    Episodes without frames are left out; ``episode_index`` keeps the dataset's numbers.

    Args:
        root: Root folder of the dataset.
        labels: Label file; ``<root>/feat2go_progress.parquet`` when None.
        camera: Camera to decode; the first one when None.

    Raises:
        DatasetError: If the dataset or the label file cannot be read, or they do not fit together.
    """

    def __init__(
        self, root: str | Path, labels: str | Path | None = None, *, camera: str | None = None
    ) -> None:
        self.dataset = EpisodeDataset(root, camera=camera)
        path = self.dataset.root / LABEL_FILE if labels is None else Path(labels)
        self._labels = read_labels(path)
        self._positions: list[int] = []
        for position, files in enumerate(self.dataset.all_files()):
            if files.length == 0:
                continue  # `label_dataset` named it; the label file has no row of it
            label = self._labels.get(files.episode_index)
            if label is None or len(label.progress) != files.length:
                found = "none" if label is None else len(label.progress)
                raise DatasetError(
                    f"{path} does not fit {root}: episode {files.episode_index} has {files.length} "
                    f"frames, labels: {found}. Label the dataset again."
                )
            self._positions.append(position)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, position: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        """Decode one episode and add its labels."""
        episode = self.dataset[self._positions[position]]
        label = self._labels[episode["episode_index"]]
        return {
            CAMERA_PREFIX + self.dataset.camera: episode["frames"],
            "task": episode["task"],
            "episode_index": episode["episode_index"],
            "success": episode["success"],
            "progress": torch.from_numpy(label.progress),
            "stage": torch.from_numpy(label.stage).long(),
        }
