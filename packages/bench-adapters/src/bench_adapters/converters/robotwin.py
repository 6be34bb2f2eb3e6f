"""RoboTwin 2.0's HDF5 recordings → LeRobot v3.0, from both of its layouts."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bench_adapters._resume import digest
from bench_adapters.converters.calvin import ConvertSummary
from bench_adapters.errors import BenchAdaptersError
from bench_adapters.recorder import DatasetRecorder

__all__ = ["RoboTwinEpisode", "convert_robotwin", "decode_jpeg", "read_episode"]

SAVED_FPS = 17
"""Every 15th physics step of 250 per second is saved: 16.67, and LeRobot counts in integers."""
_CAMERAS = {
    "head_camera": "cam_head",
    "left_camera": "cam_left_wrist",
    "right_camera": "cam_right_wrist",
    "front_camera": "cam_third_view",
}
"""Camera in the layout of 2025 and in that of 2026."""
_JOINTS = tuple(
    f"{side}_{part}_joint_states" for side in ("left", "right") for part in ("arm", "ee")
)


class RoboTwinEpisode(NamedTuple):
    """An episode of ``t`` steps."""

    images: dict[str, list[bytes]]
    """JPEGs by camera, under the names of the simulator."""
    state: NDArray[np.float32]
    """``(t, p)``: joints (rad) and gripper (0 closed … 1 open) of the left, then the right arm."""
    action: NDArray[np.float32]
    """``(t, p)``: the state that was commanded next."""
    instructions: list[str]
    layout: str
    """``v1.0`` as the file says, or ``stable_2.0`` where it says nothing."""


def convert_robotwin(
    source: Path | str,
    root: Path | str,
    *,
    cameras: Sequence[str] = ("head_camera", "left_camera", "right_camera"),
    instruction_type: str = "seen",
    swapped_colors: bool = True,
    max_episodes: int | None = None,
    progress_bar: bool = True,
) -> ConvertSummary:
    """Convert a folder of demonstrations.

    RoboTwin keeps an expert's demonstration only when it succeeded, so the last frame has
    ``next.success`` and reward 1. The states are commanded joints, not measured ones, as RoboTwin
    records them. Each episode gets one of its instructions, drawn with its number as the seed. A
    conversion that was stopped goes on where it stopped.

    Args:
        source: Folder with ``data/episode*.hdf5`` (and ``instructions/episode*.json`` in the older
            layout), or with the ``.hdf5`` files themselves.
        root: Folder of the new dataset.
        cameras: By the simulator's names.
        instruction_type: ``seen`` or ``unseen``, where the episode's instructions tell them apart.
        swapped_colors: The JPEGs hold red and blue exchanged, as RoboTwin has written them since
            2025 by handing RGB to OpenCV; False for files that another writer made right.
        max_episodes: Stop after so many.
        progress_bar: Show one.

    Raises:
        ValueError: If an argument is not known, a file is in neither layout, or ``root`` was
            converted from another source.
        FileNotFoundError: If there is no episode.
        FileExistsError: If ``root`` holds something else.
        BenchAdaptersError: If h5py is not installed.
    """
    unknown = [camera for camera in cameras if camera not in _CAMERAS]
    if unknown:
        raise ValueError(f"Expected `cameras` of {list(_CAMERAS)}, got {unknown}.")
    if instruction_type not in ("seen", "unseen"):
        raise ValueError(
            f"Expected `instruction_type` of ['seen', 'unseen'], got {instruction_type!r}."
        )
    if max_episodes is not None and max_episodes < 1:
        raise ValueError(f"Expected positive `max_episodes`, got {max_episodes}.")
    paths = _episode_paths(Path(source))[:max_episodes]
    first = read_episode(paths[0], cameras, instruction_type=instruction_type)
    sizes = {name: decode_jpeg(images[0]).shape[:2] for name, images in first.images.items()}
    recorder = DatasetRecorder(
        root,
        fps=SAVED_FPS,
        cameras=sizes,
        state_dim=first.state.shape[1],
        action_dim=first.action.shape[1],
        robot_type="robotwin",
        provenance={
            "converter": "robotwin",
            "layout": first.layout,
            "instruction_type": instruction_type,
            "swapped_colors": swapped_colors,
            "first_episode": digest(first.state, first.action),
        },
        resume=True,
    )
    with recorder:
        done = recorder.num_episodes
        for path in tqdm(paths[done:], desc="converting", disable=not progress_bar):
            episode = read_episode(path, cameras, instruction_type=instruction_type)
            _add(recorder, episode, number=_number(path), swapped=swapped_colors)
    return ConvertSummary(
        recorder.root, recorder.num_episodes, recorder.num_frames, recorder.num_episodes - done
    )


def _add(
    recorder: DatasetRecorder, episode: RoboTwinEpisode, *, number: int, swapped: bool
) -> None:
    last = np.arange(len(episode.action)) == len(episode.action) - 1
    rng = np.random.default_rng(number)
    recorder.add_episode(
        {
            name: np.stack([decode_jpeg(image, swapped=swapped) for image in images])
            for name, images in episode.images.items()
        },
        state=episode.state,
        action=episode.action,
        reward=last.astype(np.float32),
        success=last,
        done=last,
        task=episode.instructions[rng.integers(len(episode.instructions))],
        seed=number,
    )


def _episode_paths(source: Path) -> list[Path]:
    folder = source / "data" if (source / "data").is_dir() else source
    paths = [path for path in folder.glob("episode*.hdf5") if re.search(r"\d+$", path.stem)]
    if not paths:
        raise FileNotFoundError(f"{folder} holds no episode*.hdf5")
    return sorted(paths, key=_number)


def _number(path: Path) -> int:
    return int(re.findall(r"\d+", path.stem)[-1])


def read_episode(
    path: Path, cameras: Sequence[str], *, instruction_type: str = "seen"
) -> RoboTwinEpisode:
    """Read one file.

    Args:
        path: An ``.hdf5`` file.
        cameras: By the simulator's names.
        instruction_type: ``seen`` or ``unseen``.

    Raises:
        ValueError: If it is in neither layout, or lacks a camera.
        BenchAdaptersError: If h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise BenchAdaptersError(
            f"reading HDF5 needs h5py ({error}); run `pip install 'bench-adapters[hdf5]'`"
        ) from error
    with h5py.File(path) as file:
        if "data_format_version" in file:
            return _read_v1(path, file, cameras)
        if "joint_action/vector" in file:
            return _read_stable(path, file, cameras, instruction_type)
        found = sorted(file)
    raise ValueError(
        f"{path} is in neither of RoboTwin 2.0's layouts: it has neither `data_format_version` nor "
        f"`joint_action/vector`, but {found}"
    )


