import numpy as np
import pytest
import torch

from progress_labels import metrics, order_accuracy, time_fraction


def test_means_are_over_episodes_and_leave_the_undefined_out():
    metric = metrics.OrderAccuracy()
    first, second = torch.tensor([0.0, 0.5, 0.4]), torch.linspace(0, 1, 50)
    for progress in (first, second, torch.ones(1)):
        metric.update(progress)
    assert metric.compute() == pytest.approx((order_accuracy(first.numpy()) + 1.0) / 2)
    metric.reset()
    metric.update(torch.ones(1))
    assert metric.compute().isnan()


def test_a_ramp_is_perfect_in_order_and_blind_to_success():
    ramp = torch.from_numpy(time_fraction(20))
    order, auroc = metrics.ValueOrderCorrelation(), metrics.SuccessAUROC()
    for number in range(6):
        order.update(ramp)
        auroc.update(ramp, success=number % 2 == 0)
    assert order.compute() == pytest.approx(1.0)
    assert auroc.compute() == 0.5


def test_errors_against_the_truth():
    error, count = metrics.ProgressError(), metrics.StageCountError()
    error.update(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]))
    error.update(torch.tensor([1.0]), torch.tensor([0.0]))
    assert error.compute() == pytest.approx(0.625)
    count.update(3, 5)
    count.update(4, 4)
    assert count.compute() == 1.0
    with pytest.raises(ValueError, match="got 3 for 2"):
        error.update(torch.zeros(2), torch.zeros(3))


def test_the_tolerance_is_a_share_of_the_episode():
    truth = torch.repeat_interleave(torch.arange(2), 50)
    stage = torch.repeat_interleave(torch.arange(2), torch.tensor([54, 46]))
    strict, lenient = metrics.BoundaryF1(tolerance=0.03), metrics.BoundaryF1()
    strict.update(stage, truth)
    lenient.update(stage, truth)
    assert (strict.compute(), lenient.compute()) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"`tolerance` in \[0, 1\], got 2"):
        metrics.BoundaryF1(tolerance=2)


def test_stalls_and_regressions_are_counted_by_episode():
    good = torch.linspace(0, 1, 40)
    stuck = torch.cat([good[:20], torch.full((40,), 0.5)])
    dropped = torch.cat([good[:30], good[10:]])
    stall, regression = metrics.StallRate(), metrics.RegressionRate()
    for progress in (good, stuck, dropped, good):
        stall.update(progress)
        regression.update(progress)
    # The stuck one, and the dropped one: it needs 20 of its 60 frames to come back to where it was.
    assert stall.compute() == 0.5
    assert regression.compute() == 0.25
    with pytest.raises(ValueError, match=r"`min_share` in \(0, 1\]"):
        metrics.StallRate(min_share=0.0)


def test_states_of_two_processes_join():
    """Distributed reduction sums means and concatenates scores."""
    scores, success = np.array([0.9, 0.8, 0.3, 0.85]), [True, True, False, False]
    parts = [metrics.SuccessAUROC(sync_on_compute=False) for _ in range(2)]
    whole = metrics.SuccessAUROC()
    for number, (score, won) in enumerate(zip(scores, success, strict=True)):
        for metric in (parts[number % 2], whole):
            metric.update(torch.tensor([0.0, score]), success=won)
    _sync(parts[0], parts[1])
    assert parts[0].compute() == whole.compute() == 0.75


def test_means_of_two_processes_are_over_all_episodes_of_both():
    parts = [metrics.ProgressError(sync_on_compute=False) for _ in range(2)]
    for part, errors in zip(parts, ([0.1], [0.4, 0.7]), strict=True):
        for error in errors:
            part.update(torch.tensor([error]), torch.tensor([0.0]))
    _sync(parts[0], parts[1])
    assert parts[0].compute() == pytest.approx(0.4)  # not the mean of 0.1 and 0.55


def _sync(metric, other):
    """Synchronise as torchmetrics does between two processes; ``other`` is the second one."""
    theirs = iter([torch.cat(v) if isinstance(v, list) else v for v in other.metric_state.values()])
    metric.sync(
        dist_sync_fn=lambda own, group=None: [own, next(theirs)],
        distributed_available=lambda: True,
    )
