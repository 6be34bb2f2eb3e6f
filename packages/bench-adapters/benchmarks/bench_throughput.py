"""Primitive steps per second of ManiSkill: stock against ours, one camera, same chunk length.

Run by ``nox -s bench -- bench_adapters``. Ratios are within one run, on one machine.
"""

import argparse
import time
from collections.abc import Callable

import gymnasium as gym
import mani_skill.envs  # noqa: F401  registers the stock tasks
import numpy as np
from tqdm import tqdm

from bench_adapters.registry import make

ROBOT = "panda"  # its one camera in this task is the base camera


def rate(step: Callable[[], int], *, seconds: float) -> float:
    """Return primitive steps per second of ``step``, which returns how many it made."""
    step()  # the first frame compiles shaders
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        steps += step()
    return steps / (time.perf_counter() - start)


def stock(task: str, size: int) -> tuple[Callable[[], int], Callable[[], None]]:
    """Step ManiSkill as its own examples do: ``env.step`` with a rendered observation."""
    env = gym.make(
        task,
        obs_mode="rgb",
        control_mode="pd_ee_delta_pos",
        robot_uids=ROBOT,
        sim_backend="physx_cpu",
        render_backend="cpu",
        sensor_configs={"shader_pack": "minimal", "width": size, "height": size},
    )
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step() -> int:
        *_, terminated, truncated, _ = env.step(rng.uniform(-0.3, 0.3, 4).astype(np.float32))
        if bool(terminated) or bool(truncated):
            env.reset()
        return 1

    return step, env.close


def ours(
    task: str, size: int, *, chunk: int, num_envs: int, num_workers: int
) -> tuple[Callable[[], int], Callable[[], None]]:
    """Step through the vector interface; ended environments are reset."""
    env = make(
        f"maniskill:{task}",
        num_envs=num_envs,
        num_workers=num_workers,
        robot_uids=ROBOT,
        cameras=("base_camera",),
        image_size=size,
    )
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    ended = np.zeros(num_envs, bool)

    def step() -> int:
        actions = rng.uniform(-0.3, 0.3, (num_envs, chunk, 4)).astype(np.float32)
        result = env.step_chunk(actions)
        np.logical_or(ended, (result.terminated | result.truncated).any(axis=1), out=ended)
        if ended.any():
            env.reset(options={"reset_mask": ended.copy()})
            ended[:] = False
        return int(result.valid.sum())

    return step, env.close


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="PickCube-v1")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    cases = {
        "stock env.step, 1 process": lambda: stock(args.task, args.size),
        "ours, 1 process": lambda: ours(
            args.task, args.size, chunk=args.chunk, num_envs=1, num_workers=0
        ),
        "ours, 2 processes": lambda: ours(
            args.task, args.size, chunk=args.chunk, num_envs=8, num_workers=2
        ),
    }
    rates = {}
    for name, build in tqdm(cases.items(), desc="throughput"):
        step, close = build()
        rates[name] = rate(step, seconds=args.seconds)
        close()
    base = rates["stock env.step, 1 process"]
    print(f"{args.task}, one {args.size}-px camera, chunk {args.chunk}, primitive steps per second")
    for name, value in rates.items():
        print(f"{name:28s} {value:8.1f}  {value / base:5.1f} x")


if __name__ == "__main__":
    main()
