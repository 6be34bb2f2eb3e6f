"""Episodes as frozen patch features: every frame is encoded once and kept in float16."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float16
from torch import Tensor
from tqdm import tqdm

from value_models.functional.stages import stage_fractions
from value_models.primitives import PRIMITIVES, primitive_index
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
    signals: Mapping[str, Tensor] = {}
    """What else is known of each frame, ``(t, …)`` by key: ``observation.state`` float;
    ``observation.features.<camera>`` of further cameras; ``stage``, ``stage_<name>``,
    ``primitive`` int64, −1 where unknown; ``tau`` for each ``stage``, NaN where unknown."""

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
    more_cameras: Sequence[str] = (),
    progress_bar: bool = True,
) -> list[EncodedEpisode]:
    """Read each episode once and encode each of its frames once.

    Args:
        episodes: Labelled or unlabelled episodes; see `ProgressEpisode` for the keys. An episode
            without ``progress`` counts as unlabelled.
        encoder: Frozen encoder.
        camera: Camera to look through.
        more_cameras: Further ones, under the same encoder.
        progress_bar: Whether to show one, counting episodes.

    Raises:
        KeyError: If an episode lacks its index, its instruction or the camera.
        ValueError: If an episode is empty or has no instruction, features are not finite in
            float16 or equal in all frames of all episodes, or labels have the wrong length,
            leave [0, 1] or name an unknown primitive.
    """
    bar = tqdm(range(len(episodes)), desc="Encoding", unit="episode", disable=not progress_bar)
    encoded = [_encode(episodes[i], encoder, camera, more_cameras) for i in bar]
    _refuse_constant(encoded, encoder)
    return encoded


def _refuse_constant(encoded: Sequence[EncodedEpisode], encoder: FrameEncoder) -> None:
    frames = sum(len(episode.features) for episode in encoded)
    if frames > 1 and all((e.features == encoded[0].features[0]).all() for e in encoded):
        raise ValueError(
            f"Features of all {frames} frames of {len(encoded)} episodes are equal (encoder "
            f"{encoder.encoder_id!r}): the camera shows nothing or the encoder is broken."
        )


def _encode(
    episode: ProgressEpisode, encoder: FrameEncoder, camera: str, more_cameras: Sequence[str]
) -> EncodedEpisode:
    for key in ("episode_index", "task"):
        if key not in episode:
            raise KeyError(f"An episode has no {key!r}; its keys are {sorted(episode)}.")
    index = int(episode["episode_index"])
    task = str(episode["task"])
    if not task.strip():
        raise ValueError(f"Expected an instruction in `task` of episode {index}, got {task!r}.")
    features = _features(episode, index, encoder, camera)
    signals = {
        f"observation.features.{name}": _features(episode, index, encoder, name)
        for name in more_cameras
    }
    signals |= _signals(episode, index, len(features))
    progress = _labels(episode, index, len(features))
    success = bool(episode.get("success", True))
    return EncodedEpisode(index, task, success, features, progress, signals)


def _features(
    episode: ProgressEpisode, index: int, encoder: FrameEncoder, camera: str
) -> Float16[Tensor, "t p d"]:
    key = f"observation.images.{camera}"
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
    return features


def _signals(episode: ProgressEpisode, index: int, num_frames: int) -> dict[str, Tensor]:
    signals: dict[str, Tensor] = {}
    if episode.get("observation.state") is not None:
        state = torch.as_tensor(episode["observation.state"], dtype=torch.float32)
        if not state.isfinite().all():
            raise ValueError(f"'observation.state' of episode {index} is not finite.")
        signals["observation.state"] = state
    for key in episode:
        if key == "stage" or key.startswith("stage_"):
            signals[key] = torch.as_tensor(episode[key]).long()
            signals[key.replace("stage", "tau", 1)] = stage_fractions(signals[key])
    if episode.get("primitive") is not None:
        signals["primitive"] = _primitives(episode["primitive"])
    for key, value in signals.items():
        if len(value) != num_frames:
            raise ValueError(
                f"Expected {num_frames} rows in {key!r} of episode {index}, one per frame, got "
                f"{len(value)}."
            )
    return signals


def _primitives(names: Any) -> Tensor:
    """Accept class indices or names."""
    if len(names) and isinstance(names[0], str):
        return torch.tensor([primitive_index(name) for name in names])
    indices = torch.as_tensor(names).long()
    if len(indices) and not -1 <= int(indices.min()) <= int(indices.max()) < len(PRIMITIVES):
        raise ValueError(
            f"Expected `primitive` in [-1, {len(PRIMITIVES) - 1}], got {indices.min()} to "
            f"{indices.max()}."
        )
    return indices


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
