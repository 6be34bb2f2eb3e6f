import numpy as np
import pytest

from progress_labels.labels import label_episode, unknown_labels
from progress_labels.plots import plot_episode
from progress_labels.testing import make_frames, make_staged_features


def test_shows_both_curves_and_every_subgoal(tmp_path):
    features, _ = make_staged_features(num_stages=3, frames_per_stage=16)
    labels, frames = label_episode(features), make_frames(frames_per_stage=16)
    figure = plot_episode(frames, labels, title="move")
    curves, *pictures = figure.axes
    lines = [line.get_ydata() for line in curves.get_lines()]
    np.testing.assert_array_equal(lines[0], labels.similarity)
    np.testing.assert_array_equal(lines[1], labels.progress)
    ends = [int(np.flatnonzero(labels.stage == n)[-1]) for n in range(3)]
    shown = [axis.get_images()[0].get_array() for axis in pictures]
    for picture, frame in zip(shown, [0, *ends], strict=True):
        np.testing.assert_array_equal(picture, frames[frame].numpy())
    figure.savefig(tmp_path / "episode.png")
    assert (tmp_path / "episode.png").stat().st_size > 5000


def test_bad_input_is_named():
    frames = make_frames()
    with pytest.raises(ValueError, match="48 frames and 5 labels"):
        plot_episode(frames, unknown_labels(5))
    with pytest.raises(ValueError, match="no labels"):
        plot_episode(frames, unknown_labels(48))
