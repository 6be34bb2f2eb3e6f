"""Ten recorded tasks as encoded episodes with true progress, phases and primitives."""

import importlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from task_progress import Attempt, Plan, Truth, last_motion, true_progress

from value_models.features import EncodedEpisode, encode_episodes
from value_models.primitives import primitive_index

TASKS = {
    "PickCube": 90, "PushCube": 90, "PullCube": 90, "StackCube": 90, "LiftPegUpright": 90,
    "PlaceSphere": 90, "PokeCube": 90, "StackPyramid": 250, "TwoRobotPickCube": 150,
    "TwoRobotStackCube": 150,
}  # fmt: skip
"""Longest episode of each, in frames."""
PERTURBATIONS = ("miss", "drop", "stall", "near_miss", "recover")
NO_DROP = ("PushCube", "PullCube", "PokeCube")  # what they do is not carried
CAMERA = "camera"
STATE = "observation.state"
ARM_STATE = 9 + 3
STATE_DIM = 4 * ARM_STATE
"""Joints and fingers (9) and tool position (3) of one or two arms, zeros for a second that is not
there, and their change since the frame before. A real robot knows as much; what the simulator adds
to some tasks (goal position, whether the cube is held) is left out."""
TOOLS = {"PickCube": (10,), "PlaceSphere": (10,), "LiftPegUpright": (16,)}
"""Where the tool position begins in the recorded state, if not behind the joints."""
TWO_ARMS = {"joints": (0, 18), "tools": (36, 43)}
STAGES = 6
COLUMNS = ["episode_index", "frame_index", "phase", "primitive", "action", "next.success"]


@dataclass(frozen=True)
class TaskEpisode:
    """An encoded episode and what the recording says of it."""

    encoded: EncodedEpisode
    env: str
    perturbation: str
    event: int | None
    """Frame from which it went wrong."""
    motion: int
    """Frames until the arms stand still for good: what follows, such as waiting for a ball to come
    to rest, has no order to be seen."""


def record(data: Path, *, episodes: int = 80, seed: int = 40_000_000, workers: int = 2) -> None:
    """Record what is missing of the ten datasets by the command line of bench-adapters."""
    for place, (env, steps) in enumerate(TASKS.items()):
        kinds = [k for k in PERTURBATIONS if not (k == "drop" and env in NO_DROP)]
        command = [
            "bench-adapters", "record", f"maniskill:{env}-v1", str(data / f"{env}-v1"),
            "--episodes", str(episodes), "--seed", str(seed + 1000 * place), "--noise", "0.05",
            "--failure-fraction", "0.5", "--num-workers", str(workers),
            "--set", f"max_episode_steps={steps}", "--perturbations", *kinds,
        ]  # fmt: skip
        subprocess.run(command, check=True)


def num_recorded(root: Path) -> int:
    """Return the episodes of a task, as far as its recording got."""
    info = root / "meta" / "info.json"
    return int(json.loads(info.read_text())["total_episodes"]) if info.exists() else 0


def read_attempts(root: Path) -> dict[int, Attempt]:
    """Read what the recording of one task says of each episode."""
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    labels = features["phase"]["labels"]
    rows = _table(root / "data", COLUMNS)
    meta = _table(root / "meta" / "episodes", ["episode_index", "success", "failure"])
    attempts = {}
    for index, success, failure in zip(
        *(meta[name].to_pylist() for name in meta.column_names), strict=True
    ):
        own = rows.filter(pa.compute.equal(rows["episode_index"], index))
        phase = [labels[i] for i in own["phase"].to_pylist()]
        action = np.array(own["action"].to_pylist(), np.float32)
        attempts[index] = Attempt(phase, action, failure, success)
    return attempts


def read_primitives(root: Path) -> dict[int, list[str]]:
    """Read the primitive of every frame of each episode."""
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    labels = features["primitive"]["labels"]
    rows = _table(root / "data", ["episode_index", "primitive"])
    found: dict[int, list[str]] = {}
    for index, primitive in zip(
        rows["episode_index"].to_pylist(), rows["primitive"].to_pylist(), strict=True
    ):
        found.setdefault(index, []).append(labels[primitive])
    return found


def read_states(root: Path, env: str) -> dict[int, torch.Tensor]:
    """Read what the robot knows of itself in every frame of each episode: ``(t, STATE_DIM)``."""
    rows = _table(root / "data", ["episode_index", "frame_index", STATE])
    rows = rows.sort_by([("episode_index", "ascending"), ("frame_index", "ascending")])
    state = torch.tensor(rows[STATE].to_pylist())
    two = env.startswith("TwoRobot")
    joints, tools = TWO_ARMS.values() if two else ((0,), TOOLS.get(env, (9,)))
    arms = [
        part
        for joint, tool in zip(joints, tools, strict=True)
        for part in (state[:, joint : joint + 9], state[:, tool : tool + 3])
    ]
    place = F.pad(torch.cat(arms, 1), (0, ARM_STATE * (2 - len(joints))))
    change = place - place.roll(1, 0)
    change[torch.tensor(rows["frame_index"].to_pylist()) == 0] = 0.0
    known = torch.cat([place, change], 1)
    episode = torch.tensor(rows["episode_index"].to_pylist())
    return {index: known[episode == index] for index in sorted(set(episode.tolist()))}


