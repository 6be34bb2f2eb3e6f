"""Sample data and conformance checks, free of pytest, for this package and those that use it."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from progress_labels.types import FrameEncoder

_FPS = 10
_TASK = "move the square around"


def make_staged_features(
    *,
    num_stages: int = 3,
    frames_per_stage: int = 20,
    pause: float = 0.3,
    patches: int = 16,
    dim: int = 32,
    noise: float = 0.01,
    seed: int = 0,
) -> tuple[Float[Tensor, "t p d"], NDArray[np.int64]]:
    """Return features of an episode that reaches subgoals one by one, with the true stages.

    In each stage its own share of the patches moves to where it will be at the end, as objects do,
    fast at first and then settling, and the scene rests.

    Args:
        num_stages: Subgoals after the start.
        frames_per_stage: Frames of each stage.
        pause: Share of each stage spent at its subgoal, in [0, 1).
        patches: Patches per frame.
        dim: Features per patch.
        noise: Standard deviation of the encoder noise; patches have 1.
        seed: Seed of the patches and the noise.
    """
    rng = np.random.default_rng(seed)
    start, end = rng.normal(size=(2, patches, dim))
    position = _staged_position(num_stages, frames_per_stage, pause)
    turn = np.arange(patches) % num_stages
    to_go = 1.0 - np.clip(position[:, None] - turn, 0.0, 1.0)[..., None]
    share = 1.0 - to_go**2
    clean = start * (1.0 - share) + end * share
    features = clean + noise * rng.normal(size=clean.shape)
    stage = np.repeat(np.arange(num_stages), frames_per_stage)
    return torch.from_numpy(features.astype(np.float32)), stage


def make_frames(
    *, num_stages: int = 3, frames_per_stage: int = 16, size: int = 64, seed: int = 0
) -> UInt8[Tensor, "t h w 3"]:
    """Return a video of a red square that moves from place to place and rests at each."""
    rng = np.random.default_rng(seed)
    square = size // 4
    places = _places(num_stages + 1, size - square, rng)
    position = _staged_position(num_stages, frames_per_stage, pause=0.3)
    steps = np.arange(num_stages + 1)
    corner = np.stack([np.interp(position, steps, axis) for axis in places.T], axis=1)
    shade = np.linspace(60, 160, size)[:, None, None]
    frames = np.broadcast_to(shade, (len(corner), size, size, 3)).astype(np.uint8)
    for frame, (top, left) in zip(frames, corner.round().astype(int), strict=True):
        frame[top : top + square, left : left + square] = (220, 40, 40)
    return torch.from_numpy(frames)


def make_dataset(
    root: Path,
    *,
    num_episodes: int = 3,
    failures: int = 0,
    cameras: Sequence[str] = ("base",),
    num_stages: int = 3,
    frames_per_stage: int = 16,
    idle_tail: int = 0,
    size: int = 64,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Write a small LeRobot v3.0 dataset of squares that move and rest.

    Args:
        root: Folder to write; created.
        num_episodes: Episodes, all of one length.
        failures: The last so many episodes never report success.
        cameras: Short camera names; each shows another square.
        num_stages: Moves per episode.
        frames_per_stage: Frames per move with its rest (30 % of it).
        idle_tail: Frames after the first success, in which nothing moves.
        size: Side of the frames in pixels.
        seed: Seed of the places.

    Returns:
        True stage of each frame of one episode.
    """
    length = num_stages * frames_per_stage + idle_tail
    for number, camera in enumerate(cameras):
        videos = [
            make_frames(
                num_stages=num_stages,
                frames_per_stage=frames_per_stage,
                size=size,
                seed=seed + 1000 * number + episode,
            )
            for episode in range(num_episodes)
        ]
        frames = torch.cat([torch.cat([v, v[-1:].expand(idle_tail, -1, -1, -1)]) for v in videos])
        path = root / f"videos/observation.images.{camera}/chunk-000/file-000.mp4"
        _write_video(path, frames)
    success = np.zeros((num_episodes, length), dtype=bool)
    success[: num_episodes - failures, length - 1 - idle_tail :] = True
    _write_rows(root, success, seed)
    _write_meta(root, num_episodes, length, cameras, size)
    stage = np.repeat(np.arange(num_stages), frames_per_stage)
    return np.concatenate([stage, np.full(idle_tail, num_stages - 1)])


