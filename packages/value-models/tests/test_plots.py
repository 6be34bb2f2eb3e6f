import numpy as np
import pytest

from value_models.evaluation import EpisodePrediction
from value_models.plots import plot_curves


def _prediction(index, success=True):
    curve = np.linspace(0, 1, 9, dtype=np.float32)
    return EpisodePrediction(
        episode_index=index, task="a", success=success, progress=curve**2, label=curve
    )


def test_one_panel_per_episode_with_its_curves():
    figure = plot_curves([_prediction(0), _prediction(3, success=False), _prediction(5)], columns=2)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["episode 0, success", "episode 3, failure", "episode 5, success", ""]
    label, predicted = figure.axes[1].lines
    np.testing.assert_array_equal(label.get_ydata(), np.linspace(0, 1, 9, dtype=np.float32))
    np.testing.assert_array_equal(predicted.get_ydata(), label.get_ydata() ** 2)


def test_nothing_to_plot():
    with pytest.raises(ValueError, match="at least one episode"):
        plot_curves([])
