import numpy as np
import pytest
import torch

from value_models.progress_model import LinearTimeModel
from value_models.testing import (
    PixelEncoder,
    SyntheticEpisodes,
    check_progress_model,
    make_episodes,
    make_observation,
)


def _block_left_edge(frame):
    return int(np.nonzero((frame == (255, 192, 64)).all(-1).any(0))[0][0])


def test_progress_is_visible_in_the_frame():
    for episode in make_episodes(2, num_failures=1):
        frames, progress = episode["observation.images.hand"], episode["progress"]
        seen = np.array([_block_left_edge(frame) for frame in frames]) / 24
        if episode["success"]:
            assert np.abs(seen - progress).max() < 0.5 / 24 + 1e-6
            assert (progress[0], progress[-1]) == (0.0, 1.0)
        else:
            assert seen.max() == 0.5
            assert np.isnan(progress).all()


def test_episodes_follow_the_seed():
    first, again, other = make_episodes(1), SyntheticEpisodes(1)[0], make_episodes(1, seed=1)
    np.testing.assert_array_equal(first[0]["progress"], again["progress"])
    assert not np.array_equal(first[0]["progress"], other[0]["progress"])


def test_pixel_encoder_averages_cells():
    frames = torch.randint(0, 256, (1, 2, 16, 16, 3), dtype=torch.uint8)
    features = PixelEncoder(grid=4, cell=2).encode(frames)
    assert features.shape == (1, 2, 16, 24)
    cell = frames[0, 1, 4:6, 8:10].double().mean((0, 1)) / 255  # row 1, column 2; top left
    torch.testing.assert_close(features[0, 1, 6, [0, 4, 8]].double(), cell, rtol=1e-5, atol=1e-6)


class _Drifts(LinearTimeModel):
    def reset(self, env_mask=None):
        """Forgets to forget."""


class _Overflows(LinearTimeModel):
    def progress(self, obs):
        return super().progress(obs) + 1.5


class _Overwrites(LinearTimeModel):
    def progress(self, obs):
        obs["observation.images.hand"][:] = 0
        return super().progress(obs)


class _Disagrees(LinearTimeModel):
    def compute_progress(self, batch):
        return super().compute_progress(batch) + 0.1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Drifts, "after reset"),
        (_Overflows, r"leaves \[0, 1\]"),
        (_Overwrites, "observation.images.hand'. was changed"),
        (_Disagrees, "compute_progress"),
    ],
)
def test_check_names_the_broken_clause(model, message):
    with pytest.raises(AssertionError, match=message):
        check_progress_model(model(mean_length=9.0), make_observation(2))
