"""Terms that keep self-supervised features from collapsing (VICReg)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def variance_covariance(
    features: Float[Tensor, "n p d"], *, target_std: float = 1.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the hinge on too little variance and the penalty on correlated features.

    v = 1/D Σ_j max(0, target − std_j),   c = 1/D Σ_{i≠j} C_ij²

    Args:
        features: Patch features of n ≥ 2 frames. The mean over frames is taken out at each patch,
            so that a code of the patch's position counts as no variance.
        target_std: Standard deviation over frames that is enough.

    Returns:
        v ≥ 0 and c ≥ 0, each 0 for decorrelated features with enough variance.

    Raises:
        ValueError: If there are fewer than two frames.

    Source: VICReg, arXiv 2105.04906, Eq. 1 and 3; used with masked latent prediction in C-JEPA,
        arXiv 2410.19560.
    """
    if len(features) < 2:
        raise ValueError(f"Expected `features` of at least 2 frames, got {len(features)}.")
    centred = (features - features.mean(dim=0)).flatten(0, 1)
    covariance = centred.T @ centred / (len(centred) - features.shape[1])
    std = torch.sqrt(covariance.diagonal() + 1e-4)
    off_diagonal = covariance - covariance.diagonal().diag()
    return F.relu(target_std - std).mean(), off_diagonal.square().sum() / features.shape[-1]
