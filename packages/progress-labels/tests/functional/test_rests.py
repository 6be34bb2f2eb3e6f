from itertools import pairwise

import numpy as np
import pytest

from progress_labels import common_rests, rest_depth


def _reference_depth(path, window):
    """The definition, frame by frame."""
    count = len(path)
    steps = [float(np.linalg.norm(b - a)) for a, b in pairwise(path)]
    speed = [0.5 * (steps[max(t - 1, 0)] + steps[min(t, count - 2)]) for t in range(count)]
    log = np.log(np.array(speed) + 1e-6)
    depth = np.zeros(count)
    for t in range(1, count - 1):
        before, after = log[max(0, t - window) : t], log[t + 1 : t + 1 + window]
        depth[t] = min(before.mean(), after.mean()) - log[t]
    return depth


def _path(rests, length=40, *, seed=0, pause=3, noise=0.0):
    """Walk from place to place, the same in all episodes, with pauses that begin at ``rests``."""
    rng = np.random.default_rng(seed)
    speed = rng.uniform(0.8, 1.2, size=length)
    for start in rests:
        speed[start : start + pause] = 0.1
    knots = np.concatenate([[0], np.cumsum(speed)[:-1]])
    edges = [0, *(knots[start + pause // 2] for start in rests), knots[-1]]
    places = np.array([[0, 0], [9, 1], [2, 12], [15, 15], [0, 20]], dtype=float)[: len(edges)]
    path = np.stack([np.interp(knots, edges, axis) for axis in places.T], axis=1)
    return path + noise * rng.normal(size=path.shape)


@pytest.mark.parametrize("window", [1, 3, 50])
def test_depth_is_its_definition(window):
    path = np.random.default_rng(0).normal(size=(17, 3)).cumsum(axis=0)
    np.testing.assert_allclose(rest_depth(path, window=window), _reference_depth(path, window))


def test_only_a_pause_is_deep_and_a_change_of_unit_changes_nothing():
    pause, slower, start = np.ones((3, 41, 1))
    pause[20:22] = slower[20:] = start[:20] = 0.2
    depth = {
        name: rest_depth(steps.cumsum(axis=0), window=4)[5:36].max()
        for name, steps in (("pause", pause), ("slower", slower), ("start", start))
    }
    assert depth["pause"] > 0.5
    assert max(depth["slower"], depth["start"]) < 0.2
    path = pause.cumsum(axis=0)
    np.testing.assert_allclose(
        rest_depth(1000 * path, window=4), rest_depth(path, window=4), atol=1e-4
    )


def test_common_rests_are_found_in_all_episodes_at_their_own_times():
    rests = [(8, 20), (12, 24), (10, 28), (14, 30), (9, 22)]
    paths = [_path(r, seed=n, noise=0.02) for n, r in enumerate(rests)]
    for stage, (first, second) in zip(common_rests(paths), rests, strict=True):
        found = np.flatnonzero(np.diff(stage))
        assert stage[-1] == 2
        assert abs(found - np.array([first + 1, second + 1])).max() <= 1


def test_a_pause_that_only_one_episode_makes_is_no_stage():
    rests = [(20,), (18,), (22,), (10, 24), (19,)]
    paths = [_path(r, seed=n, noise=0.02) for n, r in enumerate(rests)]
    # The odd one goes the others' way, but stops once more on it.
    paths[3] = _path((24,), seed=3, noise=0.02)
    paths[3] = np.concatenate([paths[3][:11], paths[3][10:11] + 0.01, paths[3][11:]])
    stages = common_rests(paths)
    assert {int(stage[-1]) for stage in stages} == {1}
    assert abs(int(np.flatnonzero(np.diff(stages[3]))[0]) - 26) <= 1


def test_without_a_rest_there_is_one_stage():
    rng = np.random.default_rng(0)
    paths = [rng.uniform(0.9, 1.1, size=(30, 2)).cumsum(axis=0) for _ in range(6)]
    assert {int(stage.max()) for stage in common_rests(paths)} == {0}
    still = [np.zeros((20, 2)), np.ones((1, 2))]
    assert [len(stage) for stage in common_rests(still)] == [20, 1]
    assert {int(stage.max()) for stage in common_rests(still)} == {0}


def test_the_order_of_the_episodes_does_not_matter():
    paths = [_path((9 + n, 22 + n), seed=n, noise=0.1) for n in range(5)]
    forward, backward = common_rests(paths), common_rests(paths[::-1])
    for first, second in zip(forward, backward[::-1], strict=True):
        np.testing.assert_array_equal(first, second)


def test_bad_arguments_are_named():
    path = np.zeros((5, 2))
    with pytest.raises(ValueError, match="`window` ≥ 1, got 0"):
        rest_depth(path, window=0)
    with pytest.raises(ValueError, match="finite `path`"):
        rest_depth(path * np.nan, window=1)
    with pytest.raises(ValueError, match=r"at least one path.*0, 0\.2 and 9"):
        common_rests([])
    with pytest.raises(ValueError, match=r"`min_depth` > 0"):
        common_rests([path], min_depth=0.0)
