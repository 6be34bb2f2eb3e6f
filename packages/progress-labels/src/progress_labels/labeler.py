"""Labels episodes of one dataset, one by one or aligned to a common set of stages."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

import progress_labels
from progress_labels.cache import FeatureCache
from progress_labels.dataset import EpisodeDataset
from progress_labels.episode_labels import (
    LabelConfig,
    label_episode,
    unknown_labels,
)
from progress_labels.errors import DatasetError
from progress_labels.references import Reference, label_failure, make_reference
from progress_labels.sidecar import LABELER, finish, label_table
from progress_labels.task_stages import Stages, task_stages
from progress_labels.types import SCHEMA_VERSION, EpisodeLabels, FrameEncoder

_NUM_REFERENCES = 8


class DatasetLabeler:
    """Labels episodes of one dataset, each independent of which others are labelled beside it.

    Args:
        root: Root folder of the dataset.
        encoder: Turns frames into patch features.
        camera: Camera, or several whose patches are joined, so that Eq. 1 averages over them; the
            first one when None.
        config: Settings; defaults when None.
        cache: Where features are kept, if anywhere.

    Raises:
        DatasetError: If the dataset cannot be read or has no such camera.
    """

    def __init__(
        self,
        root: str | Path,
        encoder: FrameEncoder,
        *,
        camera: str | Sequence[str] | None = None,
        config: LabelConfig | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        names = [camera] if camera is None or isinstance(camera, str) else list(camera)
        if not names:
            raise ValueError("Expected at least one camera in `camera`, got none.")
        self.views = [EpisodeDataset(root, camera=name, check_videos=False) for name in names]
        self.dataset = self.views[0]
        self.encoder = encoder
        self.config = config or LabelConfig()
        self.cache = cache
        self._references: dict[str, list[Reference]] = {}
        self._stages: Stages = {}
        self._stamps = self.dataset.stamps()

    def features(self, position: int) -> Float[Tensor, "t p d"]:
        """Return features of all cameras of an episode, joined along the patches.

        Raises:
            DatasetError: If frames cannot be read, or show nothing that could be measured.
        """
        parts: list[Tensor] = []
        still = True
        for view in self.views:
            frames = view[position]["frames"]
            still = still and bool((frames == frames[:1]).all())
            if self.cache is None:
                parts.append(self.encoder.encode(frames[None])[0])
            else:
                parts.append(self.cache.features(self.encoder, frames))
        if still:
            raise DatasetError("all frames are equal, or there is only one: nothing to measure")
        return torch.cat(parts, dim=1)

    def find_common_stages(self) -> None:
        """Cut all successful episodes of each task into one set of stages (`task_stages`).

        What is labelled afterwards has these stages. Episodes that cannot be read are left out;
        `label` names them.
        """
        by_task: dict[str, dict[int, int]] = {}
        for position in range(len(self.dataset)):
            with contextlib.suppress(ValueError):
                self.dataset.check(position)
                completion = self.dataset.completion(position)
                if completion is not None:
                    by_task.setdefault(self.dataset.task(position), {})[position] = completion
        for completions in by_task.values():
            self._stages |= task_stages(self._readable, completions, config=self.config)

    def label(self, position: int) -> tuple[EpisodeLabels, str]:
        """Return the labels of an episode, and what is wrong with it (empty if nothing is)."""
        try:
            self.dataset.check(position)
            completion = self.dataset.completion(position)
            if completion is not None:
                return self._label_success(position, self.features(position), completion), ""
            if self.config.failures == "unknown":
                return unknown_labels(self.dataset.files(position).length), ""
            references = self._references_of(self.dataset.task(position))
            if not references:
                raise DatasetError("failed, and no episode of its task succeeded to compare with")
            return label_failure(self.features(position), references, config=self.config), ""
        except ValueError as error:  # DatasetError is one too
            return unknown_labels(self.dataset.files(position).length), str(error)

    def _readable(self, position: int) -> Float[Tensor, "t p d"] | None:
        """Return features of an episode, None if it has none that could be used."""
        try:
            features = self.features(position)
        except ValueError:
            return None
        return features if bool(features.isfinite().all()) else None

    def _label_success(self, position: int, features: Tensor, completion: int) -> EpisodeLabels:
        stage = self._stages.get(position)
        end = completion if stage is None else len(stage) - 1
        return label_episode(features, config=self.config, completion=end, stage=stage)

    def write(
        self,
        labels: dict[int, EpisodeLabels],
        problems: dict[int, str],
        paths: list[Path],
    ) -> None:
        """Write labels with their provenance.

        Raises:
            DatasetError: If somebody changed the dataset since it was opened.
        """
        if self.dataset.stamps() != self._stamps:
            raise DatasetError(
                f"{self.dataset.root} changed while it was labelled; wait until its recording has "
                "ended and label it again. Nothing was written."
            )
        first_row = {files.episode_index: files.first for files in self.dataset.all_files()}
        finish(label_table(labels, first_row), self._metadata(), problems, paths)

    def _metadata(self) -> dict[str, str]:
        return {
            "schema_version": str(SCHEMA_VERSION),
            "labeler": LABELER,
            "encoder_id": self.encoder.encoder_id,
            "camera": ",".join(view.camera for view in self.views),
            "config_hash": self.config.hash,
            "config": json.dumps(asdict(self.config), sort_keys=True),
            "package_version": progress_labels.__version__,
            "num_episodes": str(len(self.dataset)),
            "num_frames": str(self.dataset.num_frames),
        }

    def _references_of(self, task: str) -> list[Reference]:
        if task in self._references:
            return self._references[task]
        found: list[Reference] = []
        for position in range(len(self.dataset)):
            if len(found) == _NUM_REFERENCES:
                break
            try:
                if self.dataset.task(position) != task:
                    continue
                completion = self.dataset.completion(position)
                if completion is None:
                    continue
                features = self.features(position)
                labels = self._label_success(position, features, completion)
            except ValueError:
                continue  # flagged where it is labelled itself
            found.append(
                make_reference(features, labels, config=self.config, completion=completion)
            )
        self._references[task] = found
        return found
