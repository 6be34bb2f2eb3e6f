"""CALVIN's ``.npz`` recordings → LeRobot v3.0, one episode per annotated window."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bench_adapters._resume import digest
from bench_adapters.recorder import DatasetRecorder

__all__ = ["ConvertSummary", "Window", "convert_calvin", "read_windows"]

_CAMERAS = {"static": "rgb_static", "gripper": "rgb_gripper"}
_ACTIONS = {"relative": "rel_actions", "absolute": "actions"}
_HARMLESS = {
    *(("numpy", name) for name in ("ndarray", "dtype")),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
}
"""All that a pickled array of numbers and strings refers to."""


class ConvertSummary(NamedTuple):
    """What a dataset holds after a conversion."""

    root: Path
    num_episodes: int
    num_frames: int
    num_new_episodes: int
    """Episodes that this call added."""


class Window(NamedTuple):
    """An annotated piece of play."""

    first: int
    """Number of its first frame's file."""
    last: int
    """Of its last frame, which belongs to it."""
    instruction: str
    task: str
    """One of the 34 subtasks."""


def convert_calvin(
    source: Path | str,
    root: Path | str,
    *,
    actions: str = "relative",
    cameras: Sequence[str] = ("static", "gripper"),
    annotations: str = "lang_annotations/auto_lang_ann.npy",
    max_episodes: int | None = None,
    progress_bar: bool = True,
) -> ConvertSummary:
    """Convert the annotated windows of a split.

    Each window becomes an episode of 30 frames per second with its instruction. Windows were cut
    where the benchmark's task checks reported the subtask solved, so the last frame has
    ``next.success`` and reward 1. ``subtask`` names it. ``observation.state`` is ``robot_obs``
    ``(15,)`` and ``action`` ``(7,)``, both as in `bench_adapters.envs.calvin.CalvinEnvironment`.
    A conversion that was stopped goes on where it stopped.

    Args:
        source: ``training`` or ``validation`` folder of a CALVIN dataset.
        root: Folder of the new dataset.
        actions: ``relative`` or ``absolute``.
        cameras: Of ``static`` and ``gripper``.
        annotations: The annotations, inside ``source``.
        max_episodes: Stop after so many windows.
        progress_bar: Show one.

    Raises:
        ValueError: If an argument is not known, a file is not what a CALVIN dataset holds, or
            ``root`` was converted from another source.
        FileNotFoundError: If a file is missing; episodes finished before are kept.
        FileExistsError: If ``root`` holds something else.
    """
    if actions not in _ACTIONS:
        raise ValueError(f"Expected `actions` of {sorted(_ACTIONS)}, got {actions!r}.")
    unknown = [camera for camera in cameras if camera not in _CAMERAS]
    if unknown:
        raise ValueError(f"Expected `cameras` of {sorted(_CAMERAS)}, got {unknown}.")
    if max_episodes is not None and max_episodes < 1:
        raise ValueError(f"Expected positive `max_episodes`, got {max_episodes}.")
    folder = Path(source)
    windows = read_windows(folder / annotations)[:max_episodes]
    keys = ["robot_obs", *(_CAMERAS[name] for name in cameras)]
    first = _read_frame(folder, windows[0].first, keys)
    recorder = DatasetRecorder(
        root,
        fps=30,
        cameras={name: first[_CAMERAS[name]].shape[:2] for name in cameras},
        state_dim=15,
        action_dim=7,
        robot_type="panda",
        extra_features={"subtask": "label"},
        provenance={
            "converter": "calvin",
            "annotations": annotations,
            "actions": actions,
            "first_episode": digest(*first.values()),
        },
        resume=True,
    )
    with recorder:
        done = recorder.num_episodes
        for window in tqdm(windows[done:], desc="converting", disable=not progress_bar):
            _add(recorder, folder, window, actions=_ACTIONS[actions], cameras=cameras)
    return ConvertSummary(
        recorder.root, recorder.num_episodes, recorder.num_frames, recorder.num_episodes - done
    )


def _add(
    recorder: DatasetRecorder, folder: Path, window: Window, *, actions: str, cameras: Sequence[str]
) -> None:
    keys = ["robot_obs", actions, *(_CAMERAS[name] for name in cameras)]
    numbers = range(window.first, window.last + 1)
    frames = [_read_frame(folder, number, keys) for number in numbers]
    stacked = {key: np.stack([frame[key] for frame in frames]) for key in keys}
    last = np.arange(len(frames)) == len(frames) - 1
    recorder.add_episode(
        {name: stacked[_CAMERAS[name]] for name in cameras},
        state=stacked["robot_obs"].astype(np.float32),
        action=stacked[actions].astype(np.float32),
        reward=last.astype(np.float32),
        success=last,
        done=last,
        task=window.instruction,
        seed=window.first,
        extra={"subtask": [window.task] * len(frames)},
    )


def _read_frame(folder: Path, number: int, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    path = folder / f"episode_{number:07d}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; download the split again")
    with np.load(path) as file:
        missing = [key for key in keys if key not in file.files]
        if missing:
            raise ValueError(f"{path} has no {missing}; it holds {sorted(file.files)}")
        return {key: file[key] for key in keys}


def read_windows(path: Path | str) -> list[Window]:
    """Read ``auto_lang_ann.npy``.

    The file is a pickle. Only arrays and plain containers are read from it, so that a file from a
    stranger cannot run code.

    Raises:
        ValueError: If it holds something else, or no window.
        FileNotFoundError: If there is no file.
    """
    content = _unpickle(Path(path))
    try:
        language, bounds = content["language"], content["info"]["indx"]
        rows = zip(bounds, language["ann"], language["task"], strict=True)
        windows = [Window(int(a), int(b), str(text), str(task)) for (a, b), text, task in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold CALVIN's annotations ({error!r})") from error
    if not windows or any(window.last < window.first for window in windows):
        raise ValueError(f"{path} holds no windows, or one that ends before it begins")
    return windows


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def _unpickle(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            read_header(file)
            return cast(Mapping[str, Any], _Unpickler(file).load().item())
        except (ValueError, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} does not hold CALVIN's annotations ({error})") from error
