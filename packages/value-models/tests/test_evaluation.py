import json
import math

import numpy as np
import pytest
import torch

from value_models.evaluation import evaluate_progress
from value_models.functional.agreement import order_accuracy, rank_correlation
from value_models.progress_model import DistributionalProgressModel
from value_models.testing import PixelEncoder, make_episodes


def _evaluate(episodes, **options):
    torch.manual_seed(0)
    model = DistributionalProgressModel(
        camera="hand", encoder_id="pixel-4x4-2", num_patches=16, feature_dim=24, hidden_dim=8
    )
    return evaluate_progress(model, episodes, encoder=PixelEncoder(), progress_bar=False, **options)


def test_scores_are_means_over_labelled_episodes():
    episodes = make_episodes(3, num_failures=2)
    result = _evaluate(episodes)
    curves = [torch.from_numpy(p.progress) for p in result.predictions]
    errors = [
        np.abs(p.progress - e["progress"]).mean()
        for p, e in zip(result.predictions[:3], episodes, strict=False)
    ]
    mean = {
        f: torch.stack([f(c) for c in curves[:3]]).mean()
        for f in (order_accuracy, rank_correlation)
    }
    assert result.model.order_accuracy == pytest.approx(mean[order_accuracy].item())
    assert result.model.rank_correlation == pytest.approx(mean[rank_correlation].item())
    assert result.model.mean_absolute_error == pytest.approx(np.mean(errors))
    assert (result.num_episodes, result.num_failures) == (3, 2)
    assert result.model.final_progress_failure == pytest.approx(
        np.mean([c[-1] for c in curves[3:]])
    )


def test_clock_is_scored_beside_the_model():
    result = _evaluate(make_episodes(2, num_failures=2, length=(20, 20)), mean_length=20.0)
    assert result.baseline.order_accuracy == 1.0
    assert result.baseline.final_progress_failure == 1.0
    assert result.baseline.final_progress_auroc == 0.5
    assert "linear time" in result.table()


def test_without_failures_or_labels_scores_are_nan():
    no_failures = _evaluate(make_episodes(2))
    assert no_failures.baseline is None
    assert math.isnan(no_failures.model.final_progress_auroc)
    no_labels = _evaluate(make_episodes(0, num_failures=2))
    assert math.isnan(no_labels.model.order_accuracy)
    assert not math.isnan(no_labels.model.final_progress_failure)


def test_figures_go_to_json():
    figures = json.loads(json.dumps(_evaluate(make_episodes(2, num_failures=1)).to_dict()))
    assert set(figures) == {"model", "baseline", "num_episodes", "num_failures"}
