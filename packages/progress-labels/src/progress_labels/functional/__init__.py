"""Pure functions: arrays or tensors in, arrays or tensors out."""

from progress_labels.functional.alignment import (
    aligned_stages,
    common_stage_count,
    nearest_goal,
    pooled_progress,
    reference_progress,
)
from progress_labels.functional.masks import multi_block_mask
from progress_labels.functional.quality import (
    boundary_f1,
    order_accuracy,
    regressions,
    stalls,
    success_auroc,
    value_order_correlation,
)
from progress_labels.functional.reanchored import reanchored_stages
from progress_labels.functional.rests import common_rests, rest_depth
from progress_labels.functional.sarm import (
    SEGMENT_SLOPES,
    rollout_progress,
    sarm_progress,
    stage_priors,
    steps_to_go_fraction,
)
from progress_labels.functional.similarity import (
    calibrated_beta,
    denoised_curve,
    mean_around,
    patch_similarity,
    subgoal_similarity,
)
from progress_labels.functional.spread import variance_covariance
from progress_labels.functional.stages import active_length, trend_stages, window_slopes
from progress_labels.functional.targets import (
    hierarchical_progress,
    steps_to_go,
    time_fraction,
)

__all__ = [
    "SEGMENT_SLOPES",
    "active_length",
    "aligned_stages",
    "boundary_f1",
    "calibrated_beta",
    "common_rests",
    "common_stage_count",
    "denoised_curve",
    "hierarchical_progress",
    "mean_around",
    "multi_block_mask",
    "nearest_goal",
    "order_accuracy",
    "patch_similarity",
    "pooled_progress",
    "reanchored_stages",
    "reference_progress",
    "regressions",
    "rest_depth",
    "rollout_progress",
    "sarm_progress",
    "stage_priors",
    "stalls",
    "steps_to_go",
    "steps_to_go_fraction",
    "subgoal_similarity",
    "success_auroc",
    "time_fraction",
    "trend_stages",
    "value_order_correlation",
    "variance_covariance",
    "window_slopes",
]
