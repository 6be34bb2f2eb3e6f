import numpy as np
import pytest

from bench_adapters.functional.statistics import (
    QUANTILES,
    feature_stats,
    image_stats,
    merge_stats,
)


def _reference(column):
    """Statistics of one column by definition, in float64."""
    ordered = sorted(float(x) for x in column)
    n = len(ordered)
    mean = sum(ordered) / n
    stats = {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "std": (sum((x - mean) ** 2 for x in ordered) / n) ** 0.5,
        "count": n,
    }
    for name, q in QUANTILES.items():  # linear interpolation between neighbours
        position = q * (n - 1)
        i = min(int(position), n - 2)
        stats[name] = ordered[i] + (position - i) * (ordered[i + 1] - ordered[i])
    return stats


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_feature_stats_by_definition(dtype):
    values = (10 * np.random.default_rng(0).standard_normal((37, 3))).astype(dtype)
    stats = feature_stats(values)
    for d in range(3):
        for name, expected in _reference(values[:, d]).items():
            found = stats[name][0 if name == "count" else d]
            assert found == pytest.approx(expected, abs=1e-9), name


def test_scalars_get_one_component():
    assert {v.shape for v in feature_stats(np.arange(5.0)).values()} == {(1,)}


def test_image_stats_by_pixel():
    frames = np.random.default_rng(1).integers(0, 200, (6, 5, 4, 3), np.uint8)
    stats = image_stats(frames)
    pixels = frames.reshape(-1, 3) / 255.0
    expected = {
        "min": pixels.min(0),
        "max": pixels.max(0),
        "mean": pixels.mean(0),
        "std": pixels.std(0),
        **{k: np.quantile(pixels, q, axis=0, method="inverted_cdf") for k, q in QUANTILES.items()},
    }
    for name, value in expected.items():
        assert stats[name].shape == (3, 1, 1)
        np.testing.assert_allclose(stats[name].reshape(3), value, atol=1e-12, err_msg=name)
    assert stats["count"] == 6


def test_long_episodes_are_sampled_evenly():
    frames = np.zeros((1000, 2, 2, 3), np.uint8)
    frames[-1] = 255
    stats = image_stats(frames, max_frames=100)
    assert stats["count"] == 100
    assert (stats["max"] == 1).all()  # the last frame is one of them


def test_merged_parts_are_the_whole():
    values = np.random.default_rng(2).standard_normal((60, 2))
    merged = merge_stats([feature_stats(part) for part in np.split(values, [7, 40])])
    whole = feature_stats(values)
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(merged[name], whole[name], rtol=1e-12, err_msg=name)


def test_merged_quantiles_are_weighted_means():
    parts = [feature_stats(np.full(3, 1.0)), feature_stats(np.full(9, 5.0))]
    assert merge_stats(parts)["q50"] == pytest.approx([4.0])
