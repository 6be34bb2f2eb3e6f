"""How much frozen features say: linear probes on held-out episodes, and collapse figures."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from progress_labels.clips import FrameBank

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties that are tried, in units of the mean squared feature norm."""


class Spread(NamedTuple):
    """How far features are from collapse; measured over frames, at each patch on its own."""

    std: float
    """Mean standard deviation of a feature over frames."""
    effective_rank: float
    """exp(entropy of the spectrum of the features' correlations), 1 … D."""


def feature_spread(features: Float[Tensor, "n p d"]) -> Spread:
    """Measure the spread of patch features over frames.

    The mean over frames is taken out at each patch, so position alone is no spread.

    Source: effective rank after Roy & Vetterli (2007).
    """
    centred = (features - features.mean(dim=0)).double()
    std = centred.square().mean(dim=(0, 1)).sqrt()
    flat = (centred / std.clamp(min=1e-9)).flatten(0, 1)
    spectrum = torch.linalg.eigvalsh(flat.T @ flat / len(flat)).clamp(min=0.0)
    share = spectrum / spectrum.sum().clamp(min=1e-300)
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    return Spread(float(centred.square().mean(dim=0).sqrt().mean()), float(entropy.exp()))


def probe(features: Float[Tensor, "n ..."], bank: FrameBank, *, seed: int = 0) -> dict[str, float]:
    """Measure how well a ridge regression on frozen features predicts facts about a frame.

    Episodes are split 60 / 20 / 20 into fit, choice of the penalty, and test. Each group of
    the bank (camera of a dataset) has a regression of its own; scores are means over groups.

    Args:
        features: Of each frame of the bank.
        bank: Frames with their time fraction and state.
        seed: Seed of the split.

    Returns:
        R² on the test episodes of the time fraction (``"time"``) and, where there is one, of the
        robot state (``"state"``, mean over its coordinates that vary). 1 is perfect; a coordinate
        that is predicted worse than by its mean counts as 0.

    Raises:
        ValueError: If a group has fewer than five episodes.
    """
    rng = np.random.default_rng(seed)
    targets = {"time": bank.fraction[:, None]}
    if bank.state.shape[1]:
        targets["state"] = bank.state
    scores: dict[str, list[float]] = {name: [] for name in targets}
    for group in np.unique(bank.group):
        seen = np.flatnonzero(bank.group == group)
        episodes = rng.permutation(np.unique(bank.episode[seen]))
        if len(episodes) < 5:
            raise ValueError(f"A probe needs 5 episodes of each group, got {len(episodes)}.")
        parts = np.split(episodes, [int(0.6 * len(episodes)), int(0.8 * len(episodes))])
        rows = [np.flatnonzero(np.isin(bank.episode[seen], part)) for part in parts]
        x = features[torch.from_numpy(seen)].flatten(1).double().cpu()
        for name, values in targets.items():
            scores[name].append(_ridge_r2(x, values[seen], rows))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def _ridge_r2(x: Tensor, targets: NDArray[np.float32], rows: list[NDArray[np.int64]]) -> float:
    y = torch.from_numpy(targets).double()
    fit, choice, test = (torch.from_numpy(part) for part in rows)
    x = x - x[fit].mean(dim=0)
    y = y - y[fit].mean(dim=0)
    # The dual form: there may be more features than frames.
    values, vectors = torch.linalg.eigh(x[fit] @ x[fit].T)
    rotated = vectors.T @ y[fit]
    candidates = []
    for penalty in _PENALTIES:
        weight = vectors @ (rotated / (values.clamp(min=0.0) + penalty * values.mean())[:, None])
        guess = x @ (x[fit].T @ weight)
        candidates.append((_r2(guess[choice], y[choice]), _r2(guess[test], y[test])))
    return max(candidates)[1]


def _r2(guess: Tensor, truth: Tensor) -> float:
    """Return R², averaged over target columns that vary."""
    total = (truth - truth.mean(dim=0)).square().sum(dim=0)
    varies = total > 1e-6 * len(truth)
    error = (truth - guess).square().sum(dim=0)
    return float((1.0 - error[varies] / total[varies]).clamp(min=0.0).mean())
