"""Primitive steps per second of ManiSkill: what environments supply and what a policy demands.

Run by ``nox -s bench -- bench_adapters``. All cases are built first and then take turns, so that
whatever else the machine does falls on all of them; the table gives medians over the turns, and
ratios are of the turns themselves. One camera; a chunk is observed once, by ours only: stock
``env.step`` observes every step.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import mani_skill.envs  # noqa: F401  registers the stock tasks
import numpy as np
import torch
from mani_skill.utils.wrappers.gymnasium import CPUGymWrapper
from tqdm import tqdm

from bench_adapters._files import write_json
from bench_adapters.registry import make

ROBOT = "panda"  # its one camera in this task is the base camera
CAMERA = "base_camera"
NUM_ENVS = 8
STOCK = "stock env.step, 1 process"


class Case(NamedTuple):
    """Something that makes primitive steps."""

    step: Callable[[], int]
    """Returns how many it made."""
    close: Callable[[], None]
    workers: tuple[int, ...] = ()
    """Its processes, whose time counts too."""


class Turn(NamedTuple):
    """What a case did in its turn."""

    rate: float
    """Primitive steps per second."""
    cpu: float
    """Milliseconds of processor time per primitive step, of all its processes."""


def take_turn(case: Case, *, seconds: float) -> Turn:
    """Step for so many seconds."""
    case.step()  # what the turns of the others pushed out of the caches comes back
    cpu, start, steps = cpu_seconds(case.workers), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        steps += case.step()
    elapsed = time.perf_counter() - start
    return Turn(steps / elapsed, (cpu_seconds(case.workers) - cpu) / steps * 1e3)


def cpu_seconds(workers: tuple[int, ...]) -> float:
    """Return the processor time of this process and of ``workers``, as Linux counts it."""
    ticks = 0
    for pid in workers:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def stock_env(task: str, size: int) -> Any:
    """Build ManiSkill's own environment."""
    return gym.make(
        task,
        obs_mode="rgb",
        control_mode="pd_ee_delta_pos",
        robot_uids=ROBOT,
        sim_backend="physx_cpu",
        render_backend="cpu",
        sensor_configs={"shader_pack": "minimal", "width": size, "height": size},
    )


def stock(task: str, size: int) -> Case:
    """Step as ManiSkill's own examples do: ``env.step`` with a rendered observation."""
    env = stock_env(task, size)
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step() -> int:
        *_, terminated, truncated, _ = env.step(rng.uniform(-0.3, 0.3, 4).astype(np.float32))
        if bool(terminated) or bool(truncated):
            env.reset()
        return 1

    return Case(step, env.close)


class StockFactory:
    """Builds a stock environment in a spawned process."""

    def __init__(self, task: str, size: int) -> None:
        self._arguments = (task, size)

    def __call__(self) -> Any:
        """Build it, with numpy observations."""
        return CPUGymWrapper(stock_env(*self._arguments))


def stock_async(task: str, size: int, *, num_envs: int) -> Case:
    """Step gymnasium's own vector of processes, one stock environment each."""
    before = set(multiprocessing.active_children())
    env = gym.vector.AsyncVectorEnv([StockFactory(task, size)] * num_envs, context="spawn")
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step() -> int:
        env.step(rng.uniform(-0.3, 0.3, (num_envs, 4)).astype(np.float32))  # resets by itself
        return num_envs

    return Case(step, env.close, new_children(before))


def new_children(before: set[Any]) -> tuple[int, ...]:
    """Return the processes that were started since ``before``."""
    return tuple(child.pid for child in set(multiprocessing.active_children()) - before)


class SmallPolicy(torch.nn.Module):
    """A convolutional policy of 0.3 M weights: a picture and the state become a chunk."""

    def __init__(self, *, state_dim: int, chunk: int) -> None:
        super().__init__()
        self._chunk = chunk
        layers = [torch.nn.Conv2d(3, 32, 8, 4), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 4, 4)]
        self._eyes = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Flatten())
        self._head = torch.nn.LazyLinear(64)
        self._out = torch.nn.Linear(64 + state_dim, 4 * chunk)

    @torch.no_grad()
    def act(self, obs: dict[str, Any]) -> np.ndarray:
        """Return ``(n, k, 4)`` actions in ±0.3."""
        pixels = torch.from_numpy(obs[f"observation.images.{CAMERA}"]).permute(0, 3, 1, 2)
        features = torch.relu(self._head(self._eyes(pixels / 255.0)))
        joined = torch.cat([features, torch.from_numpy(obs["observation.state"])], dim=1)
        return 0.3 * torch.tanh(self._out(joined)).view(len(joined), self._chunk, 4).numpy()