def load_tasks(data: Path, cache: Path, *, tasks: Sequence[str]) -> list[TaskEpisode]:
    """Read the episodes of all tasks; frames are encoded once and kept under ``cache``."""
    encoder: Any = None
    episodes: list[TaskEpisode] = []
    for env in tasks:
        root, path = data / f"{env}-v1", cache / f"{env}.pt"
        attempts, primitives = read_attempts(root), read_primitives(root)
        states = read_states(root, env)
        plan = Plan.of(list(attempts.values()))
        truths = {i: true_progress(attempt, plan) for i, attempt in attempts.items()}
        if not path.exists():
            encoder = encoder or _extra("progress_labels.encoders", "load_encoder")("offline")
            cache.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".tmp")
            torch.save(_encode(root, truths, encoder), fresh)
            os.replace(fresh, path)
        for index, (task, features) in torch.load(path, weights_only=True).items():
            episodes.append(
                _episode(index, env, task, features, attempts[index], truths[index],
                         primitives[index], states[index])
            )  # fmt: skip
    return episodes


def reduced(episodes: Sequence[TaskEpisode], *, dim: int) -> tuple[list[TaskEpisode], float]:
    """Keep the first principal components of a patch, to train on a laptop, and their share.

    Of every seventh frame; no label is looked at.
    """
    rows = torch.cat([e.encoded.features[::7].flatten(0, 1) for e in episodes]).float()
    rows = F.layer_norm(rows, rows.shape[-1:])
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))
    basis = vectors[:, -dim:]
    scale = (values[-dim:] / len(rows)).mean().sqrt()
    result = []
    for episode in episodes:
        features = F.layer_norm(episode.encoded.features.float(), rows.shape[-1:])
        features = ((features - mean) @ basis / scale).half()
        encoded = episode.encoded._replace(features=features)
        result.append(replace(episode, encoded=encoded))
    return result, float(values[-dim:].sum() / values.sum())


def _episode(
    index: int, env: str, task: str, features: torch.Tensor, attempt: Attempt, truth: Truth,
    primitives: list[str], states: torch.Tensor,
) -> TaskEpisode:  # fmt: skip
    n = truth.length
    progress = torch.from_numpy(truth.progress[:n])
    # Plans differ between tasks, one model serves all: SARM gets equal stages of progress.
    scaled = STAGES * progress.nan_to_num(0.0)
    stage = scaled.floor().clamp(max=STAGES - 1)
    known = progress.isfinite()
    signals = {
        STATE: states[:n],
        "primitive": torch.tensor([primitive_index(name) for name in primitives[:n]]),
        "stage": torch.where(known, stage, -1.0).long(),
        "tau": torch.where(known, scaled - stage, torch.nan),
    }
    encoded = EncodedEpisode(index, task, attempt.success, features[:n], progress, signals)
    motion = min(last_motion(attempt) + 1, n)
    return TaskEpisode(encoded, env, attempt.perturbation, truth.event, motion)


def _encode(root: Path, truths: dict[int, Truth], encoder: Any) -> dict[int, Any]:
    """Features of the kept frames, averaged over 2 × 2 patches."""
    source = _extra("progress_labels.dataset", "EpisodeDataset")(root)

    class Frames:
        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, position: int) -> dict[str, Any]:
            episode = source[position]
            n = truths[episode["episode_index"]].length
            return {
                f"observation.images.{CAMERA}": episode["frames"][:n],
                "task": episode["task"],
                "episode_index": episode["episode_index"],
            }

    encoded = encode_episodes(Frames(), encoder, camera=CAMERA, progress_bar=False)  # type: ignore[arg-type]
    print(f"encoded {root.name}: {sum(len(e.features) for e in encoded)} frames", flush=True)
    return {e.episode_index: (e.task, _pooled(e.features)) for e in encoded}


def _pooled(features: torch.Tensor) -> torch.Tensor:
    side = round(features.shape[1] ** 0.5)
    grid = features.float().unflatten(1, (side, side)).movedim(-1, 1)
    return F.avg_pool2d(grid, 2).flatten(2).mT.half()


def _extra(module: str, name: str) -> Any:
    """What the stock configuration names too: the extra ``[data]``."""
    return getattr(importlib.import_module(module), name)


def _table(folder: Path, columns: list[str]) -> pa.Table:
    files = sorted(folder.glob("*/*.parquet"))
    return pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
