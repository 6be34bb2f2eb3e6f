"""Pure functions: tensors in, tensors out."""

from value_models.functional.agreement import (
    linear_time_progress,
    mean_absolute_error,
    order_accuracy,
    rank_correlation,
    success_auroc,
)
from value_models.functional.bins import bin_centers, expectation, hl_gauss, two_hot
from value_models.functional.losses import distributional_cross_entropy

__all__ = [
    "bin_centers",
    "distributional_cross_entropy",
    "expectation",
    "hl_gauss",
    "linear_time_progress",
    "mean_absolute_error",
    "order_accuracy",
    "rank_correlation",
    "success_auroc",
    "two_hot",
]