def check_encoder(encoder: FrameEncoder, *, size: int = 32) -> None:
    """Check that an object is a frame encoder as `progress_labels.types.FrameEncoder` says.

    Raises:
        AssertionError: Naming the first clause that does not hold.
    """
    assert isinstance(encoder.encoder_id, str), "encoder_id is a string"
    assert encoder.encoder_id, "encoder_id is not empty"
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (2, 3, size, size, 3), dtype=torch.uint8, generator=generator)
    before = frames.clone()
    features = encoder.encode(frames)
    assert torch.equal(frames, before), "encode leaves its input as it is"
    assert features.ndim == 4, f"features are (b, t, p, d), not {tuple(features.shape)}"
    assert features.shape[:2] == (2, 3), f"features keep b and t, not {tuple(features.shape)}"
    assert features.is_floating_point(), f"features are floating point, not {features.dtype}"
    assert bool(features.isfinite().all()), "features are finite"
    assert not features.requires_grad, "features carry no gradient: the encoder is frozen"
    assert torch.equal(encoder.encode(frames), features), "encode is deterministic"
    alone = encoder.encode(frames[1:, 2:])
    close = torch.allclose(alone, features[1:, 2:], rtol=1e-3, atol=1e-4)
    assert close, "each frame is encoded on its own, whatever is in the batch"
    different = not torch.allclose(features[0, 0], features[0, 1], rtol=1e-3, atol=1e-4)
    assert different, "different frames have different features"


def _staged_position(num_stages: int, frames: int, pause: float) -> NDArray[np.float64]:
    moving = max(2, round(frames * (1.0 - pause)))
    ramp = np.concatenate([np.linspace(0.0, 1.0, moving), np.ones(frames - moving)])
    return np.concatenate([stage + ramp for stage in range(num_stages)])


def _places(count: int, room: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw corners so that every move is long, and leads away from the earlier ones."""
    angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, 1.6 * np.pi, count)
    return 0.5 * room * (1.0 + 0.95 * np.stack([np.sin(angle), np.cos(angle)], axis=1))


def _write_video(path: Path, frames: UInt8[Tensor, "t h w 3"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "2", "bf": "0", "crf": "12"}
        stream.time_base = Fraction(1, _FPS)
        for time, frame in enumerate(frames.numpy()):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = time
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _write_rows(root: Path, success: NDArray[np.bool_], seed: int) -> None:
    num_episodes, length = success.shape
    rows = num_episodes * length
    frame_index = np.tile(np.arange(length), num_episodes)
    state = np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(state.ravel(), 2)
    table = pa.table(
        {
            "observation.state": vectors,
            "action": vectors,
            "next.success": success.ravel(),
            "timestamp": (frame_index / _FPS).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.repeat(np.arange(num_episodes), length),
            "index": np.arange(rows),
            "task_index": np.zeros(rows, dtype=np.int64),
        }
    )
    path = root / "data/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _write_meta(
    root: Path, num_episodes: int, length: int, cameras: Sequence[str], size: int
) -> None:
    keys = [f"observation.images.{camera}" for camera in cameras]
    video = {"dtype": "video", "shape": [size, size, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0",
        "fps": _FPS,
        "total_episodes": num_episodes,
        "total_frames": num_episodes * length,
        "features": dict.fromkeys(keys, video),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    starts = np.arange(num_episodes) * length
    zeros = np.zeros(num_episodes, dtype=np.int64)
    columns: dict[str, object] = {
        "episode_index": np.arange(num_episodes),
        "tasks": [[_TASK]] * num_episodes,
        "length": np.full(num_episodes, length),
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        "dataset_from_index": starts,
        "dataset_to_index": starts + length,
    }
    for key in keys:
        columns[f"videos/{key}/chunk_index"] = zeros
        columns[f"videos/{key}/file_index"] = zeros
        columns[f"videos/{key}/from_timestamp"] = starts / _FPS
        columns[f"videos/{key}/to_timestamp"] = (starts + length) / _FPS
    episodes = root / "meta/episodes/chunk-000/file-000.parquet"
    episodes.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), episodes)
    pq.write_table(pa.table({"task": [_TASK], "task_index": [0]}), root / "meta/tasks.parquet")
    (root / "meta/info.json").write_text(json.dumps(info, indent=2))
