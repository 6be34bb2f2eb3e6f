"""Lightning data over encoded episodes: training frames, held-out episodes."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from value_models.base import STATE_KEY
from value_models.features import EncodedEpisode, encode_episodes
from value_models.windows import EpochShuffle, WindowDataset, WindowSpec


class EpisodeSource(Protocol):
    """``Sequence`` of `ProgressEpisode` in a form that a config's ``class_path`` can be checked by.

    jsonargparse compares the methods of a class with those of a Protocol, down to the names and
    types of their arguments; anonymous ones of any type leave room for classes that know neither.
    """

    def __len__(self) -> int:
        """Number of episodes."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """One `ProgressEpisode`."""
        ...


class EncoderSource(Protocol):
    """`FrameEncoder` in the same form."""

    @property
    def encoder_id(self) -> str:
        """Name and revision or weight hash."""
        ...

    def encode(self, frames: Any, /) -> Any:
        """Patch features of frames."""
        ...


class FrameDataset(Dataset[dict[str, Any]]):
    """Labelled frames of several episodes as windows of one frame, fetched a batch at a time."""

    def __init__(self, episodes: Sequence[EncodedEpisode], *, camera: str) -> None:
        self.key = f"observation.features.{camera}"
        known = [episode.progress.isfinite() for episode in episodes]
        pairs = list(zip(episodes, known, strict=True))
        self.columns = {
            self.key: torch.cat([e.features[k] for e, k in pairs]),
            "progress": torch.cat([e.progress[k] for e, k in pairs]),
        }
        if all(STATE_KEY in episode.signals for episode in episodes):
            self.columns[STATE_KEY] = torch.cat([e.signals[STATE_KEY][k] for e, k in pairs])
        self.task = [e.task for e, k in pairs for _ in range(k.sum())]

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """Gather a whole batch at once; a thousand small copies would cost more than the model."""
        rows = torch.tensor(indices)
        batch: dict[str, Any] = {k: v[rows].unsqueeze(1) for k, v in self.columns.items()}
        return {**batch, "task": [self.task[i] for i in indices]}


class EpisodeDataset(Dataset[dict[str, Any]]):
    """Whole episodes as batches of one window."""

    def __init__(self, episodes: Sequence[EncodedEpisode], *, camera: str) -> None:
        self.key = f"observation.features.{camera}"
        self.episodes = list(episodes)

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        episode = self.episodes[index]
        return {
            self.key: episode.features.unsqueeze(0),
            "task": [episode.task],
            "progress": episode.progress.unsqueeze(0),
            "episode_index": torch.tensor([episode.episode_index]),
            **{key: value.unsqueeze(0) for key, value in episode.signals.items()},
        }


class ProgressDataModule(LightningDataModule):
    """Encodes labelled episodes once, holds some out, and serves frames and episodes.

    Labelled episodes are split at random into training and held-out ones. Episodes without any
    label (failures, as Feat2Go labels successes only) are never trained on; they are kept in
    `unlabelled_episodes` for evaluation. The features stay in memory, at
    frames × patches × dim × 2 bytes.

    Args:
        episodes: A sequence of `ProgressEpisode`; each is read once.
        encoder: `FrameEncoder` that is applied to every frame once.
        camera: Camera to look through.
        batch_size: Frames per training batch.
        val_fraction: Share of the labelled episodes to hold out, in (0, 1); at least one.
        seed: Seed of split and shuffle.
        num_workers: Loader processes; features are in memory, so 0 is the fastest.
        progress_bar: Whether to show the progress of encoding.
        more_cameras: Further cameras to encode.
        windows: Train on windows of frames; on single frames if None.

    Raises:
        ValueError: On `setup`, for broken episodes (see `encode_episodes`) or, unless for
            prediction, fewer than two labelled ones.
    """

    def __init__(
        self,
        *,
        episodes: EpisodeSource,
        encoder: EncoderSource,
        camera: str,
        batch_size: int = 256,
        val_fraction: float = 0.2,
        seed: int = 0,
        num_workers: int = 0,
        progress_bar: bool = True,
        more_cameras: Sequence[str] = (),
        windows: WindowSpec | None = None,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"Expected `val_fraction` in (0, 1), got {val_fraction}.")
        if batch_size < 1:
            raise ValueError(f"Expected `batch_size` of at least 1, got {batch_size}.")
        _require("episodes", episodes, "__len__", "__getitem__")
        _require("encoder", encoder, "encode", "encoder_id")
        self.source = episodes
        self.encoder = encoder
        self.camera = camera
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.seed = seed
        self.num_workers = num_workers
        self.progress_bar = progress_bar
        self.more_cameras = tuple(more_cameras)
        self.windows = windows
        self.encoded: list[EncodedEpisode] = []
        self.train_episodes: list[EncodedEpisode] = []
        self.val_episodes: list[EncodedEpisode] = []
        self.unlabelled_episodes: list[EncodedEpisode] = []
        self.train_failures: list[EncodedEpisode] = []

    @property
    def encoder_id(self) -> str:
        """Identity of the encoder."""
        return str(self.encoder.encoder_id)

    @property
    def num_patches(self) -> int:
        """Patches per frame; encodes the episodes if that has not happened."""
        return self._feature_shape[0]

    @property
    def feature_dim(self) -> int:
        """Width of a patch feature; encodes the episodes if that has not happened."""
        return self._feature_shape[1]

    @property
    def mean_train_length(self) -> float:
        """Mean length in frames of the training episodes, for the clock baseline."""
        self.setup()
        return sum(episode.length for episode in self.train_episodes) / len(self.train_episodes)

    def setup(self, stage: str | None = None) -> None:
        """Encode, and split unless for prediction; what has been done is not done again."""
        self._encode()
        if stage == "predict" or self.train_episodes:
            return
        labelled = [episode for episode in self.encoded if episode.is_labelled]
        if len(labelled) < 2:
            raise ValueError(
                f"Expected at least 2 episodes with a known label, to train on one and hold out "
                f"the other, got {len(labelled)} of {len(self.encoded)}: all other labels are NaN."
            )
        num_val = max(1, min(round(self.val_fraction * len(labelled)), len(labelled) - 1))
        generator = torch.Generator().manual_seed(self.seed)
        held_out = set(torch.randperm(len(labelled), generator=generator)[:num_val].tolist())
        self.val_episodes = [episode for i, episode in enumerate(labelled) if i in held_out]
        rest = [episode for episode in self.encoded if not episode.is_labelled]
        if self.windows is not None and self.windows.include_failures:
            # Every other one is trained on, the rest kept for evaluation.
            self.train_failures, rest = rest[::2], rest[1::2]
        self.unlabelled_episodes = rest
        self.train_episodes = [episode for i, episode in enumerate(labelled) if i not in held_out]

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Labelled frames of the training episodes, or their windows, shuffled."""
        dataset: FrameDataset | WindowDataset
        if self.windows is None:
            dataset = FrameDataset(self.train_episodes, camera=self.camera)
            sampler = EpochShuffle(len(dataset), seed=self.seed)
        else:
            episodes = list(self.train_episodes)
            episodes += self.train_failures if self.windows.include_failures else []
            dataset = WindowDataset(episodes, self.windows, camera=self.camera, seed=self.seed)
            sampler = dataset.sampler
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_identity,
        )

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Held-out labelled episodes, one per batch."""
        return self._episode_loader(self.val_episodes)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Held-out labelled episodes, one per batch."""
        return self._episode_loader(self.val_episodes)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All episodes in their order, labelled or not, one per batch."""
        return self._episode_loader(self.encoded)

    def _episode_loader(self, episodes: Sequence[EncodedEpisode]) -> DataLoader[dict[str, Any]]:
        dataset = EpisodeDataset(episodes, camera=self.camera)
        return DataLoader(
            dataset, batch_size=1, num_workers=self.num_workers, collate_fn=operator.itemgetter(0)
        )

    @property
    def _feature_shape(self) -> tuple[int, int]:
        self._encode()
        patches, dim = self.encoded[0].features.shape[1:]
        return int(patches), int(dim)

    def _encode(self) -> None:
        if self.encoded:
            return
        if not len(self.source):
            raise ValueError("Expected at least one episode in `episodes`, got none.")
        self.encoded = encode_episodes(
            self.source,  # type: ignore[arg-type]  # a Sequence in all that is used of it
            self.encoder,
            camera=self.camera,
            more_cameras=self.more_cameras,
            progress_bar=self.progress_bar,
        )


def _identity(batch: Any) -> Any:
    return batch


def _require(name: str, value: object, *attributes: str) -> None:
    # A dict with __len__ and __getitem__ is a config that was never turned into episodes.
    missing = [attribute for attribute in attributes if not hasattr(value, attribute)]
    if missing or isinstance(value, (Mapping, str)):
        raise TypeError(
            f"Expected `{name}` to be an object with {', '.join(attributes)}, got "
            f"{type(value).__name__} {str(value)[:200]!r}."
        )
