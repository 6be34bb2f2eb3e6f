import numpy as np
import pytest
import torch

from value_models.features import encode_episodes
from value_models.testing import PixelEncoder, make_episodes


class _CountingEncoder(PixelEncoder):
    def __init__(self):
        super().__init__()
        self.frames = 0

    def encode(self, frames):
        self.frames += frames.shape[0] * frames.shape[1]
        return super().encode(frames)


class _BrokenEncoder(PixelEncoder):
    def encode(self, frames):
        features = super().encode(frames)
        features[0, -1, 3] = torch.nan
        return features


def _encode(episodes, encoder=None):
    return encode_episodes(episodes, encoder or PixelEncoder(), camera="hand", progress_bar=False)


def test_every_frame_is_encoded_once_and_like_alone():
    encoder, episodes = _CountingEncoder(), make_episodes(3, length=(60, 90))
    encoded = _encode(episodes, encoder)
    assert encoder.frames == sum(len(e["progress"]) for e in episodes)
    for source, episode in zip(episodes, encoded, strict=True):
        frames = torch.from_numpy(source["observation.images.hand"])
        alone = torch.stack([encoder.encode(frame[None, None])[0, 0] for frame in frames])
        assert torch.equal(episode.features, alone.half())
        np.testing.assert_array_equal(episode.progress.numpy(), source["progress"])


def test_failures_are_unlabelled():
    success, failure = _encode(make_episodes(1, num_failures=1))
    assert success.is_labelled
    assert success.success
    assert not failure.is_labelled
    assert not failure.success
    assert failure.length == len(failure.progress)


def test_length_ends_with_the_last_label():
    episode = dict(make_episodes(1, length=(20, 20))[0])
    episode["progress"] = episode["progress"].copy()
    episode["progress"][15:] = np.nan
    assert _encode([episode])[0].length == 15


def test_progress_may_be_absent():
    episode = dict(make_episodes(1)[0])
    del episode["progress"]
    assert not _encode([episode])[0].is_labelled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"progress": np.full(20, 1.5, np.float32)}, r"episode 0 in \[0, 1\], got 1.5"),
        ({"progress": np.full(20, -0.1, np.float32)}, r"episode 0 in \[0, 1\], got -0.1"),
        ({"progress": np.full(20, np.inf, np.float32)}, r"episode 0 in \[0, 1\], got inf"),
        ({"progress": np.zeros(19, np.float32)}, r"shape \(20,\).*got \(19,\)"),
        ({"observation.images.hand": np.zeros((20, 8, 8, 3))}, r"uint8 frames.*float64"),
        ({"observation.images.hand": np.zeros((0, 8, 8, 3), np.uint8)}, r"\(0, 8, 8, 3\)"),
    ],
)
def test_broken_episodes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        _encode([{**make_episodes(1, length=(20, 20))[0], **change}])


def test_features_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match=r"episode 0 are not finite.*'pixel-4x4-2'"):
        _encode(make_episodes(1), _BrokenEncoder())


def test_a_missing_camera_is_named():
    with pytest.raises(KeyError, match=r"Episode 0 has no 'observation.images.top'"):
        encode_episodes(make_episodes(1), PixelEncoder(), camera="top", progress_bar=False)


@pytest.mark.parametrize("key", ["episode_index", "task"])
def test_an_episode_that_lacks_what_names_it_is_refused(key):
    (episode,) = make_episodes(1)
    del episode[key]
    with pytest.raises(KeyError, match=rf"An episode has no '{key}'; its keys are \['"):
        _encode([episode])
