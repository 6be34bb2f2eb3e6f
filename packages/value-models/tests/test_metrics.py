import subprocess
import sys

import pytest
import torch

from value_models.functional.agreement import (
    mean_absolute_error,
    order_accuracy,
    rank_correlation,
)
from value_models.metrics import OrderAccuracy, ProgressError, RankCorrelation

CASES = [
    (OrderAccuracy, lambda p, y: order_accuracy(p[y.isfinite()])),
    (RankCorrelation, lambda p, y: rank_correlation(p[y.isfinite()])),
    (ProgressError, mean_absolute_error),
]


def _episodes(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for t in range(5, 5 + num):
        progress = torch.rand(t, generator=generator)
        target = torch.linspace(0, 1, t)
        target[t // 2] = torch.nan
        yield progress, target


@pytest.mark.parametrize(("metric", "score"), CASES)
def test_mean_over_episodes_of_the_function(metric, score):
    metric = metric()
    for progress, target in _episodes(6):
        metric.update(progress, target)
    expected = torch.stack([score(p, y) for p, y in _episodes(6)]).mean()
    torch.testing.assert_close(metric.compute(), expected)


@pytest.mark.parametrize(("metric", "score"), CASES)
def test_unlabelled_episodes_leave_the_mean(metric, score):
    with_one, without = metric(), metric()
    for progress, target in _episodes(3):
        with_one.update(progress, target)
        without.update(progress, target)
    with_one.update(torch.rand(9), torch.full((9,), torch.nan))
    torch.testing.assert_close(with_one.compute(), without.compute())


RANKS_SCRIPT = """
import os, sys, torch
from value_models.metrics import OrderAccuracy
rank = int(os.fork() == 0)  # two ranks for the price of one import
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2
)
metric = OrderAccuracy()
curves = [[0., 1.], [1., 0.], [0., 2., 1.]]  # scores 1, 0 and 2/3
for curve in curves[:1] if rank == 0 else curves[1:]:
    metric.update(torch.tensor(curve), torch.zeros(len(curve)))
value = metric.compute()
os.write(1, f"{value:.6f}\\n".encode())  # one call, so that the ranks' lines stay whole
torch.distributed.destroy_process_group()
if rank == 0:
    os.wait()
"""


def test_ranks_with_unequal_shares_give_the_global_mean(tmp_path):
    command = [sys.executable, "-c", RANKS_SCRIPT, str(tmp_path / "store")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    # The mean of the ranks' means would be (1 + 1/3) / 2 = 0.667.
    assert run.stdout.split() == ["0.555556"] * 2
