import re

import pytest

from value_models.data import ProgressDataModule
from value_models.evaluation import EpisodePrediction
from value_models.plots import plot_film_strip
from value_models.progress_model import DistributionalProgressModel
from value_models.report import write_report
from value_models.sarm2 import GatedValueModel, PrimitiveEstimator
from value_models.testing import PixelEncoder, make_episodes

SMALL = {"hidden_dim": 8, "num_layers": 1, "num_heads": 2, "num_frames": 3, "stride": 2}


def _data(**changes):
    episodes = [
        *make_episodes(6, num_failures=2),
        *({**e, "task": "lift it", "episode_index": 20 + i}
          for i, e in enumerate(make_episodes(6, seed=1))),
    ]  # fmt: skip
    settings = {"camera": "hand", "val_fraction": 0.5, "progress_bar": False, **changes}
    data = ProgressDataModule(episodes=episodes, encoder=PixelEncoder(), **settings)
    data.setup()
    return data


def _inputs(data):
    return {
        "camera": "hand",
        "encoder_id": data.encoder_id,
        "num_patches": data.num_patches,
        "feature_dim": data.feature_dim,
    }


def test_report_shows_strips_tables_and_reliability(tmp_path):
    data = _data()
    model = DistributionalProgressModel(**_inputs(data), hidden_dim=8).eval()
    evaluation = write_report(tmp_path / "new" / "report.html", model, data, num_strips=2)
    page = (tmp_path / "new" / "report.html").read_text()
    assert page.count("data:image/png") == 2 + 2 + 1
    cells = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td>", page)
    tasks = ["all tasks", "push the block to the right", "lift it"]
    assert sorted({task for task, *_ in cells}) == sorted(tasks)
    assert cells[0] == ("all tasks", "model", f"{evaluation.model.order_accuracy:.3f}")
    assert "Reliability" in page
    assert "Experts" not in page
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]


def test_experts_are_shown_by_the_primitives_that_occur(tmp_path):
    data = _data()
    model = GatedValueModel(**_inputs(data), **SMALL, num_experts=3, expert_dim=8).eval()
    write_report(tmp_path / "report.html", model, data, num_strips=0)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "Collapse score" in page


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    data = _data()
    with pytest.raises(ValueError, match="model with progress to report, got PrimitiveEstimator"):
        write_report(path, PrimitiveEstimator(**_inputs(data), **SMALL), data)
    with pytest.raises(ValueError, match="`num_strips` of at least 0, got -1"):
        write_report(path, None, data, num_strips=-1)
    assert path.read_text() == "old"


def test_names_are_escaped(tmp_path):
    data = _data()
    data.val_episodes = [e._replace(task="<b>push</b>") for e in data.val_episodes]
    model = DistributionalProgressModel(**_inputs(data), hidden_dim=8).eval()
    write_report(tmp_path / "r.html", model, data, num_strips=0, title="a < b")
    page = (tmp_path / "r.html").read_text()
    assert "<b>push" not in page
    assert "&lt;b&gt;push" in page
    assert "<h1>a &lt; b</h1>" in page


def test_film_strip_shows_frames_at_their_places():
    episode = make_episodes(1, length=(20, 20))[0]
    prediction = EpisodePrediction(
        episode_index=4,
        task="push",
        success=False,
        progress=episode["progress"],
        label=episode["progress"],
    )
    frames = episode["observation.images.hand"]
    figure = plot_film_strip(prediction, frames, num_frames=5)
    curve, *panels = figure.axes
    assert curve.get_title() == "episode 4, failure: push"
    assert [panel.get_title() for panel in panels] == ["0", "5", "10", "14", "19"]
    (image,) = panels[2].images
    assert (image.get_array() == frames[10]).all()
    with pytest.raises(ValueError, match="Expected 20 `frames`, got 19"):
        plot_film_strip(prediction, frames[1:])
