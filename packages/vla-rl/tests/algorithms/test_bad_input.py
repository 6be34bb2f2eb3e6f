"""Bad input that only a running algorithm meets: one clear error, and nothing is lost."""

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from vla_rl.algorithms.behaviour_cloning import CloneConfig, clone
from vla_rl.algorithms.grpo import GRPO
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.settings import GRPOConfig, PPOConfig
from vla_rl.data import make_chunks
from vla_rl.errors import CheckpointError
from vla_rl.functional.action_bins import encode_actions
from vla_rl.reductions import all_or_none
from vla_rl.testing import ToyProgressModel, ToyReachEnv, make_episodes, make_policy

SMALL = {"episodes_per_update": 8, "minibatch_size": 16, "num_epochs": 1}


class _Changed(ToyReachEnv):
    """A toy world whose third answer is changed."""

    def __init__(self, change):
        super().__init__(num_envs=4, max_episode_steps=12)
        self.change, self.steps = change, 0

    def step_chunk(self, actions):
        self.steps += 1
        step = super().step_chunk(actions)
        return self.change(step) if self.steps == 9 else step


def _run(out_dir, change):
    return PPO(
        make_policy(),
        _Changed(change),
        PPOConfig(**SMALL),
        out_dir=out_dir,
        progress_model=ToyProgressModel(),
        progress_bar=False,
    )


def _shorter(step):
    return step._replace(**{name: getattr(step, name)[:, :3] for name in ("reward", "valid")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(reward=s.reward * np.nan), r"finite rewards, .* episode of seed \d+"),
        (_shorter, r"`reward` of shape \(4, 4\) .* to match the policy's actions, got \(4, 3\)"),
        (lambda s: s._replace(valid=s.valid & False), r"to execute at least one step of the chunk"),
    ],
)
def test_an_environment_that_goes_wrong_later_leaves_the_last_checkpoint(tmp_path, change, message):
    run = _run(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        run.fit(3)
    again = _run(tmp_path, lambda step: step)
    assert again.update == run.update >= 1
    for name, weights in again.policy.state_dict().items():
        assert torch.equal(weights, run.policy.state_dict()[name]), name


def test_an_action_outside_of_the_bins_is_taken_for_the_outermost():
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    tokens = encode_actions(torch.tensor([[-7.0], [7.0]]), low, high, num_bins=9)
    assert tokens.flatten().tolist() == [0, 8]


def test_an_action_that_is_no_number_stops_before_the_step(tmp_path):
    samples = make_chunks(make_episodes(1), chunk=4)
    samples["action"][0, 0, 0] = float("nan")
    policy, start = make_policy(), make_policy().state_dict()
    with pytest.raises((ValueError, FloatingPointError), match=r"finite"):
        clone(policy, samples, CloneConfig(num_epochs=1), out_dir=tmp_path, progress_bar=False)
    assert all(torch.equal(weights, start[name]) for name, weights in policy.state_dict().items())


def test_groups_of_one_and_checkpoints_of_others_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="`group_size` of at least 2 episodes to compare, got 1"):
        GRPOConfig(group_size=1)
    _run(tmp_path, lambda step: step).fit(1)
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="`algorithm` is 'ppo' there and 'grpo' here"):
        GRPO(
            make_policy(),
            ToyReachEnv(num_envs=4),
            GRPOConfig(),
            out_dir=tmp_path,
            progress_model=ToyProgressModel(),
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == saved


def test_what_fails_in_one_process_ends_the_others_with_a_word():
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.raises(ValueError, match="the reason"), all_or_none(fabric):
        raise ValueError("the reason")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fabric, "all_reduce", lambda x, reduce_op: torch.ones_like(x))
        with pytest.raises(RuntimeError, match="Another process failed"), all_or_none(fabric):
            pass
