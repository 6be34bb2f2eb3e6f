"""Recordings for the Rerun viewer: frames, progress, stage and similarity on one timeline."""

from pathlib import Path

import numpy as np

from progress_labels.dataset import EpisodeDataset
from progress_labels.errors import DatasetError
from progress_labels.labels import LABEL_FILE, read_labels, read_problems


def write_recording(
    root: str | Path,
    out: str | Path,
    *,
    camera: str | None = None,
    labels: str | Path | None = None,
) -> Path:
    """Write labelled episodes as an ``.rrd`` file; ``rerun FILE`` opens it.

    Each episode is an entity ``episode_<index>`` with ``frame``, ``progress``, ``stage`` and
    ``similarity`` on the timeline ``frame``; unknown values are left out. An episode that could not
    be labelled holds the reason as text.

    Args:
        root: Root folder of a labelled dataset.
        out: File to write, under a temporary name first.
        camera: Camera to show; the first one when None.
        labels: Label file; ``<root>/feat2go_progress.parquet`` when None.

    Returns:
        ``out``.

    Raises:
        DatasetError: If dataset or labels cannot be read.
        FileExistsError: If ``out`` exists.
        ImportError: If ``rerun-sdk`` is not installed.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ImportError(
            f"recordings need rerun-sdk ({error}); run `pip install 'progress-labels[rerun]'`"
        ) from error
    target = Path(out)
    if target.exists():
        raise FileExistsError(f"{target} exists; remove it or choose another `out`.")
    dataset = EpisodeDataset(root, camera=camera, check_videos=False)
    path = dataset.root / LABEL_FILE if labels is None else Path(labels)
    known, problems = read_labels(path), read_problems(path)
    temporary = target.with_name(f".{target.name}.tmp")
    recording = rr.RecordingStream("progress_labels")
    try:
        recording.save(temporary)
        for position in range(len(dataset)):
            index = dataset.files(position).episode_index
            entity = f"episode_{index:06d}"
            label, problem = known.get(index), problems.get(index, "")
            try:
                frames = dataset[position]["frames"]
            except DatasetError as error:
                label, problem = None, str(error)
            if label is None or problem:
                recording.log(entity, rr.TextLog(problem or "no labels"), static=True)
                continue
            for i, frame in enumerate(np.asarray(frames)):
                recording.set_time("frame", sequence=i)
                recording.log(f"{entity}/frame", rr.Image(frame).compress(jpeg_quality=90))
                for name in ("progress", "stage", "similarity"):
                    value = float(getattr(label, name)[i])
                    if np.isfinite(value):
                        recording.log(f"{entity}/{name}", rr.Scalars(value))
        recording.flush()
        recording.disconnect()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
