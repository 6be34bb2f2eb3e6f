"""Frames for self-supervised training, decoded once into memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from progress_labels.dataset import EpisodeDataset
from progress_labels.errors import DatasetError
from progress_labels.functional import time_fraction
from progress_labels.preprocess import resize_frames


class FrameBank(NamedTuple):
    """All frames of all videos, video after video."""

    frames: UInt8[Tensor, "n size size 3"]
    last: Int[Tensor, " n"]
    """Position of the last frame of each frame's own video."""
    episode: NDArray[np.int64]
    """``(n,)`` episode of each frame; cameras of one episode share it."""
    group: NDArray[np.int64]
    """``(n,)`` camera of a dataset that each frame comes from; a folder of videos is one group."""
    fraction: NDArray[np.float32]
    """``(n,)`` time fraction in the episode."""
    state: NDArray[np.float32]
    """``(n, p)`` robot state: the leading coordinates that all sources have; p = 0 for videos."""


class _Video(NamedTuple):
    frames: Tensor
    state: NDArray[np.float32]
    episode: int
    group: int


def load_frames(sources: Sequence[Path], *, size: int = 64, progress_bar: bool = True) -> FrameBank:
    """Decode every camera of LeRobot v3 datasets, and the mp4 files of folders.

    Args:
        sources: Dataset roots (with ``meta/info.json``) or folders with ``*.mp4`` at any depth.
        size: Side that frames are resized to.
        progress_bar: Show one.

    Raises:
        DatasetError: If a source holds neither, or a file is damaged.
    """
    if not sources:
        raise DatasetError("No source given; name LeRobot datasets or folders of mp4 files.")
    videos: list[_Video] = []
    for source in sources:
        start = 1 + max((video.episode for video in videos), default=-1)
        group = 1 + max((video.group for video in videos), default=-1)
        found = _dataset_videos(source) if (source / "meta/info.json").exists() else _mp4s(source)
        for video in tqdm(
            found, desc=f"decode {source.name}", unit="video", disable=not progress_bar
        ):
            frames = resize_frames(video.frames, size)
            videos.append(_Video(frames, video.state, start + video.episode, group + video.group))
    lengths = [len(video.frames) for video in videos]
    ends = np.cumsum(lengths) - 1
    width = min(video.state.shape[1] for video in videos)
    return FrameBank(
        frames=torch.cat([video.frames for video in videos]),
        last=torch.from_numpy(np.repeat(ends, lengths)),
        episode=np.repeat([video.episode for video in videos], lengths).astype(np.int64),
        group=np.repeat([video.group for video in videos], lengths).astype(np.int64),
        fraction=np.concatenate([time_fraction(length) for length in lengths]),
        state=np.concatenate([video.state[:, :width] for video in videos]),
    )


def sample_clips(
    bank: FrameBank,
    positions: Int[Tensor, " b"],
    *,
    static_share: float,
    max_gap: int,
    generator: torch.Generator,
) -> Float[Tensor, "b 2 3 size size"]:
    """Return two-frame clips with one random crop and brightness per clip, values in [0, 1].

    Args:
        bank: Source of the frames.
        positions: First frame of each clip.
        static_share: Probability that a clip repeats its first frame, as at inference.
        max_gap: Otherwise the second frame comes 1 … max_gap frames later, within the video.
        generator: Source of randomness.
    """
    count = len(positions)
    gap = torch.randint(1, max_gap + 1, (count,), generator=generator)
    gap *= torch.rand(count, generator=generator) >= static_share
    second = torch.minimum(positions + gap, bank.last[positions])
    clips = bank.frames[torch.stack([positions, second], dim=1)].permute(0, 1, 4, 2, 3)
    return _augment(clips.float() / 255.0, generator)


def _augment(clips: Tensor, generator: torch.Generator) -> Tensor:
    count, size = len(clips), clips.shape[-1]
    draw = torch.rand(5, count, generator=generator)
    zoom = 0.7 + 0.3 * draw[0]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = ((2.0 * draw[1:3] - 1.0) * (1.0 - zoom)).T
    grid = F.affine_grid(theta, [count, 6, size, size], align_corners=False)
    flat = F.grid_sample(clips.flatten(1, 2), grid, align_corners=False, padding_mode="border")
    crops = flat.view_as(clips)
    gain = (0.8 + 0.4 * draw[3])[:, None, None, None, None]
    shift = (0.2 * draw[4] - 0.1)[:, None, None, None, None]
    augmented: Tensor = (crops * gain + shift).clamp(0.0, 1.0)
    return augmented


def _dataset_videos(root: Path) -> Iterator[_Video]:
    for group, camera in enumerate(EpisodeDataset(root).cameras):
        dataset = EpisodeDataset(root, camera=camera)
        for position in range(len(dataset)):
            episode = dataset[position]
            state = episode["state"].numpy()
            yield _Video(episode["frames"], state, episode["episode_index"], group)


def _mp4s(folder: Path) -> Iterator[_Video]:
    paths = sorted(folder.rglob("*.mp4"))
    if not paths:
        raise DatasetError(f"{folder} has neither meta/info.json nor mp4 files.")
    for number, path in enumerate(paths):
        try:
            with av.open(str(path)) as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise DatasetError(f"Cannot decode {path}; remove or replace it.") from error
        if not frames:
            raise DatasetError(f"{path} holds no frames; remove or replace it.")
        yield _Video(
            torch.from_numpy(np.stack(frames)),
            np.zeros((len(frames), 0), dtype=np.float32),
            number,
            0,
        )
