import pytest
import torch

from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.settings import PPOConfig
from vla_rl.algorithms.spiral import Spiral, SpiralConfig
from vla_rl.errors import CheckpointError
from vla_rl.policies.gaussian_policy import GaussianPolicy
from vla_rl.policies.residual_policy import ResidualPolicy
from vla_rl.testing import ToyProgressModel, ToyReachEnv

SMALL = {"episodes_per_round": 8, "steps_per_round": 5, "batch_size": 8, "num_draws": 2}


def _policy(seed=0, **settings):
    torch.manual_seed(seed)
    base = GaussianPolicy(
        cameras=[], state_dim=4, action_dim=2, action_low=-1.0, action_high=1.0, hidden_dim=16
    )
    sizes = {"feature_dim": 16, "hidden_dim": 16, "num_layers": 2, "num_critics": 3}
    ends = {"action_low": base.action_low, "action_high": base.action_high}
    return ResidualPolicy(base, **(sizes | ends | settings))


def _spiral(out_dir, policy=None, demonstrations=None, **settings):
    return Spiral(
        policy or _policy(),
        ToyReachEnv(num_envs=4, max_episode_steps=12, observe="state"),
        SpiralConfig(**(SMALL | settings)),
        out_dir=out_dir,
        progress_model=ToyProgressModel(),
        demonstrations=demonstrations,
        progress_bar=False,
    )


def _obs(n=5):
    env = ToyReachEnv(num_envs=n, observe="state")
    return env.reset(seed=0)[0]


def test_at_first_the_residual_is_nothing():
    policy = _policy(num_candidates=1)
    for deterministic in (True, False):
        actions = [
            p.act(_obs(), generator=torch.Generator().manual_seed(3), deterministic=deterministic)
            for p in (policy, policy.base)
        ]
        torch.testing.assert_close(actions[0].actions, actions[1].actions)


@torch.no_grad()
def test_of_several_draws_the_one_the_worst_critic_likes_best():
    policy = _policy(num_candidates=6)
    features = policy.base.features(policy.base.read(_obs()))
    latent = torch.empty(6, 5, 4, 2).normal_(generator=torch.Generator().manual_seed(1))
    action, _ = policy.propose(features, latent)
    decision = policy.act(_obs(), generator=torch.Generator().manual_seed(1))
    for n in range(5):
        inputs = [
            torch.cat([features[n], latent[j, n].flatten(), action[j, n].flatten()])
            for j in range(6)
        ]
        worst = [min(float(critic(x)) for critic in policy.critics) for x in inputs]
        best = max(range(6), key=worst.__getitem__)
        torch.testing.assert_close(decision.replay["latent"][n], latent[best, n])
        torch.testing.assert_close(decision.replay["action"][n], action[best, n])


def test_only_residual_and_critics_learn(tmp_path):
    policy, start = _policy(), _policy().state_dict()
    row = _spiral(tmp_path, policy).fit(1)[0]
    state = policy.state_dict()
    moved = {name.split(".")[0] for name in state if not torch.equal(state[name], start[name])}
    assert moved == {"actor", "critics"}
    assert row["transitions"] >= 8
    assert row["mean_abs_residual"] > 0.0


def test_a_run_stopped_and_resumed_is_the_run_never_stopped(tmp_path):
    straight, resumed = _policy(), _policy()
    expected = _spiral(tmp_path / "a", straight).fit(3)
    _spiral(tmp_path / "b").fit(1)
    torch.manual_seed(99)  # the state of the global generator must not matter
    history = _spiral(tmp_path / "b", resumed).fit(3)
    assert history == expected
    for name, weights in straight.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name


def test_a_dearer_residual_is_smaller(tmp_path):
    sizes = [
        _spiral(tmp_path / str(beta), bc_weight=beta, steps_per_round=60).fit(1)[0][
            "mean_abs_residual"
        ]
        for beta in (0.0, 1000.0)
    ]
    assert sizes[1] < 0.5 * sizes[0]


def test_what_is_missing_is_named(tmp_path):
    env = ToyReachEnv(num_envs=4, observe="state")
    with pytest.raises(ValueError, match="`progress_model` to pay for progress, got None"):
        Spiral(_policy(), env, out_dir=tmp_path)
    with pytest.raises(TypeError, match="log-probabilities, got a ResidualPolicy"):
        _policy().evaluate({})
    with pytest.raises(ValueError, match="submodule `value_head`, got ResidualPolicy"):
        PPO(_policy(), env, PPOConfig(reward="sparse"), out_dir=tmp_path)
    with pytest.raises(ValueError, match="`num_critics` > 0, got 0"):
        _policy(num_critics=0)
    with pytest.raises(ValueError, match=r"`mc_weight` in \[0, 1\], got 2"):
        SpiralConfig(mc_weight=2.0)
    with pytest.raises(ValueError, match=r"`critic_target` in .*, got 'td'"):
        SpiralConfig(critic_target="td")
    _spiral(tmp_path).fit(1)
    with pytest.raises(CheckpointError, match=r"`config.gamma` is 0.9995 there and 0.9 here"):
        _spiral(tmp_path, gamma=0.9)


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    policy = _policy()
    spiral = _spiral(tmp_path, policy)
    spiral.fit(1)
    with torch.no_grad():
        policy.critics[0][0].bias.fill_(float("nan"))
    before = policy.actor[0].weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"got nan in round 2, step 1"):
        spiral.fit(2)
    assert torch.equal(policy.actor[0].weight, before)


def test_other_demonstrations_are_another_run(tmp_path):
    spiral = _spiral(tmp_path / "first")
    spiral.fit(1)
    rows = {key: value[:5] for key, value in spiral.store.data.items()}
    _spiral(tmp_path / "given", demonstrations=rows).fit(1)
    assert _spiral(tmp_path / "given", demonstrations=rows).round == 1
    with pytest.raises(CheckpointError, match=r"`demonstrations.reward` is '\w{8}' there and"):
        _spiral(tmp_path / "given", demonstrations=rows | {"reward": rows["reward"] + 1.0})
    with pytest.raises(CheckpointError, match="`demonstrations` is"):
        _spiral(tmp_path / "given")


def test_a_base_with_other_weights_is_another_run(tmp_path):
    _spiral(tmp_path).fit(1)
    with pytest.raises(CheckpointError, match=r"`policy_config.base_weights` is '\w{8}' there and"):
        _spiral(tmp_path, _policy(seed=1))


def test_a_residual_is_saved_without_its_base_and_fits_no_other(tmp_path):
    policy = _policy()
    _spiral(tmp_path / "run", policy).fit(1)
    policy.save_pretrained(tmp_path / "residual")
    sizes = {"hidden_dim": 16, "num_layers": 2, "num_critics": 3}
    again = ResidualPolicy.around(_policy().base, weights=tmp_path / "residual", **sizes)
    decisions = [p.act(_obs(), generator=torch.Generator().manual_seed(0)) for p in (policy, again)]
    assert torch.equal(decisions[0].actions, decisions[1].actions)
    with pytest.raises(CheckpointError, match="a residual of this base with these settings at"):
        ResidualPolicy.around(_policy(seed=1).base, weights=tmp_path / "residual", **sizes)