class Ours:
    """Environments of this package, and what steps them."""

    def __init__(self, task: str, size: int, *, num_envs: int, num_workers: int) -> None:
        before = set(multiprocessing.active_children())
        self.env = make(
            f"maniskill:{task}",
            num_envs=num_envs,
            num_workers=num_workers,
            robot_uids=ROBOT,
            cameras=(CAMERA,),
            image_size=size,
        )
        self.workers = new_children(before)
        self.obs, _ = self.env.reset(seed=0)

    def case(self, act: Callable[[dict[str, Any]], np.ndarray]) -> Case:
        """Step with the actions of ``act``; ended environments are reset."""

        def step() -> int:
            result = self.env.step_chunk(act(self.obs))
            self.obs = result.observation
            ended = (result.terminated | result.truncated).any(axis=1)
            if ended.any():
                self.obs, _ = self.env.reset(options={"reset_mask": ended})
            return int(result.valid.sum())

        return Case(step, self.env.close, self.workers)


def null_policy(num_envs: int, chunk: int) -> Callable[[dict[str, Any]], np.ndarray]:
    """Return a policy that costs nothing: random actions."""
    rng = np.random.default_rng(0)
    return lambda _: rng.uniform(-0.3, 0.3, (num_envs, chunk, 4)).astype(np.float32)


def build(task: str, size: int, chunk: int) -> dict[str, Case]:
    """Build every case; the environments of two of them are the same."""
    one = Ours(task, size, num_envs=1, num_workers=0)
    two = Ours(task, size, num_envs=NUM_ENVS, num_workers=2)
    state_dim = two.obs["observation.state"].shape[1]
    policy = SmallPolicy(state_dim=state_dim, chunk=chunk)
    obs = two.obs
    policy.act(obs)

    def demand() -> int:
        return policy.act(obs).shape[1] * NUM_ENVS

    return {
        STOCK: stock(task, size),
        "stock AsyncVectorEnv, 2 processes": stock_async(task, size, num_envs=2),
        "ours, 1 process, null policy": one.case(null_policy(1, chunk)),
        "ours, 2 processes, null policy": two.case(null_policy(NUM_ENVS, chunk)),
        "ours, 2 processes, small policy": two.case(policy.act),
        "small policy alone": Case(demand, lambda: None),
    }


def medians(series: list[Turn], base: np.ndarray) -> dict[str, Any]:
    """Return a row of the table: medians over turns, ratios to those of ``base``."""
    rates = np.array([turn.rate for turn in series])
    ratio = rates / base
    return {
        "steps_per_second": float(np.median(rates)),
        "of_stock": float(np.median(ratio)),
        "of_stock_range": [float(ratio.min()), float(ratio.max())],
        "cpu_ms_per_step": float(np.median([turn.cpu for turn in series])),
    }


def provenance() -> dict[str, Any]:
    """Return what it takes to make the table again, but for the settings."""
    names = ("bench-adapters", "mani_skill", "sapien", "torch")
    return {
        "command": "nox -s bench -- bench_adapters.bench_throughput",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in names},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="PickCube-v1")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="Of a turn.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file of the table, with versions and date.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = build(args.task, args.size, args.chunk)
    turns: dict[str, list[Turn]] = {name: [] for name in cases}
    for _ in tqdm(range(args.rounds), desc="rounds"):
        for name, case in cases.items():
            turns[name].append(take_turn(case, seconds=args.seconds))
    for case in cases.values():
        case.close()
    print(
        f"{args.task}, one {args.size}-px camera, chunk {args.chunk}, {args.rounds} turns of "
        f"{args.seconds:g} s\n{'':34s} {'steps/s':>8s} {'of stock':>18s} {'CPU ms/step':>12s}"
    )
    base = np.array([turn.rate for turn in turns[STOCK]])
    table = {name: medians(series, base) for name, series in turns.items()}
    for name, row in table.items():
        low, high = row["of_stock_range"]
        print(
            f"{name:34s} {row['steps_per_second']:8.1f} {row['of_stock']:7.1f} x "
            f"({low:.1f}-{high:.1f}) {row['cpu_ms_per_step']:12.2f}"
        )
    if args.out is not None:
        settings = {name: value for name, value in vars(args).items() if name != "out"}
        write_json(args.out, {**provenance(), "settings": settings, "table": table})


if __name__ == "__main__":
    main()
