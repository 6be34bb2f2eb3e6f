"""GRPO where all episodes of every group fail: with Feat2Go's reward and with outcomes alone.

In the toy world with starts so far from the goal that random weights never reach it. Outcomes then
tell no episode from another; the progress that failures end with does. Prints success of the last
updates and on held-out episodes with Wilson's 95 % interval, and draws the learning curves.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from bench_toy import HELD_OUT, NUM_EPISODES, percent, token_policy
from matplotlib.figure import Figure

from vla_rl.algorithms.grpo import GRPO
from vla_rl.algorithms.settings import GRPOConfig
from vla_rl.evaluation import evaluate_policy
from vla_rl.testing import ToyProgressModel, ToyReachEnv

REWARDS: tuple[Literal["feat2go", "sparse"], ...] = ("feat2go", "sparse")


def make_env(num_envs: int) -> ToyReachEnv:
    """Return worlds whose episodes start at least 1 from the goal."""
    return ToyReachEnv(num_envs=num_envs, observe="state", min_distance=1.0)


def run(
    reward: Literal["feat2go", "sparse"], seed: int, num_updates: int, out: Path
) -> tuple[list[dict[str, Any]], int]:
    """Train from random weights; returns a row per update and successes held out."""
    torch.manual_seed(seed)
    policy = token_policy()
    config = GRPOConfig(
        reward=reward,
        episodes_per_update=128,
        group_size=4,
        minibatch_size=128,
        lr=1e-3,
        seed=seed,
    )
    model = ToyProgressModel(reach=2.6)
    grpo = GRPO(
        policy, make_env(128), config, out_dir=out, progress_model=model, progress_bar=False
    )
    rows = grpo.fit(num_updates)
    seeds = range(HELD_OUT, HELD_OUT + NUM_EPISODES)
    result = evaluate_policy(policy, make_env(100), seeds, deterministic=False)
    return rows, int(result["success_once"]["count"])


def draw(curves: dict[str, list[list[float]]]) -> Figure:
    """Draw success by update, a thin line per seed and a thick one for their mean."""
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axis = figure.subplots()
    for i, (reward, lines) in enumerate(curves.items()):
        for line in lines:
            axis.plot(range(1, len(line) + 1), line, color=f"C{i}", linewidth=0.7, alpha=0.6)
        mean = torch.tensor(lines).mean(0).tolist()
        label = "Feat2Go's reward" if reward == "feat2go" else "outcomes alone"
        axis.plot(range(1, len(mean) + 1), mean, color=f"C{i}", linewidth=2.0, label=label)
    axis.set_xlabel("update of 128 episodes")
    axis.set_ylabel("success while training")
    axis.set_ylim(-0.02, 1.02)
    axis.set_title("GRPO from groups that all fail (toy world)", fontsize="medium")
    axis.legend(loc="center right")
    axis.grid(alpha=0.3)
    return figure


def main() -> None:
    """Print a line per run and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("outputs/grpo-all-fail.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    curves: dict[str, list[list[float]]] = {reward: [] for reward in REWARDS}
    print("reward   seed  successes of the first 128  groups kept  held out")
    for reward in REWARDS:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                rows, count = run(reward, seed, arguments.updates, Path(folder))
            curves[reward].append([row["success_once"] for row in rows])
            print(
                f"{reward:8} {seed:4}  {round(128 * rows[0]['success_once']):26}  "
                f"{rows[0]['kept_groups_share']:11.0%}  "
                f"{percent(count)}",
                flush=True,
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw(curves).savefig(arguments.out, dpi=120)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
