"""Episode-wise agreement as torchmetrics, so that sums are reduced over ranks, not means."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from value_models.functional.agreement import (
    mean_absolute_error,
    order_accuracy,
    rank_correlation,
)


class EpisodeMean(Metric):  # type: ignore[misc]  # torchmetrics is not checked here
    """Mean over episodes of a score of one episode; NaN scores leave the mean."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, progress: Float[Tensor, " t"], target: Float[Tensor, " t"]) -> None:
        """Add one episode: predictions, and labels that are NaN for frames to leave out."""
        score = self.score(progress.detach().float(), target)
        if score.isfinite():
            self.total += score
            self.count += 1

    def compute(self) -> Float[Tensor, ""]:
        """Mean over the episodes of all ranks; NaN without any."""
        return (self.total / self.count).float()

    @abstractmethod
    def score(self, progress: Float[Tensor, " t"], target: Float[Tensor, " t"]) -> Tensor:
        """Score of one episode."""


class OrderAccuracy(EpisodeMean):
    """Mean over episodes of `functional.order_accuracy` on labelled frames."""

    def score(self, progress: Float[Tensor, " t"], target: Float[Tensor, " t"]) -> Tensor:
        """Score of one episode, in [0, 1]."""
        return order_accuracy(progress, mask=target.isfinite())


class RankCorrelation(EpisodeMean):
    """Mean over episodes of `functional.rank_correlation` with time on labelled frames."""

    def score(self, progress: Float[Tensor, " t"], target: Float[Tensor, " t"]) -> Tensor:
        """Score of one episode, in [-1, 1]."""
        return rank_correlation(progress, mask=target.isfinite())


class ProgressError(EpisodeMean):
    """Mean over episodes of the mean absolute error against the labels."""

    higher_is_better = False

    def score(self, progress: Float[Tensor, " t"], target: Float[Tensor, " t"]) -> Tensor:
        """Error of one episode, in [0, 1]."""
        return mean_absolute_error(progress, target)
