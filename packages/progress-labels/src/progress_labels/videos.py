"""Progress of plain videos: a folder of demonstrations, or one video with a picture of the goal."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from progress_labels.episode_labels import LabelConfig, fixed_beta, label_episode
from progress_labels.errors import DatasetError
from progress_labels.functional import denoised_curve, patch_similarity
from progress_labels.sidecar import finish, label_table
from progress_labels.types import SCHEMA_VERSION, EpisodeLabels, FrameEncoder

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")


def read_video(path: str | Path) -> UInt8[Tensor, "t h w 3"]:
    """Decode all frames of a video, or the one of a picture, as RGB.

    Raises:
        DatasetError: If the file is missing or damaged, or holds no frames.
    """
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(
            f"Cannot decode {path} ({type(error).__name__}): missing, damaged, or no video."
        ) from error
    if not frames:
        raise DatasetError(f"{path} holds no frames.")
    return torch.from_numpy(np.stack(frames))


def find_videos(folder: str | Path) -> list[Path]:
    """Return the videos in a folder, at any depth, in order of their paths.

    Raises:
        DatasetError: If there is none.
    """
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    if not paths:
        raise DatasetError(f"{folder} holds no video ({', '.join(VIDEO_SUFFIXES)}).")
    return paths


def label_video(
    frames: UInt8[Tensor, "t h w 3"],
    encoder: FrameEncoder,
    *,
    goal: UInt8[Tensor, "h w 3"] | None = None,
    config: LabelConfig | None = None,
) -> EpisodeLabels:
    """Label one video, by its own end or by a picture of the goal.

    Args:
        frames: RGB frames.
        encoder: Turns frames into patch features.
        goal: A picture of the finished task, same camera. With it, progress is the similarity to
            the goal where the video's least similar frame is 0 and the goal itself 1, so a video
            that does not get there does not end at 1; it is one stage.
        config: Settings; defaults when None.

    Raises:
        DatasetError: If the frames do not differ.
        ValueError: If features are not finite, or ``config`` asks for what only a dataset has.
    """
    config = _checked(config)
    if bool((frames == frames[:1]).all()):
        raise DatasetError("all frames are equal, or there is only one: nothing to measure")
    features = encoder.encode(frames[None])[0]
    if goal is None:
        return label_episode(features, config=config)
    if not bool(features.isfinite().all()):
        raise ValueError("Expected finite `features`; they hold NaN or infinity.")
    target = encoder.encode(goal[None, None])[0, 0]
    beta = fixed_beta(config, features.shape[-1])
    similarity = patch_similarity(features, target, beta=beta).cpu().numpy()
    curve = similarity.astype(np.float64)
    if config.denoise and len(curve) > 2:
        curve[1:-1] = denoised_curve(curve)[1:-1]  # the end is no goal of itself here
    low = curve.min()
    progress = np.clip((curve - low) / max(1.0 - low, 1e-9), 0.0, 1.0).astype(np.float32)
    stage = np.zeros(len(frames), dtype=np.int32)
    return EpisodeLabels(progress, stage, 1, similarity.astype(np.float32))


def label_videos(
    paths: Sequence[Path],
    encoder: FrameEncoder,
    out: str | Path,
    *,
    goal: str | Path | None = None,
    config: LabelConfig | None = None,
    overwrite: bool = False,
) -> tuple[Path, dict[int, str]]:
    """Label videos and write one label file for all; episode i is the i-th path.

    Args:
        paths: Videos, see `find_videos`.
        encoder: Turns frames into patch features.
        out: Parquet file to write; its metadata lists the videos.
        goal: Picture of the goal, see `label_video`.
        config: Settings; defaults when None.
        overwrite: Replace an existing file.

    Returns:
        The file, and what is wrong with videos that could not be labelled (they have no rows).

    Raises:
        DatasetError: If the file exists without ``overwrite``, the goal cannot be read, or no
            video can be labelled.
        ValueError: If ``config`` asks for what only a dataset has.
    """
    out = Path(out)
    config = _checked(config)
    if out.exists() and not overwrite:
        raise DatasetError(f"{out} exists; pass --overwrite (overwrite=True) to replace it.")
    picture = None if goal is None else read_video(goal)[0]
    labels: dict[int, EpisodeLabels] = {}
    problems: dict[int, str] = {}
    first_row: dict[int, int] = {}
    rows = 0
    for number, path in enumerate(paths):
        try:
            labels[number] = label_video(read_video(path), encoder, goal=picture, config=config)
        except ValueError as error:
            problems[number] = f"{path}: {error}"
            continue
        first_row[number] = rows
        rows += len(labels[number].progress)
    if not labels:
        raise DatasetError(f"No video can be labelled; the first: {problems.get(0, 'none given')}")
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "labeler": "feat2go" if goal is None else "goal_image",
        "encoder_id": encoder.encoder_id,
        "config_hash": config.hash,
        "config": json.dumps(asdict(config), sort_keys=True),
        "videos": json.dumps([str(path) for path in paths]),
    }
    finish(label_table(labels, first_row), metadata, problems, [out])
    return out, problems


def _checked(config: LabelConfig | None) -> LabelConfig:
    """Return the settings; refuse those that compare episodes of a task, which videos do not name.

    Raises:
        ValueError: If failures are to be measured, or stages to be common.
    """
    config = config or LabelConfig()
    if config.failures != "unknown" or config.common_stages:
        raise ValueError(
            "Expected `failures` 'unknown' and `common_stages` False for videos, got "
            f"{config.failures!r} and {config.common_stages}: leave them out, or label a dataset, "
            "which says what task each episode is of and whether it was done."
        )
    return config
