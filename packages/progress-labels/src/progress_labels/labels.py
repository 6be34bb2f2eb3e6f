"""Feat2Go progress labels of datasets, and the sidecar file that holds them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from progress_labels.cache import FeatureCache
from progress_labels.episode_labels import (
    LabelConfig,
    label_episode,
    unknown_labels,
)
from progress_labels.errors import DatasetError
from progress_labels.labeler import DatasetLabeler
from progress_labels.references import label_failure
from progress_labels.sidecar import (
    LABEL_FILE,
    LABELER,
    SARM_FILE,
    merge_shards,
    output_files,
    read_labels,
    read_problems,
    shard_file,
)
from progress_labels.types import EpisodeLabels, FrameEncoder

__all__ = [
    "LABELER",
    "LABEL_FILE",
    "SARM_FILE",
    "LabelConfig",
    "label_dataset",
    "label_episode",
    "label_failure",
    "merge_shards",
    "read_labels",
    "read_problems",
    "unknown_labels",
]


def label_dataset(
    root: str | Path,
    encoder: FrameEncoder,
    *,
    camera: str | Sequence[str] | None = None,
    config: LabelConfig | None = None,
    overwrite: bool = False,
    compat: Literal["sarm"] | None = None,
    progress_bar: bool = True,
    shard: tuple[int, int] | None = None,
    cache: str | Path | None = None,
) -> Path:
    """Label every episode of a LeRobot dataset and write the sidecar file.

    An episode that cannot be labelled (its video is damaged, it has no frames, nothing moves) gets
    unknown labels and is named with the reason in the file's metadata, see `read_problems`.

    Args:
        root: Root folder of the dataset.
        encoder: Turns frames into patch features, see `progress_labels.encoders.load_encoder`.
        camera: Camera to look at, or several to average over; the first one when None.
        config: Settings; defaults when None.
        overwrite: Replace existing label files.
        compat: ``"sarm"`` also writes the copy that LeRobot's RA-BC finds by itself; of shards,
            `merge_shards` writes it.
        progress_bar: Show one.
        shard: ``(i, n)`` labels every n-th episode from the i-th on, for `merge_shards`.
        cache: Folder for features, so that other settings do not cost a new encoding.

    Returns:
        The path of ``<root>/feat2go_progress.parquet``, or of the shard.

    Raises:
        DatasetError: If the dataset cannot be read, no episode can be labelled, label files exist
            without ``overwrite``, or the dataset changes meanwhile. Nothing is written then.
        ValueError: If ``shard`` is out of range, or comes with common stages or ``compat``.
    """
    if shard is not None and compat is not None:
        raise ValueError(
            f"Expected no `compat` with `shard`, got {compat!r}: one shard is no whole file. Pass "
            "it to `progress-labels merge --compat` (`merge_shards`) afterwards."
        )
    labeler = DatasetLabeler(
        root,
        encoder,
        camera=camera,
        config=config,
        cache=None if cache is None else FeatureCache(cache),
    )
    dataset = labeler.dataset
    if shard is None:
        paths = output_files(dataset.root, overwrite=overwrite, compat=compat)
        positions = range(len(dataset))
    elif labeler.config.common_stages:
        raise ValueError("Common stages need all episodes at once: label without `shard`.")
    else:
        paths = [dataset.root / shard_file(*shard)]
        positions = range(shard[0], len(dataset), shard[1])
    if labeler.config.common_stages:
        labeler.find_common_stages()
    labels: dict[int, EpisodeLabels] = {}
    problems: dict[int, str] = {}
    for position in tqdm(positions, desc="label", unit="episode", disable=not progress_bar):
        episode = dataset.files(position).episode_index
        labels[episode], problem = labeler.label(position)
        if problem:
            problems[episode] = problem
    if positions and shard is None and len(problems) == len(positions):
        reason = next(iter(problems.values()))
        raise DatasetError(f"No episode of {dataset.root} can be labelled; the first: {reason}")
    labeler.write(labels, problems, paths)
    return paths[0]