def _read_stable(
    path: Path, file: Any, cameras: Sequence[str], instruction_type: str
) -> RoboTwinEpisode:
    vector = np.asarray(file["joint_action/vector"], np.float32)
    images = {
        name: _images(path, file, f"observation/{name}/rgb")[: len(vector) - 1] for name in cameras
    }
    texts = path.parent.parent / "instructions" / f"{path.stem}.json"
    instructions = [path.parent.parent.name.replace("_", " ")]
    if texts.exists():
        instructions = [str(text) for text in json.loads(texts.read_text())[instruction_type]]
    return RoboTwinEpisode(images, vector[:-1], vector[1:], instructions, "stable_2.0")


def _read_v1(path: Path, file: Any, cameras: Sequence[str]) -> RoboTwinEpisode:
    version = _text(file["data_format_version"])
    if version != "v1.0":
        raise ValueError(f"{path} has data_format_version {version!r}, this release reads 'v1.0'")
    images = {name: _images(path, file, f"vision/{_CAMERAS[name]}/colors") for name in cameras}
    state, action = (
        np.concatenate(
            [np.asarray(file[f"{group}/{name}"], np.float32) for name in _JOINTS], axis=1
        )
        for group in ("state", "action")
    )
    instructions = [str(text) for text in json.loads(_text(file["instructions"]))]
    return RoboTwinEpisode(images, state, action, instructions or [""], version)


def _text(dataset: Any) -> str:
    value = dataset[()]
    return value.decode() if isinstance(value, bytes) else str(value)


def _images(path: Path, file: Any, key: str) -> list[bytes]:
    if key not in file:
        raise ValueError(f"{path} has no {key!r}; choose other `cameras`")
    return [bytes(image) for image in file[key]]


def decode_jpeg(data: bytes, *, swapped: bool = False) -> NDArray[np.uint8]:
    """Return a JPEG as ``(h, w, 3)`` RGB.

    Args:
        data: The file's bytes; zeros after its end do not matter.
        swapped: Red and blue were exchanged when it was written.

    Raises:
        ValueError: If it is not a JPEG.
    """
    try:
        with av.open(io.BytesIO(data), format="mjpeg") as container:
            frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    except (av.FFmpegError, StopIteration) as error:
        raise ValueError(f"{len(data)} bytes are not a JPEG ({error})") from error
    return np.ascontiguousarray(frame[..., ::-1] if swapped else frame, np.uint8)
