"""How each kind of run is done. A function here is called with a lab and the run's options."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from integration_tests.pipelines.demonstrations import demonstrations
from integration_tests.pipelines.files import write_whole
from integration_tests.pipelines.quickstart import CAMERA, CHUNK
from integration_tests.study.ablation import ablation
from integration_tests.study.calvin import calvin
from integration_tests.study.design import Result
from integration_tests.study.failures import failures
from integration_tests.study.lab import EXTRA, Constant, Lab, Shuffled, fine_tune, improve, named
from integration_tests.study.plates import plates
from integration_tests.study.policies import policy_of, small_policy
from integration_tests.study.ranking import fit_ranking_model, ranking
from integration_tests.study.spiral import spiral
from vla_rl.algorithms.behaviour_cloning import BehaviourCloning
from vla_rl.algorithms.grpo import GRPO
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.rabc import RABC
from vla_rl.algorithms.rftf import RFTF
from vla_rl.algorithms.settings import CloneConfig, GRPOConfig, PPOConfig, RABCConfig, RFTFConfig
from vla_rl.data import make_chunks
from vla_rl.policies.token_policy import TokenPolicy

NUM_DEMONSTRATIONS = 40
"""Of the claim on degraded demonstrations."""
KAPPA = 0.01
"""RA-BC's threshold, the paper's. With 0.05 clean demonstrations were cloned worse than by BC."""


def start(lab: Lab, *, begin: str = "clone") -> Result:
    """Evaluate the policy that fine-tuning starts from, the cloned or the ``weak`` one."""
    stages = lab.stages(named("start", begin))
    policy = policy_of(lab, begin)
    return stages.run(
        "evaluate",
        lab.profile.sizes(),
        lambda folder: {"after": lab.evaluate(policy, folder, shifted=begin == "clone")},
    )


def ppo(lab: Lab, *, reward: str, control: str = "none") -> Result:
    """Fine-tune by PPO.

    Args:
        lab: Of the seed.
        reward: ``feat2go``, or its terminal reward from a value model of ``steps_to_go`` or
            ``time_fraction``; ``sparse``, ``potential``, ``naive``.
        control: ``none``; in place of each value the ``mean`` over recorded failures, or that of
            another episode, ``shuffled``; or ``capped``, no more than a half, what the first of
            this task's two stages is worth.
    """
    target = reward if reward in ("steps_to_go", "time_fraction") else "feat2go"
    config = PPOConfig(
        reward="feat2go" if target != "feat2go" else reward,  # type: ignore[arg-type]
        bootstrap_time_limit=False,  # success counts within the budget of steps, or not at all
        progress_cap=0.5 if control == "capped" else PPOConfig.progress_cap,
        **_common(lab),
    )

    def progress_model() -> Any:
        if config.reward == "sparse":
            return None
        model, scores = lab.value_model(target)
        if control == "mean":
            return Constant(scores["final_progress_failure"])
        return Shuffled(model) if control == "shuffled" else model

    name = named("ppo", reward, control)
    settings = {**asdict(config), "target": target, "control": control}
    shifted = control == "none" and reward in ("feat2go", "steps_to_go", "time_fraction")
    train = improve(lab, PPO, config, lab.policy, progress_model, shifted=shifted)
    return fine_tune(lab, name, settings, train, shifted=shifted)


def rftf(lab: Lab, *, shaping: str) -> Result:
    """Fine-tune by RFTF with (``dense``) or without (``sparse``) the rise of a ranking model."""
    config = RFTFConfig(
        shaping=shaping == "dense",
        eta_success=2.0,  # (1 - p) / p for p = 1/3, as the paper's 0.25 is for p = 0.8
        kl_target=None,
        **_common(lab),
    )
    train = improve(
        lab, RFTF, config, lab.policy, lambda: fit_ranking_model(lab) if config.shaping else None
    )
    return fine_tune(lab, f"rftf-{shaping}", asdict(config), train)


def grpo(lab: Lab, *, reward: str, begin: str) -> Result:
    """Fine-tune by GRPO from the cloned policy or from a ``weak`` one that hardly ever succeeds."""
    config = GRPOConfig(reward=reward, **_common(lab))  # type: ignore[arg-type]
    train = improve(
        lab,
        GRPO,
        config,
        lambda: policy_of(lab, begin),
        lambda: lab.value_model("feat2go")[0] if reward == "feat2go" else None,
    )
    return fine_tune(lab, f"grpo-{reward}-{begin}", asdict(config), train)


def _common(lab: Lab) -> dict[str, Any]:
    return {
        "episodes_per_update": lab.profile.base.episodes_per_update,
        "seed": lab.seed,
        "seed_start": lab.train_seed,
    }


def cloning(lab: Lab, *, method: str, degraded: float) -> Result:
    """Clone demonstrations of which a share failed, all alike or weighed by progress.

    Args:
        lab: Of the seed.
        method: ``bc`` or ``rabc``.
        degraded: Share of failed attempts among the demonstrations.
    """
    common: dict[str, Any] = {"num_epochs": lab.profile.base.clone_epochs, "seed": lab.seed}
    weighed, alike = RABCConfig(**common, kappa=KAPPA), CloneConfig(**common)
    num = min(NUM_DEMONSTRATIONS, lab.profile.base.num_demonstrations // 2)

    def train(folder: Path) -> TokenPolicy:
        model, _ = lab.value_model("feat2go")
        episodes = list(_mixture(lab, num, degraded))
        for episode in episodes:
            batch = {**episode, "task": [episode["task"]]}
            image = f"observation.images.{CAMERA}"
            batch[image] = episode[image][None]
            episode["progress"] = model.compute_progress(batch)[0]
        samples = make_chunks(episodes, chunk=CHUNK)
        policy = small_policy(lab, samples)
        if method == "rabc":
            weighing = RABC(policy, samples, weighed, out_dir=folder)
            lengths = [len(episode["action"]) for episode in episodes]
            weights = mean_weights(weighing.weights, lengths, round(num * degraded))
            write_whole(folder / EXTRA, json.dumps({"weights": weights}))
            weighing.fit()
        else:
            del samples["progress_gain"]
            BehaviourCloning(policy, samples, alike, out_dir=folder).fit()
        policy.eval()
        return policy

    name = f"cloning-{method}-{degraded}"
    return fine_tune(lab, name, {**asdict(weighed), "num": num}, train)


def mean_weights(weights: Tensor, lengths: Sequence[int], num_failures: int) -> dict[str, float]:
    """Return the mean weight of the samples of successes, of their last thirds and of failures.

    Args:
        weights: Of every frame of every episode, in order.
        lengths: Frames of each episode.
        num_failures: How many failed, the last ones; without any, ``failure`` is left out.
    """
    parts: list[Tensor] = list(torch.split(weights, list(lengths)))
    succeeded, failed = parts[: len(parts) - num_failures], parts[len(parts) - num_failures :]
    groups = {
        "success": succeeded,
        "end of success": [part[len(part) * 2 // 3 :] for part in succeeded],
        "failure": failed,
    }
    return {name: float(torch.cat(group).mean()) for name, group in groups.items() if group}


def _mixture(lab: Lab, num: int, degraded: float) -> Iterable[dict[str, Any]]:
    """Yield ``num`` attempts of which a share failed."""
    dataset, failures = lab.base().dataset, round(num * degraded)
    yield from islice(demonstrations(dataset, CAMERA, success=True), num - failures)
    yield from islice(demonstrations(dataset, CAMERA, success=False), failures)


KINDS: Mapping[str, Callable[..., Result]] = MappingProxyType(
    {
        "start": start,
        "ppo": ppo,
        "rftf": rftf,
        "grpo": grpo,
        "cloning": cloning,
        "ranking": ranking,
        "ablation": ablation,
        "spiral": spiral,
        "calvin": calvin,
        "failures": failures,
        "plates": plates,
    }
)
