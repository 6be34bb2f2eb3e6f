"""What a recording says of its frames beyond what a reader of labels passes on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from value_models.data import EpisodeSource

KNOWN_COLUMNS = ("primitive", "observation.state")


class RecordedEpisodes(Sequence[dict[str, Any]]):
    """Labelled episodes with more columns of the LeRobot v3 dataset that they come from.

    ``primitive`` becomes names, by the ``labels`` of the feature in ``meta/info.json``. Needs
    pyarrow, which the extra ``[data]`` brings.

    Args:
        episodes: The labelled episodes, such as ``progress_labels.episodes.LabeledEpisodes``.
        root: Folder of their dataset.
        columns: Of ``primitive`` and ``observation.state``.

    Raises:
        ValueError: If the dataset lacks a column, names no labels for primitives, or an episode
            has another number of frames.
    """

    def __init__(
        self,
        episodes: EpisodeSource,
        root: str | Path,
        *,
        columns: Sequence[str] = ("primitive",),
    ) -> None:
        self.episodes = episodes
        self.root = Path(root)
        self.columns = tuple(columns)
        unknown = sorted(set(self.columns) - set(KNOWN_COLUMNS))
        if unknown:
            raise ValueError(f"Expected `columns` among {list(KNOWN_COLUMNS)}, got {unknown}.")
        info = self.root / "meta" / "info.json"
        if not info.is_file():
            raise ValueError(f"No meta/info.json in {str(self.root)!r}: not a LeRobot dataset.")
        features = json.loads(info.read_text())["features"]
        for name in self.columns:
            if name not in features:
                raise ValueError(f"{str(self.root)!r} has no {name!r}; it has {sorted(features)}.")
        if "primitive" in self.columns and not features["primitive"].get("labels"):
            raise ValueError(f"{str(info)!r} has no `labels` that name the primitives.")
        self._labels = features.get("primitive", {}).get("labels", [])
        self._rows = self._read()

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: Any) -> Any:
        """One episode and its further columns."""
        episode = dict(self.episodes[index])
        number = int(episode["episode_index"])
        rows = self._rows.get(number, dict.fromkeys(self.columns, torch.empty(0)))
        length = next(len(v) for k, v in episode.items() if k.startswith("observation.images."))
        for name, values in rows.items():
            if len(values) != length:
                raise ValueError(
                    f"Expected {length} rows of episode {number} in {str(self.root)!r}, got "
                    f"{len(values)}: they are of another dataset."
                )
            known = name != "primitive"
            episode[name] = values if known else [self._labels[i] for i in values.tolist()]
        return episode

    def _read(self) -> dict[int, dict[str, Tensor]]:
        import pyarrow as pa  # an extra brings it
        import pyarrow.parquet as pq

        names = ["episode_index", "frame_index", *self.columns]
        paths = sorted(self.root.glob("data/*/*.parquet"))
        if not paths:
            raise ValueError(f"No data/*/*.parquet in {str(self.root)!r}: the dataset is empty.")
        table = pa.concat_tables([pq.read_table(path, columns=names) for path in paths])
        table = table.sort_by([("episode_index", "ascending"), ("frame_index", "ascending")])
        episode = torch.tensor(table["episode_index"].to_pylist())
        columns = {name: torch.tensor(table[name].to_pylist()) for name in self.columns}
        return {
            number: {name: values[episode == number] for name, values in columns.items()}
            for number in sorted(set(episode.tolist()))
        }
