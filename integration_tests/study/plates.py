"""Feat2Go's fine-tuning on the 25-object suites, evaluated on all of them; needs their assets."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench_adapters.envs.put_on_plate import find_assets
from bench_adapters.functional.put_on_plate import CATEGORIES
from integration_tests.pipelines.evaluation import play
from integration_tests.study.benchmark import Benchmark
from integration_tests.study.design import Result
from integration_tests.study.lab import Lab, fine_tune, successes
from progress_labels.encoders import load_encoder
from progress_labels.episodes import LabeledEpisodes
from progress_labels.labels import label_dataset
from value_models.functional import success_auroc
from value_models.progress_model import DistributionalProgressModel
from value_models.training import fit_progress_model
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.settings import PPOConfig
from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.rollout import collect_episodes

OUT_SHARE = 1 / 3
"""Episodes of each run out of distribution, as a share of those in distribution."""
EVALUATED_STEPS = 80
"""The benchmark's."""
TRAINED_STEPS = 48
"""Fewer of them do for training: the expert needs about 30."""
TEMPERATURE = 0.6
"""Of sampling. Errors add up here, as the tool's commanded pose is the sum of what is sampled."""
SUITE = Benchmark(
    name="plates",
    env_id="put_on_plate:Main-v3",
    camera="3rd_view_camera",
    options={"obj_set": "train", "image_size": 64, "max_episode_steps": 36},
    recording={"noise": 0.03},
    network={
        "image_size": 64,
        "normalize": True,
        "shift_pixels": 1,
        # Narrow bins and labels, again because errors add up.
        "num_bins": 41,
        "label_sigma_bins": 0.5,
        "action_low": [-0.06, -0.06, -0.06, -0.02, -0.06, -0.3, -1.0],
        "action_high": [0.06, 0.06, 0.06, 0.02, 0.06, 0.3, 1.0],
    },
    chunk=4,
    stride=2,
    beginning=12,
    sizes=lambda profile: profile.plates,
)
"""What is recorded and cloned."""
SHARED = 40
"""Seed of the recording, policy and value model that all seeds begin with, as the papers' do."""


def run_name(suite: str, objects: str) -> str:
    """Return the name in a result of the run of a suite with an object set."""
    return f"{suite}, {objects}"


def run_names(category: str) -> list[str]:
    """Return the names of the runs of a category."""
    return [run_name(*run) for run in CATEGORIES[category]]


IN_DISTRIBUTION = run_names("in_distribution")[0]


def plates(lab: Lab, *, reward: str) -> Result:
    """Fine-tune by PPO on the training suite and evaluate on all suites.

    Args:
        lab: Of the seed.
        reward: ``feat2go`` or ``sparse``; ``none`` evaluates the cloned policy, and on its episodes
            the value model.

    Raises:
        SimulatorUnavailableError: If the assets are missing.
    """
    find_assets(None)
    sizes = lab.profile.plates
    shared = Lab(lab.out, lab.profile, SHARED)
    config = PPOConfig(
        reward="sparse" if reward == "none" else reward,  # type: ignore[arg-type]
        bootstrap_time_limit=False,  # success counts within the budget of steps, or not at all
        episodes_per_update=sizes.episodes_per_update,
        seed=lab.seed,
        seed_start=lab.train_seed,
    )

    def train(folder: Path) -> TokenPolicy:
        policy = _cloned(shared)
        if reward != "none":
            model = _value_model(shared) if reward == "feat2go" else None
            with SUITE.env(lab, **_training_options()) as env:
                learner = PPO(policy, env, config, out_dir=folder, progress_model=model)
                learner.fit(sizes.num_updates)
        return policy

    settings = {**asdict(config), "temperature": TEMPERATURE, "sizes": sizes.as_dict()}
    result = fine_tune(
        lab, f"plates-{reward}", settings, train, evaluate=lambda p, f: _evaluate(lab, p, f)
    )
    if reward == "none":
        judged = lab.stages("plates-judged")
        result["value_model"] = judged.run(
            "judge", settings, lambda _: _judge(lab, _cloned(shared), _value_model(shared))
        )
    return result


def _training_options() -> dict[str, Any]:
    return {**SUITE.options, "max_episode_steps": TRAINED_STEPS}


def _cloned(shared: Lab) -> TokenPolicy:
    policy = SUITE.policy(shared)
    policy.temperature = TEMPERATURE
    return policy


def _evaluate(lab: Lab, policy: Any, folder: Path) -> Result:
    """Count successes at any step, as Feat2Go's tables do, of every run; actions are sampled."""
    scores: Result = {}
    for category, runs in CATEGORIES.items():
        for suite, objects in runs:
            name = run_name(suite, objects)
            num = lab.profile.plates.num_evaluated
            if category != "in_distribution":
                num = max(1, round(OUT_SHARE * num))
            options = {
                **SUITE.options,
                "obj_set": objects,
                "max_episode_steps": EVALUATED_STEPS,
                "num_workers": 0,
            }
            with SUITE.env(lab, f"put_on_plate:{suite}", **options) as env:
                seeds = range(lab.evaluation_seed, lab.evaluation_seed + num)
                path = folder / f"{suite}-{objects}.json"
                result = play(
                    policy, env, seeds=seeds, out=path, suite="study", env_id=f"put_on_plate:{name}"
                )
            scores[name] = successes(result)
    return scores


def _value_model(shared: Lab) -> DistributionalProgressModel:
    """Train Feat2Go's value model on the recording, once."""
    encoder, dataset = load_encoder("offline"), SUITE.record(shared)
    sizes = shared.profile.plates
    settings: dict[str, Any] = {"max_epochs": sizes.value_epochs, "seed": shared.seed}

    def work(folder: Path) -> Result:
        label_dataset(dataset, encoder, camera=SUITE.camera, overwrite=True)
        episodes = LabeledEpisodes(dataset, camera=SUITE.camera)
        fit = fit_progress_model(
            episodes, encoder, camera=SUITE.camera, out_dir=folder / "fit", **settings
        )
        return asdict(fit.evaluation.model)

    with shared.alone("plates-value"):
        stages = shared.stages("plates-value")
        stages.run("fit", {**settings, "recorded": sizes.num_demonstrations}, work)
    model = DistributionalProgressModel.from_pretrained(stages.folders["fit"] / "fit/model")
    return model.attach_encoder(encoder)


def _judge(lab: Lab, policy: TokenPolicy, model: DistributionalProgressModel) -> Result:
    """Return how the model tells by the last frame which of the policy's own episodes succeeded.

    ``auroc``, None without both outcomes, the mean progress of ``success`` and ``failure``, and the
    number of ``episodes``, which are those of the first update.
    """
    num = lab.profile.plates.episodes_per_update
    with SUITE.env(lab, **_training_options()) as env:
        episodes = collect_episodes(
            policy,
            env,
            range(lab.train_seed, lab.train_seed + num),
            generator=torch.Generator().manual_seed(lab.seed),
            progress_model=model,
            progress_at="decisions",
            progress_bar=True,
        ).episodes
    succeeded, failed = (
        episodes.progress[rows] for rows in (episodes.success_at_end, ~episodes.success_at_end)
    )
    scores = {
        "auroc": success_auroc(succeeded, failed).item(),
        "success": succeeded.mean().item(),
        "failure": failed.mean().item(),
    }
    told = {name: None if math.isnan(score) else score for name, score in scores.items()}
    return {**told, "episodes": num}
