"""Datasets by their Hugging Face Hub id: fetched to where LeRobot keeps its own."""

import os
import re
from pathlib import Path

from progress_labels.errors import DatasetError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_root(source: str | Path, *, revision: str | None = None) -> Path:
    """Return the folder of a dataset, fetching it first if ``source`` is a Hub id and no path.

    Args:
        source: A path, or ``owner/name`` of a dataset on the Hub, which goes to
            ``$HF_LEROBOT_HOME/owner/name`` (``~/.cache/huggingface/lerobot`` by default), as
            LeRobot's datasets do; labels written there are found by LeRobot.
        revision: Commit, tag or branch on the Hub.

    Returns:
        The path as it is, or the folder of what was fetched. What is there already and up to date
        is not fetched again; label files in it stay.

    Raises:
        DatasetError: If it cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.exists() or not _HUB_ID.fullmatch(str(source)):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HOME

    home = Path(os.environ.get("HF_LEROBOT_HOME", str(Path(HF_HOME) / "lerobot"))).expanduser()
    try:
        folder = snapshot_download(
            str(source), repo_type="dataset", revision=revision, local_dir=home / source
        )
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"No folder {str(source)!r}, and no such dataset could be fetched from the Hugging "
            f"Face Hub ({type(error).__name__}). Check the path or the name, and the network."
        ) from error
    return Path(folder)
