"""An HTML page that shows which demonstrations are bad; needs the extra ``viz`` (matplotlib)."""

import base64
import html
import io
import os
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from progress_labels.dataset import EpisodeDataset
from progress_labels.errors import DatasetError
from progress_labels.functional import regressions, stalls
from progress_labels.plots import plot_strip
from progress_labels.sidecar import LABEL_FILE, read_labels, read_problems
from progress_labels.types import EpisodeLabels

_STALL_SHARE = 0.25
_DROP = 0.25
_FINISHED = 0.95

_MARK = "progress-labels report"
"""Written into each file, so that only files of an earlier report are replaced."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; color: #222;
       background: #fafafa; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1rem; margin: 0 }
section { background: #fff; border: 1px solid #ddd; border-left: 5px solid #7aa874;
          border-radius: 4px; margin: 1rem 0; padding: .8rem 1rem }
section.flagged { border-left-color: #c8553d } img { width: 100% } p { margin: .2rem 0 }
.flag { background: #f8e1db; border-radius: 3px; padding: 0 .4rem; margin-right: .4rem }
"""


def episode_flags(labels: EpisodeLabels, *, success: bool, problem: str = "") -> list[str]:
    """Return what deserves a look in an episode, in words; empty if nothing does.

    A stall is a quarter of the episode or more in which progress reaches nothing new; a regression
    a fall by 0.25 or more below the best so far. Progress is looked at in medians over five frames.

    Args:
        labels: Labels of the episode.
        success: Whether the recording says that the task was done.
        problem: Why it could not be labelled, if so.
    """
    if problem:
        return [f"not labelled: {problem}"]
    flags = [] if success else ["never finished: no success was recorded"]
    progress = labels.progress
    if not np.isfinite(progress).all():
        return flags
    if len(progress) > 4:
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(progress, 2, mode="edge"), 5)
        progress = np.median(windows, axis=-1)
    if success and progress[-1] < _FINISHED:
        flags.append(f"never finished: progress ends at {progress[-1]:.2f}")
    shortest = max(2, round(_STALL_SHARE * len(progress)))
    flags += [f"stall: frames {a} to {b - 1}" for a, b in stalls(progress, min_length=shortest)]
    flags += [
        f"regression: frames {a} to {b - 1}" for a, b in regressions(progress, min_drop=_DROP)
    ]
    return flags


def write_report(
    root: str | Path,
    out: str | Path,
    *,
    camera: str | None = None,
    labels: str | Path | None = None,
) -> tuple[Path, dict[int, list[str]]]:
    """Write a page with a row per episode, flagged ones first, and a PNG per episode.

    Args:
        root: Root folder of a labelled dataset.
        out: Folder to write; created. Files of an earlier report in it are replaced, others are
            not.
        camera: Camera to show; the first one when None.
        labels: Label file; ``<root>/feat2go_progress.parquet`` when None.

    Returns:
        Path of the page, which holds its pictures, and the flags by episode index.

    Raises:
        DatasetError: If dataset or labels cannot be read or do not fit together, or a file that is
            no report is in the way; nothing is written then.
        ImportError: If matplotlib is not installed.
    """
    dataset = EpisodeDataset(root, camera=camera, check_videos=False)
    path = dataset.root / LABEL_FILE if labels is None else Path(labels)
    known, problems = read_labels(path), read_problems(path)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    episodes = [files.episode_index for files in dataset.all_files()]
    for target in (page, *(folder / _picture_name(episode) for episode in episodes)):
        if target.exists() and _MARK.encode() not in target.read_bytes()[:4096]:
            raise DatasetError(f"{target} is not of a report; choose another folder for `out`.")
    rows: list[tuple[bool, int, str]] = []
    flags: dict[int, list[str]] = {}
    for position in range(len(dataset)):
        episode = dataset.files(position).episode_index
        if episode not in known:
            problems.setdefault(episode, "the label file does not hold this episode")
        row, found = _row(dataset, position, known.get(episode), problems.get(episode, ""), folder)
        flags[episode] = found
        rows.append((not found, episode, row))
    text = _page(dataset.root.name, flags, [row for _, _, row in sorted(rows)])
    _write(page, text.encode())
    return page, flags


def _picture_name(episode: int) -> str:
    return f"episode-{episode:06d}.png"


def _write(path: Path, content: bytes) -> None:
    """Write a file; it appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp lets only its owner read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _row(
    dataset: EpisodeDataset, position: int, labels: EpisodeLabels | None, problem: str, folder: Path
) -> tuple[str, list[str]]:
    episode = dataset.files(position).episode_index
    task, success, picture = "", False, b""
    try:
        item = dataset[position]
        task, success = item["task"], item["success"]
        if labels is not None and len(labels.progress) != len(item["frames"]):
            raise DatasetError("labels and frames differ in number: label the dataset again")
        if labels is not None and not problem:
            picture = _picture(item["frames"], labels)
    except ValueError as error:
        problem = problem or str(error)
    if labels is None or problem:
        found = [f"not labelled: {problem}"]
    else:
        found = episode_flags(labels, success=success)
    image = ""
    if picture:
        _write(folder / _picture_name(episode), picture)
        encoded = base64.b64encode(picture).decode()
        image = f'<img alt="episode {episode}" src="data:image/png;base64,{encoded}">'
    marks = "".join(f'<span class="flag">{html.escape(flag)}</span>' for flag in found)
    stages = f", {labels.num_stages} stages" if labels is not None and labels.num_stages else ""
    return (
        f'<section class="{"flagged" if found else "good"}" id="episode-{episode}">'
        f"<h2>Episode {episode}: {html.escape(task)}{stages}</h2><p>{marks}</p>{image}</section>"
    ), found


def _picture(frames: UInt8[Tensor, "t h w 3"], labels: EpisodeLabels) -> bytes:
    buffer = io.BytesIO()
    plot_strip(frames, labels).savefig(buffer, format="png", dpi=80, metadata={"Software": _MARK})
    return buffer.getvalue()


def _page(name: str, flags: dict[int, list[str]], rows: list[str]) -> str:
    kinds: dict[str, list[int]] = {}
    for episode, found in flags.items():
        for kind in dict.fromkeys(flag.split(":")[0] for flag in found):
            kinds.setdefault(kind, []).append(episode)
    lines = "".join(
        f"<li>{html.escape(kind)}, {len(episodes)}: "
        + " ".join(f'<a href="#episode-{episode}">{episode}</a>' for episode in episodes)
        + "</li>"
        for kind, episodes in kinds.items()
    )
    flagged = sum(bool(found) for found in flags.values())
    summary = f"{flagged} of {len(flags)} episodes deserve a look"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<meta name='generator' content='{_MARK}'>"
        f"<title>{html.escape(name)}: progress</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(name)}</h1><p>{summary}{':' if lines else '.'}</p><ul>{lines}</ul>"
        "<p>Above each curve: frames at equal steps of time. Bands are stages, dots their "
        "subgoals; blue is progress, orange the raw similarity to the goal.</p>"
        + "\n".join(rows)
        + "</body></html>\n"
    )
