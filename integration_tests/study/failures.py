"""What the value model says of the failures of the policy that is fine-tuned."""

from typing import Any

import torch
from torch import Tensor

from integration_tests.study.design import Result
from integration_tests.study.lab import STATE, Lab, named
from integration_tests.study.policies import policy_of
from integration_tests.study.ranking import GRASPED
from vla_rl.rollout import collect_episodes

GRIPPER, GOAL = slice(10, 13), slice(17, 20)
"""Where ``observation.state`` has the positions of the gripper and of the goal, in metres."""


class _Witness:
    """A progress model that keeps what it was asked and what it answered."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seen: list[tuple[Tensor, Tensor]] = []

    def reset(self, env_mask: Any = None) -> None:
        self.model.reset(env_mask)

    def progress(self, obs: Any) -> Tensor:
        values: Tensor = self.model.progress(obs)
        self.seen.append((torch.as_tensor(obs[STATE]), values))
        return values


def failures(
    lab: Lab, *, target: str = "feat2go", reads: str = "picture", begin: str = "clone"
) -> Result:
    """Play as many training episodes as an update has, and look at how failures ended.

    Args:
        lab: Of the seed.
        target: Of the value model; see `Lab.value_model`.
        reads: What it reads.
        begin: Whose failures: of the ``clone`` or of the ``weak`` policy.

    Returns:
        ``successes`` and ``episodes``, and of each failure ``value``, ``distance`` of gripper and
        goal in metres and ``held``, whether the cube was in the gripper.
    """

    def work(_: Any) -> Result:
        witness = _Witness(lab.value_model(target, reads)[0])
        num = lab.profile.base.episodes_per_update
        with lab.env() as env:
            rollout = collect_episodes(
                policy_of(lab, begin),
                env,
                range(lab.train_seed, lab.train_seed + num),
                generator=torch.Generator().manual_seed(lab.seed),
                progress_model=witness,
            )
        ends = [
            {
                "value": round(float(value), 4),
                "distance": round(float((state[GOAL] - state[GRIPPER]).norm()), 4),
                "held": bool(state[GRASPED] > 0.5),
            }
            for states, values in witness.seen
            for state, value in zip(states, values, strict=True)
        ]
        return {
            "successes": int(rollout.episodes.success_at_end.sum()),
            "episodes": num,
            "failures": ends,
        }

    name = named("failures", "none" if target == "feat2go" else target, reads, begin)
    return lab.stages(name).run("play", lab.profile.sizes(), work)
