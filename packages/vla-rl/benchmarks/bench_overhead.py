"""What the loop adds to the forward and backward passes of the small policy, as ratios.

Each pair runs the same passes on the same decisions: once bare, once through the package. Pairs
alternate, and the median counts. What computes all the time is measured in processor time of one
thread, which other programs do not disturb; turns, which save waiting, by the clock.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric import Fabric

from vla_rl.algorithms.clipped_update import REPLAY, ClippedUpdate, Scorer
from vla_rl.algorithms.settings import PPOConfig
from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.rollout import collect_episodes
from vla_rl.testing import ToyReachEnv

REPEATS = 15
EPOCHS, MINIBATCH = 4, 256


def make() -> tuple[TokenPolicy, ToyReachEnv]:
    """Return the policy of the quickstart's size and environments that cost next to nothing."""
    torch.manual_seed(0)
    policy = TokenPolicy(cameras=["front"], state_dim=2, action_dim=2, image_size=64)
    return policy, ToyReachEnv(num_envs=32, image_size=64)


def timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds that a call takes."""
    start = clock()
    work()
    return clock() - start


def update_ratio() -> float:
    """Return the time of `ClippedUpdate` by that of the passes it consists of."""
    policy, env = make()
    rollout = collect_episodes(policy, env, range(128))
    d = len(rollout.reward)
    batch = {f"{REPLAY}{key}": value for key, value in rollout.replay.items()}
    batch |= {"log_prob": rollout.log_prob, "value": rollout.value, "mask": rollout.mask}
    batch |= {"advantage": torch.randn(d), "returns": torch.rand(d)}
    critic = list(policy.value_head.parameters())
    actor = [p for name, p in policy.named_parameters() if not name.startswith("value_head")]
    fabric = Fabric(accelerator="cpu", devices=1)
    # No step to speak of: every repetition then does the same work.
    optimizers = [torch.optim.Adam(group, lr=1e-12) for group in (actor, critic)]
    scorer, *wrapped = fabric.setup(Scorer(policy), *optimizers)
    config = PPOConfig(num_epochs=EPOCHS, minibatch_size=MINIBATCH, value_warmup_updates=0)
    improve = ClippedUpdate(fabric, scorer, config, *wrapped)

    def bare() -> None:
        minibatches = -(-d // MINIBATCH)
        for _ in range(EPOCHS):
            for rows in torch.randperm(d).tensor_split(minibatches):
                replay = {key: x.index_select(0, rows) for key, x in rollout.replay.items()}
                output = policy.evaluate(replay)
                for optimizer in optimizers:
                    optimizer.zero_grad()
                (output.log_prob.mean() + output.value.mean()).backward()
                for optimizer in optimizers:
                    optimizer.step()

    return ratio(lambda: improve(batch, update=1), bare)


def rollout_ratio() -> float:
    """Return the time of `collect_episodes` by that of acting and stepping alone."""
    policy, env = make()
    env.max_episode_steps = 24

    def bare() -> None:
        for wave in range(4):
            obs, _ = env.reset(seed=list(range(wave * 32, wave * 32 + 32)))
            for _ in range(6):
                obs = env.step_chunk(policy.act(obs).actions.numpy()).observation

    return ratio(lambda: collect_episodes(policy, env, range(128), bootstrap=False), bare)


class Waiting(ToyReachEnv):
    """A world whose steps take a while elsewhere, as in a simulator's own process."""

    seconds = 0.0

    def step_chunk(self, actions: Any) -> Any:
        """Wait, then step."""
        time.sleep(self.seconds)
        return super().step_chunk(actions)


def turns_ratio() -> float:
    """Return the time of one vector of 32 worlds by that of two of 16 that take turns.

    A chunk takes as long as the policy needs to act for as many worlds.
    """
    policy, env = make()
    obs, _ = env.reset(seed=0)
    policy.act(obs)
    acting = statistics.median(
        timed(lambda: policy.act(obs), time.perf_counter) for _ in range(REPEATS)
    )
    envs = [Waiting(num_envs=n, image_size=64) for n in (32, 16, 16)]
    for waiting in envs:
        waiting.seconds = acting * waiting.num_envs / 32
    return ratio(
        lambda: collect_episodes(policy, envs[0], range(96), bootstrap=False),
        lambda: collect_episodes(policy, envs[1:], range(96), bootstrap=False),
        time.perf_counter,
    )


def ratio(
    ours: Callable[[], object],
    bare: Callable[[], object],
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Return the median of the ratios of alternating runs, after one of each to warm up."""
    timed(ours, clock), timed(bare, clock)
    return statistics.median(timed(ours, clock) / timed(bare, clock) for _ in range(REPEATS))


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    print("vla-rl, small policy, time by that of the bare passes (1.00 is no overhead):")
    print(f"  update   {update_ratio():.2f}")
    print(f"  rollout  {rollout_ratio():.2f}  (of an environment that costs next to nothing)")
    print("one vector of environments by two halves that step while the policy acts:")
    print(f"  rollout  {turns_ratio():.2f}  (of environments as slow as the policy; 2.00 is ideal)")


if __name__ == "__main__":
    main()
