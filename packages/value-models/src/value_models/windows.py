"""Training windows of encoded episodes: sampling, rewinding, mismatched instructions."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from value_models.features import EncodedEpisode
from value_models.functional.windows import length_mask, rewind_windows, window_indices

DONE_PROGRESS = 0.95
"""Label from which on a frame of a successful episode counts as done."""


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """Which windows a model is trained on; the first frame of the episode is always added."""

    num_frames: int = 6
    """Frames up to the newest one."""
    stride: int = 5
    """Distance between two of them in frames."""
    max_rewind: int = 0
    """Most frames that a window runs backwards in the end, less than ``num_frames``."""
    rewind_probability: float = 0.8
    """Share of windows that are rewound, if the episode is old enough and ``max_rewind`` > 0."""
    stall_probability: float = 0.0
    """Share of windows that end as if the robot had stood still for a while, at most as long as a
    window spans: successes never show that except at their end, where progress is 1."""
    mismatch_probability: float = 0.0
    """Share of windows with the instruction of another task, whose progress is 0 then."""
    balance_tasks: bool = True
    """Draw windows so that all tasks are seen equally often."""
    include_failures: bool = False
    """Train on half of the unlabelled episodes too, of which only failure is known."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` of at least 1, got {getattr(self, name)}.")
        if not 0 <= self.max_rewind < self.num_frames:
            raise ValueError(
                f"Expected `max_rewind` in [0, {self.num_frames - 1}], got {self.max_rewind}."
            )
        for name in ("rewind_probability", "stall_probability", "mismatch_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected `{name}` in [0, 1], got {getattr(self, name)}.")

    @property
    def span(self) -> int:
        """Frames from the oldest to the newest of a window, both included."""
        return (self.num_frames - 1) * self.stride + 1


class EpochShuffle(Sampler[int]):
    """A shuffle that depends on seed and epoch alone, so that a resumed run sees the same one."""

    def __init__(self, num_samples: int, *, seed: int) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; the Trainer calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.num_samples, generator=generator).tolist())


class BalancedShuffle(EpochShuffle):
    """Draws with replacement, each group (task) equally often; depends on seed and epoch alone."""

    def __init__(self, groups: Sequence[int], *, seed: int) -> None:
        super().__init__(len(groups), seed=seed)
        index = torch.tensor(groups)
        self.weights = 1.0 / torch.bincount(index).double()[index]

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        # torch.multinomial takes at most 2^24 categories.
        total = self.weights.cumsum(0)
        draws = torch.rand(self.num_samples, generator=generator, dtype=torch.float64)
        rows = torch.searchsorted(total, draws * total[-1], right=True)
        return iter(rows.clamp(max=self.num_samples - 1).tolist())


