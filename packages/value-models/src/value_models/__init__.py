"""Value and reward models that turn robot frames into task progress.

The Lightning parts are imported by module: `value_models.training`, `value_models.data`,
`value_models.module`.
"""

from value_models.functional import (
    bin_centers,
    distributional_cross_entropy,
    expectation,
    hl_gauss,
    linear_time_progress,
    mean_absolute_error,
    order_accuracy,
    rank_correlation,
    success_auroc,
    two_hot,
)
from value_models.progress_model import DistributionalProgressModel, LinearTimeModel
from value_models.types import (
    FrameEncoder,
    Observation,
    ProgressBatch,
    ProgressEpisode,
    ProgressModel,
    ProgressOutput,
)

__version__ = "0.1.0"

__all__ = [
    "DistributionalProgressModel",
    "FrameEncoder",
    "LinearTimeModel",
    "Observation",
    "ProgressBatch",
    "ProgressEpisode",
    "ProgressModel",
    "ProgressOutput",
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
