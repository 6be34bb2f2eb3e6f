"""Episodes as frozen patch features: every frame is encoded once and kept in float16."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float16
from torch import Tensor
from tqdm import tqdm

from value_models.types import FrameEncoder, ProgressEpisode

FRAMES_PER_CALL = 64
"""Frames handed to the encoder at once."""


class EncodedEpisode(NamedTuple):
    """One episode with features in place of frames."""

    episode_index: int
    task: str
    success: bool
    features: Float16[Tensor, "t p d"]
    """Half precision: half the memory, and far finer than the encoder's own noise."""
    progress: Float[Tensor, " t"]
    """Label in [0, 1]; NaN where unknown."""

    @property
    def is_labelled(self) -> bool:
        """Whether any frame has a label."""
        return bool(self.progress.isfinite().any())

    @property
    def length(self) -> int:
        """Frames up to and including the last labelled one; all of them without labels."""
        known = self.progress.isfinite().nonzero()
        return int(known[-1]) + 1 if len(known) else len(self.progress)


def encode_episodes(
    episodes: Sequence[ProgressEpisode],
    encoder: FrameEncoder,
    *,
    camera: str,
    progress_bar: bool = True,
) -> list[EncodedEpisode]:
    """Read each episode once and encode each of its frames once.

    Args:
        episodes: Labelled or unlabelled episodes; see `ProgressEpisode` for the keys. An episode
            without ``progress`` counts as unlabelled.
        encoder: Frozen encoder.
        camera: Camera to look through.
        progress_bar: Whether to show one, counting episodes.

    Raises:
        KeyError: If an episode lacks the camera.
        ValueError: If an episode is empty, features are not finite in float16, or labels have the
            wrong length or leave [0, 1].
    """
    bar = tqdm(range(len(episodes)), desc="Encoding", unit="episode", disable=not progress_bar)
    return [_encode(episodes[i], encoder, camera) for i in bar]


def _encode(episode: ProgressEpisode, encoder: FrameEncoder, camera: str) -> EncodedEpisode:
    key = f"observation.images.{camera}"
    index = int(episode["episode_index"])
    if key not in episode:
        raise KeyError(f"Episode {index} has no {key!r}; its keys are {sorted(episode)}.")
    frames = torch.as_tensor(episode[key])
    if frames.ndim != 4 or frames.dtype != torch.uint8 or not len(frames):
        raise ValueError(
            f"Expected uint8 frames (t, h, w, 3) in {key!r} of episode {index}, got "
            f"{frames.dtype} {tuple(frames.shape)}."
        )
    with torch.no_grad():
        starts = range(0, len(frames), FRAMES_PER_CALL)
        chunks = [encoder.encode(frames[None, i : i + FRAMES_PER_CALL])[0] for i in starts]
    features = torch.cat([chunk.to(device="cpu", dtype=torch.float16) for chunk in chunks])
    if not features.isfinite().all():
        raise ValueError(
            f"Features of episode {index} are not finite in float16 (encoder "
            f"{encoder.encoder_id!r}): its frames or the encoder's weights are broken."
        )
    progress = _labels(episode, index, len(frames))
    return EncodedEpisode(
        index, str(episode["task"]), bool(episode.get("success", True)), features, progress
    )


def _labels(episode: ProgressEpisode, index: int, num_frames: int) -> Tensor:
    if episode.get("progress") is None:
        return torch.full((num_frames,), torch.nan)
    progress = torch.as_tensor(episode["progress"], dtype=torch.float32)
    if progress.shape != (num_frames,):
        raise ValueError(
            f"Expected `progress` of episode {index} to have shape ({num_frames},), one label per "
            f"frame, got {tuple(progress.shape)}; label the dataset again."
        )
    # NaN compares false: only known labels can be out of range.
    wrong = progress[(progress < 0) | (progress > 1)]
    if len(wrong):
        raise ValueError(
            f"Expected `progress` of episode {index} in [0, 1], got {wrong[0].item():.4g}; "
            "rescale the labels or label the dataset again."
        )
    return progress
