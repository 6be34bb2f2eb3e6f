import numpy as np
import pytest
import torch

from vla_rl.data import label_progress, make_chunks, state_statistics
from vla_rl.testing import make_episodes


def test_chunks_match_the_definition():
    episodes = make_episodes(3)
    samples = make_chunks(episodes, chunk=4)
    row = 0
    for episode in episodes:
        length = len(episode["action"])
        for t in range(length):
            for i in range(4):
                inside = t + i < length
                assert bool(samples["action_is_pad"][row, i]) == (not inside)
                expected = episode["action"][min(t + i, length - 1)]
                np.testing.assert_array_equal(samples["action"][row, i].numpy(), expected)
            image = episode["observation.images.front"][t]
            np.testing.assert_array_equal(samples["observation.images.front"][row].numpy(), image)
            np.testing.assert_array_equal(
                samples["observation.state"][row].numpy(), episode["observation.state"][t]
            )
            assert samples["task"][row] == episode["task"]
            row += 1
    assert row == len(samples["task"]) == len(samples["action"])


def test_stride_keeps_every_second_frame():
    episodes = make_episodes(1)
    every, second = (make_chunks(episodes, chunk=2, stride=stride) for stride in (1, 2))
    assert torch.equal(second["action"], every["action"][::2])
    assert second["task"] == every["task"][::2]


class FramesSeen:
    """Progress is a tenth per frame since the reset, and NaN under one instruction."""

    def __init__(self, *, lost=""):
        self.lost = lost

    def reset(self, env_mask=None):
        self.count = 0

    def progress(self, obs):
        assert obs["observation.images.front"].shape[0] == len(obs["task"]) == 1
        self.count += 1
        return torch.tensor([float("nan") if obs["task"] == [self.lost] else self.count / 10])


def test_progress_is_what_the_model_sees_frame_after_frame():
    episodes = make_episodes(2)
    labelled = list(label_progress(episodes, FramesSeen()))
    for episode, known in zip(labelled, episodes, strict=True):
        frames = np.arange(1, len(known["action"]) + 1)
        np.testing.assert_allclose(episode["progress"], frames / 10, rtol=1e-6)
        assert episode["action"] is known["action"]
    gain = make_chunks(labelled, chunk=2)["progress_gain"]
    assert gain[0] == pytest.approx(0.2)


def test_progress_must_be_finite():
    first, second = make_episodes(2)
    second = second | {"task": [f"part {t}" for t in range(len(second["action"]))]}
    with pytest.raises(ValueError, match=r"progress \(1,\) of frame 1 of episode 1, got .*nan"):
        list(label_progress([first, second], FramesSeen(lost="part 1")))


def test_progress_must_be_one_number_per_frame():
    class Two(FramesSeen):
        def progress(self, obs):
            return super().progress(obs).repeat(2)

    with pytest.raises(ValueError, match="of frame 0 of episode 0"):
        list(label_progress(make_episodes(1), Two()))
    short = make_episodes(1)[0] | {"task": ["a"]}
    with pytest.raises(ValueError, match="equally many rows"):
        list(label_progress([short], FramesSeen()))


def test_instruction_per_frame():
    episode = make_episodes(1)[0]
    tasks = [f"part {t}" for t in range(len(episode["action"]))]
    assert make_chunks([episode | {"task": tasks}], chunk=2)["task"] == tasks


def test_state_statistics():
    samples = make_chunks(make_episodes(2), chunk=2)
    state = samples["observation.state"].numpy().astype(np.float64)
    statistics = state_statistics(samples)
    np.testing.assert_allclose(statistics["state_mean"], state.mean(0))
    np.testing.assert_allclose(statistics["state_std"], state.std(0))


def test_bad_episodes():
    episode = make_episodes(1)[0]
    with pytest.raises(ValueError, match="at least one batch"):
        make_chunks([], chunk=2)
    with pytest.raises(ValueError, match=r"equally many rows, got .*'observation.state': 1"):
        make_chunks([episode | {"observation.state": np.zeros((1, 2))}], chunk=2)
    with pytest.raises(ValueError, match="key 'action'"):
        make_chunks([{k: v for k, v in episode.items() if k != "action"}], chunk=2)
    with pytest.raises(ValueError, match="positive `chunk` and `stride`, got 0 and 1"):
        make_chunks([episode], chunk=0)
