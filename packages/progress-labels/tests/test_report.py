import re

import numpy as np
import pytest

from progress_labels.doctor import examine
from progress_labels.encoders import load_encoder
from progress_labels.errors import DatasetError
from progress_labels.labels import label_dataset, unknown_labels
from progress_labels.report import episode_flags, write_report
from progress_labels.testing import make_dataset
from progress_labels.types import EpisodeLabels


def _labels(progress):
    progress = np.asarray(progress, dtype=np.float32)
    return EpisodeLabels(progress, np.zeros(len(progress), np.int32), 1, progress)


def test_flags_tell_what_is_wrong_and_only_that():
    good = np.linspace(0, 1, 40)
    assert episode_flags(_labels(good), success=True) == []
    spike = good.copy()
    spike[20] = 0.0  # one frame is noise
    assert episode_flags(_labels(spike), success=True) == []
    stuck = np.concatenate([good[:20], np.full(30, 0.49), good[20:]])
    assert [flag.split(":")[0] for flag in episode_flags(_labels(stuck), success=True)] == ["stall"]
    dropped = np.concatenate([good[:30], good[15:]])
    found = episode_flags(_labels(dropped), success=True)
    assert any(flag.startswith("regression: frames 3") for flag in found)
    half = np.linspace(0, 0.5, 40)
    assert "ends at 0.5" in " ".join(episode_flags(_labels(half), success=True))
    assert episode_flags(unknown_labels(9), success=False) == [
        "never finished: no success was recorded"
    ]
    assert episode_flags(_labels(good), success=True, problem="no video") == [
        "not labelled: no video"
    ]


def test_the_page_has_a_row_per_episode_the_flagged_first(tmp_path):
    root = tmp_path / "set <b>"
    make_dataset(root, num_episodes=3, failures=1)
    with pytest.raises(DatasetError, match="No label file"):
        write_report(root, tmp_path / "report")
    label_dataset(root, load_encoder(), progress_bar=False)
    page, flags = write_report(root, tmp_path / "report")
    text = page.read_text()
    order = [int(number) for number in re.findall(r'id="episode-(\d+)"', text)]
    flagged = [episode for episode, found in flags.items() if found]
    assert sorted(order) == [0, 1, 2]
    assert order[: len(flagged)] == flagged
    assert 2 in flagged
    assert f"{len(flagged)} of 3 episodes deserve a look" in text
    assert '<li>never finished, 1: <a href="#episode-2">2</a></li>' in text
    assert "set &lt;b&gt;" in text
    assert "<b>" not in text
    assert text.count("data:image/png;base64,") == 3
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        *(f"episode-00000{number}.png" for number in range(3)),
        "index.html",
    ]


@pytest.mark.parametrize("name", ["index.html", "episode-000001.png"])
def test_only_files_of_a_report_are_replaced(tmp_path, name):
    root, out = tmp_path / "set", tmp_path / "site"
    make_dataset(root, num_episodes=2)
    label_dataset(root, load_encoder(), progress_bar=False)
    out.mkdir()
    (out / name).write_bytes(b"somebody's")
    with pytest.raises(DatasetError, match=f"{name} is not of a report; choose another folder"):
        write_report(root, out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_bytes() == b"somebody's"
    (out / name).unlink()
    first, _ = write_report(root, out)
    before = first.read_bytes()
    again, _ = write_report(root, out)
    assert again.read_bytes() == before


def test_an_episode_that_cannot_be_read_has_a_row_that_says_so(tmp_path):
    root = tmp_path / "set"
    make_dataset(root, num_episodes=2)
    label_dataset(root, load_encoder(), progress_bar=False)
    (root / "videos/observation.images.base/chunk-000/file-000.mp4").unlink()
    page, flags = write_report(root, tmp_path / "report")
    assert all("not labelled" in found[0] for found in flags.values())
    assert "file-000.mp4" in page.read_text()


def test_the_doctor_names_the_episode_that_is_ill(tmp_path):
    root = tmp_path / "set"
    make_dataset(root, num_episodes=2)
    healthy = examine(root)
    assert [finding.ok for finding in healthy] == [True] * len(healthy)
    assert {"versions", "torchvision", "device", "offline encoder", "dataset", "folder"} == {
        finding.name for finding in healthy
    }
    (tmp_path / "short").mkdir()
    make_dataset(tmp_path / "short", num_episodes=1)
    video = "videos/observation.images.base/chunk-000/file-000.mp4"
    (root / video).write_bytes((tmp_path / "short" / video).read_bytes())
    ill = [finding for finding in examine(root) if not finding.ok]
    assert [finding.name for finding in ill] == ["episode 1"]
    assert "truncated" in ill[0].detail
    assert [finding.ok for finding in examine(tmp_path)][-1] is False
