"""Segmentation and targets of a long episode: milliseconds, and the ratio to ruptures' Pelt.

Pelt takes minutes on 10,000 frames with a linear model, hence the ratio is taken at ``--pelt``
frames, on a curve of the same kind, in the same run. Times are those of the process; making the
curve is not in them.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from progress_labels import hierarchical_progress, sarm_progress, stage_priors, trend_stages


def main() -> None:
    """Print medians over repetitions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--pelt", type=int, default=1_000, help="frames for the ratio to Pelt")
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    long = _curve(arguments.frames)
    ours = _median_s(lambda: _segment(long), arguments.repeats)
    print(f"{arguments.frames} frames: {1e3 * ours:.2f} ms (n = {arguments.repeats})")
    import ruptures

    curve = _curve(arguments.pelt)
    short = _median_s(lambda: _segment(curve), arguments.repeats)
    pelt = _median_s(
        lambda: ruptures.Pelt(model="l2", min_size=6, jump=1).fit(curve).predict(pen=0.05), 3
    )
    print(f"{arguments.pelt} frames: {1e3 * short:.2f} ms; Pelt (l2) {1e3 * pelt:.0f} ms (n = 3)")
    print(f"ratio {pelt / short:.0f}")


def _curve(frames: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    knots = np.linspace(0, frames - 1, 11)
    level = np.repeat(np.linspace(0, 1, 6), 2)[:11]
    return np.interp(np.arange(frames), knots, level) + 0.003 * rng.normal(size=frames)


def _segment(curve: np.ndarray) -> None:
    stage = trend_stages(curve, window=max(5, len(curve) // 100))
    hierarchical_progress(stage, curve)
    sarm_progress(stage, stage_priors([stage]))


def _median_s(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


if __name__ == "__main__":
    main()
