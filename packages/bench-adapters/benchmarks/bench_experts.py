"""Successes of scripted experts over many seeds, and what perturbations do to them.

    python bench_experts.py --episodes 100
    python bench_experts.py --episodes 20 --perturbation recover --tasks maniskill:PickCube-v1
    PUT_ON_PLATE_ASSETS=... python bench_experts.py --tasks put_on_plate:Main-v3 --obj-set train

Nothing is rendered: the table says how good the demonstrations are, not how fast they are made.
"""

import argparse

import numpy as np
from tqdm import tqdm

from bench_adapters.envs.base import ScriptedEnvironment
from bench_adapters.experts.maniskill import EXPERTS
from bench_adapters.functional.scores import success_summary
from bench_adapters.registry import make_single


def attempt(
    env: ScriptedEnvironment, seed: int, *, noise: float, perturbation: str | None
) -> tuple[bool, int]:
    """Return success and number of steps of one attempt."""
    env.reset(seed)
    rng = np.random.default_rng([seed, 1])
    expert = env.make_expert(noise=noise, failure=perturbation, rng=rng)
    expert.reset()
    for step in range(1, env.max_episode_steps + 1):
        chunk = env.step_chunk(expert.act()[0][None])
        if chunk.terminated[0] or chunk.truncated[0]:
            return bool(chunk.success[0]), step
    raise AssertionError(f"{env.env_id} went past its time limit")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = [f"maniskill:{task}" for task in sorted(EXPERTS)]
    parser.add_argument("--tasks", nargs="*", default=known)
    parser.add_argument("--obj-set", help="of the suites of put_on_plate")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--perturbation", default=None)
    args = parser.parse_args()
    print(f"{'task':30s} {'successes':>10s} {'Wilson 95 %':>16s} {'steps':>6s} {'limit':>6s}")
    for task in args.tasks:
        options = {} if args.obj_set is None else {"obj_set": args.obj_set}
        env = make_single(task, cameras=(), **options)
        outcomes, lengths = [], []
        for seed in tqdm(range(args.seed, args.seed + args.episodes), desc=task, leave=False):
            success, length = attempt(env, seed, noise=args.noise, perturbation=args.perturbation)
            outcomes.append(success)
            lengths.append(length)
        limit = env.max_episode_steps
        env.close()
        rate = success_summary(outcomes)
        print(
            f"{task:30s} {rate['count']:4.0f} of {rate['total']:3.0f} "
            f"[{rate['low']:6.1%}, {rate['high']:6.1%}] {np.mean(lengths):6.1f} {limit:6d}",
            flush=True,
        )


if __name__ == "__main__":
    main()
