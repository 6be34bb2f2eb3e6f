"""ManiSkill's own trajectory files (``.h5`` and ``.json``) → LeRobot v3.0."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bench_adapters._resume import digest
from bench_adapters.converters.calvin import ConvertSummary
from bench_adapters.envs._tasks import INSTRUCTIONS
from bench_adapters.errors import BenchAdaptersError
from bench_adapters.recorder import DatasetRecorder

__all__ = ["convert_maniskill"]


def convert_maniskill(
    source: Path | str,
    root: Path | str,
    *,
    cameras: Sequence[str] | None = None,
    fps: int = 20,
    task: str | None = None,
    max_episodes: int | None = None,
    progress_bar: bool = True,
) -> ConvertSummary:
    """Convert a trajectory file, with rewards and success where it has them.

    Downloaded demonstrations hold no pictures: replay them first with ``python -m
    mani_skill.trajectory.replay_trajectory --obs-mode rgb``. The state is that of
    `ManiSkillEnvironment`: the robot's joint positions followed by the task's extras, in the task's
    order. Without recorded success the last step counts as the ``.json`` says; without recorded
    rewards the reward is 1 where the task succeeded. A conversion that was stopped goes on.

    Args:
        source: The ``.h5`` file; the ``.json`` of the same name lies beside it.
        root: Folder of the new dataset.
        cameras: By ManiSkill's names; None is all that were recorded.
        fps: Control steps per second of the task.
        task: Instruction; when None, ours for the task, or its name.
        max_episodes: Stop after so many.
        progress_bar: Show one.

    Raises:
        ValueError: If the file has no pictures or states, does not tell the order of the extras, a
            camera is not in it, ``max_episodes`` is not positive, or ``root`` was converted from
            another source.
        FileNotFoundError: If one of the two files is missing.
        FileExistsError: If ``root`` holds something else.
        BenchAdaptersError: If h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise BenchAdaptersError(
            f"reading HDF5 needs h5py ({error}); run `pip install 'bench-adapters[hdf5]'`"
        ) from error
    if max_episodes is not None and max_episodes < 1:
        raise ValueError(f"Expected positive `max_episodes`, got {max_episodes}.")
    path = Path(source)
    described = json.loads(path.with_suffix(".json").read_text())
    env_id = str(described["env_info"]["env_id"])
    episodes = described["episodes"][:max_episodes]
    if not episodes:
        raise ValueError(f"{path} holds no episodes")
    with h5py.File(path) as file:
        first = file[f"traj_{episodes[0]['episode_id']}"]
        chosen = _cameras(path, first, cameras)
        sizes = {name: _frames(first, name).shape[1:3] for name in chosen}
        recorder = DatasetRecorder(
            root,
            fps=fps,
            cameras=sizes,
            state_dim=_state(first).shape[1],
            action_dim=first["actions"].shape[1],
            robot_type=f"maniskill:{env_id}",
            provenance={
                "converter": "maniskill",
                "env_id": env_id,
                "cameras": list(chosen),
                "task": task,
                "first_episode": digest(np.asarray(first["actions"]), _state(first)),
            },
            resume=True,
        )
        with recorder:
            done = recorder.num_episodes
            for episode in tqdm(episodes[done:], desc="converting", disable=not progress_bar):
                trajectory = file[f"traj_{episode['episode_id']}"]
                _add(
                    recorder,
                    trajectory,
                    cameras=chosen,
                    task=task or INSTRUCTIONS.get(env_id, env_id),
                    seed=int(episode.get("episode_seed") or 0),
                    solved=bool(episode.get("success")),
                )
    return ConvertSummary(
        recorder.root, recorder.num_episodes, recorder.num_frames, recorder.num_episodes - done
    )


def _add(
    recorder: DatasetRecorder,
    trajectory: Any,
    *,
    cameras: Sequence[str],
    task: str,
    seed: int,
    solved: bool,
) -> None:
    action = np.asarray(trajectory["actions"], np.float32)
    length = len(action)
    success = np.asarray(trajectory["success"], bool) if "success" in trajectory else None
    if success is None:  # recorded without it: only the end is known to be reached
        success = solved & (np.arange(length) == length - 1)
    reward = np.asarray(trajectory.get("rewards", success), np.float32)
    recorder.add_episode(
        {name: _frames(trajectory, name)[:length] for name in cameras},
        state=_state(trajectory)[:length],
        action=action,
        reward=reward,
        success=success,
        done=np.arange(length) == length - 1,
        task=task,
        seed=seed,
    )


def _cameras(path: Path, trajectory: Any, wanted: Sequence[str] | None) -> list[str]:
    data = trajectory.get("obs/sensor_data") if _has_observations(trajectory) else None
    known = [name for name in data if "rgb" in data[name]] if data is not None else []
    if not known:
        raise ValueError(
            f"{path} holds no pictures; replay it with `python -m "
            f"mani_skill.trajectory.replay_trajectory --obs-mode rgb` first"
        )
    unknown = set(wanted or ()) - set(known)
    if unknown:
        raise ValueError(f"unknown cameras {sorted(unknown)}; {path} has {sorted(known)}")
    return list(wanted or known)


def _has_observations(trajectory: Any) -> bool:
    return "obs" in trajectory and hasattr(trajectory["obs"], "keys")


def _frames(trajectory: Any, camera: str) -> NDArray[np.uint8]:
    return np.asarray(trajectory[f"obs/sensor_data/{camera}/rgb"], np.uint8)


def _state(trajectory: Any) -> NDArray[np.float32]:
    """Return ``(t + 1, p)``: joint positions, then the extras."""
    parts = [trajectory["obs/agent/qpos"]]
    extras = trajectory.get("obs/extra", {})
    if len(extras) > 1 and not extras.id.get_create_plist().get_link_creation_order():
        raise ValueError(
            f"{trajectory.file.filename} does not tell the order of the extras {sorted(extras)}; "
            f"replay it with ManiSkill 3's `python -m mani_skill.trajectory.replay_trajectory`"
        )
    parts += extras.values()  # in the order of the task, as it was written
    columns = [np.asarray(part, np.float32).reshape(len(part), -1) for part in parts]
    return np.concatenate(columns, axis=1)