class WindowDataset(Dataset[dict[str, Any]]):
    """The window that ends at each frame, under LeRobot's keys, fetched a batch at a time.

    A batch has the first frame of the episode, ``num_frames`` frames and ``max_rewind`` places
    for rewound ones, w in all: ``observation.features.<camera>`` (b, w, p, d), other signals
    (b, w, …), ``progress`` (b, w) with NaN where unknown or padded, ``frame_index`` (b, w),
    ``success`` (b, w) 1 in frames of a task done and NaN where a success has no label, ``length``
    (b,) real places, ``demonstrates`` (b,) whether a success shows what ``task`` says, ``task``.

    Args:
        episodes: Encoded; frames after the last label of a labelled one are left out.
        spec: Which windows.
        camera: Camera whose features are ``EncodedEpisode.features``.
        seed: Of the sampler and the augmentation.

    Raises:
        ValueError: If there is no episode, or the window is longer than every one.
    """

    def __init__(
        self, episodes: Sequence[EncodedEpisode], spec: WindowSpec, *, camera: str, seed: int = 0
    ) -> None:
        lengths = [episode.length for episode in episodes]
        if spec.span > max(lengths, default=0):
            raise ValueError(
                f"Expected a window of at most {max(lengths, default=0)} frames, the longest "
                f"episode, got {spec.span} = (num_frames {spec.num_frames} − 1) × stride "
                f"{spec.stride} + 1."
            )
        self.spec = spec
        self.seed = seed
        self.columns = _columns(episodes, camera)
        self.tasks = list(dict.fromkeys(episode.task for episode in episodes))
        self.task = [self.tasks.index(e.task) for e, n in zip(episodes, lengths, strict=True)
                     for _ in range(n)]  # fmt: skip
        length = torch.tensor(lengths)
        self.succeeded = torch.tensor([e.success for e in episodes]).repeat_interleave(length)
        self.start = (length.cumsum(0) - length).repeat_interleave(length)
        self.sampler = (
            BalancedShuffle(self.task, seed=seed)
            if spec.balance_tasks
            else EpochShuffle(len(self.task), seed=seed)
        )

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """Gather a whole batch at once."""
        generator = self._generator(indices)
        rows = torch.tensor(indices)
        start = self.start[rows]
        window, length = self._windows(rows - start, generator)
        padded = ~length_mask(length, window.shape[1])
        frames = start.unsqueeze(1) + window
        batch: dict[str, Any] = {key: column[frames] for key, column in self.columns.items()}
        task, mismatched = self._tasks(indices, generator)
        for key in batch:  # of the task that is asked for, nothing has been done
            if key in ("progress", "success") or key.startswith(("stage", "tau")):
                batch[key][mismatched] = 0
        demonstrates = self.succeeded[rows] & ~mismatched
        for key in batch:
            if key == "progress" or key.startswith("tau"):
                batch[key] = batch[key].masked_fill(padded, torch.nan)
            elif key == "primitive" or key.startswith("stage"):
                batch[key] = batch[key].masked_fill(padded, -1)
        return {
            **batch,
            "task": task,
            "frame_index": window,
            "length": length,
            "demonstrates": demonstrates,
        }

    def _windows(self, frame: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        spec = self.spec
        pause = torch.zeros_like(frame)
        if spec.stall_probability:
            drawn = torch.randint(1, spec.span + 1, frame.shape, generator=generator)
            stands = torch.rand(frame.shape, generator=generator) < spec.stall_probability
            pause = torch.where(stands, drawn, pause)
        # The window of an episode in which the newest frame is repeated ``pause`` times.
        window = window_indices(frame + pause, num_frames=spec.num_frames, stride=spec.stride)
        window = torch.minimum(window, frame.unsqueeze(1))
        num = torch.zeros_like(frame)
        if spec.max_rewind:
            drawn = torch.randint(1, spec.max_rewind + 1, frame.shape, generator=generator)
            chosen = torch.rand(frame.shape, generator=generator) < spec.rewind_probability
            # In a younger episode the frames of a window are not all different.
            num = torch.where(chosen & (frame >= spec.num_frames - 1), drawn, num)
        window, length = rewind_windows(window, num, max_rewind=spec.max_rewind)
        return torch.cat([torch.zeros_like(window[:, :1]), window], dim=1), length + 1

    def _tasks(self, indices: list[int], generator: torch.Generator) -> tuple[list[str], Tensor]:
        task = torch.tensor([self.task[i] for i in indices])
        other = len(self.tasks) > 1
        wrong = torch.rand(task.shape, generator=generator) < self.spec.mismatch_probability
        wrong &= torch.tensor(other)
        step = torch.randint(1, max(len(self.tasks), 2), task.shape, generator=generator)
        task = torch.where(wrong, (task + step) % len(self.tasks), task)
        return [self.tasks[i] for i in task.tolist()], wrong

    def _generator(self, indices: list[int]) -> torch.Generator:
        """Randomness that depends on seed, epoch and batch alone, so that runs can be resumed."""
        text = f"{self.seed} {self.sampler.epoch} {indices}"
        return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def _columns(episodes: Sequence[EncodedEpisode], camera: str) -> dict[str, Tensor]:
    """Concatenate what all episodes know of their frames, and fill in labels that some lack."""
    keys = list(dict.fromkeys(key for episode in episodes for key in episode.signals))
    columns = {
        key: torch.cat([_signal(episode, key)[: episode.length] for episode in episodes])
        for key in keys
    }
    columns[f"observation.features.{camera}"] = torch.cat(
        [episode.features[: episode.length] for episode in episodes]
    )
    progress = torch.cat([episode.progress[: episode.length] for episode in episodes])
    succeeded = torch.cat([torch.full((episode.length,), episode.success) for episode in episodes])
    columns["progress"] = progress
    done = (succeeded & (progress >= DONE_PROGRESS)).float()
    columns["success"] = done.masked_fill(succeeded & progress.isnan(), torch.nan)
    return columns


def _signal(episode: EncodedEpisode, key: str) -> Tensor:
    if key in episode.signals:
        return episode.signals[key]
    if key.startswith("tau"):
        return torch.full((len(episode.progress),), torch.nan)
    if key == "primitive" or key.startswith("stage"):
        return torch.full((len(episode.progress),), -1)
    raise ValueError(f"Episode {episode.episode_index} has no {key!r}, but others have.")
