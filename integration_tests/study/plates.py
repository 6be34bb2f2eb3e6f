"""Feat2Go's fine-tuning on the 25-object suites, evaluated on all of them; needs their assets."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench_adapters.envs.put_on_plate import find_assets
from bench_adapters.functional.put_on_plate import CATEGORIES
from integration_tests.study.benchmark import Benchmark
from integration_tests.study.design import Result
from integration_tests.study.lab import STATE, Lab, fine_tune, play, successes
from progress_labels.encoders import load_encoder
from progress_labels.episodes import LabeledEpisodes
from progress_labels.labels import label_dataset
from value_models.progress_model import DistributionalProgressModel
from value_models.recordings import RecordedEpisodes
from value_models.training import fit_progress_model
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.settings import PPOConfig
from vla_rl.policies.token_policy import TokenPolicy

OUT_SHARE = 1 / 3
"""Episodes of each run out of distribution, as a share of those in distribution."""
EVALUATED_STEPS = 80
"""The benchmark's; training is done with fewer, of which the expert needs about 30."""
SUITE = Benchmark(
    name="plates",
    env_id="put_on_plate:Main-v3",
    camera="3rd_view_camera",
    options={"obj_set": "train", "image_size": 64, "max_episode_steps": 48},
    recording={"noise": 0.03, "failure_fraction": 0.4},
    network={
        "image_size": 64,
        "normalize": True,
        "shift_pixels": 1,
        # The commanded pose sums up what is sampled, so bins and labels are narrow.
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
"""What is fine-tuned and, of each seed, recorded for its value model."""
DEMONSTRATED = replace(
    SUITE,
    name="plates-clone",
    options={**SUITE.options, "max_episode_steps": 36},
    recording={"noise": 0.03},
    sizes=lambda profile: replace(profile.plates, num_demonstrations=profile.plates.num_cloned),
)
"""What is cloned."""
CLONED = 40
"""Seed of the one clone that all seeds begin with, as the papers' do: it takes an hour."""


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
        reward: ``feat2go`` or ``sparse``; ``none`` evaluates the cloned policy.

    Raises:
        SimulatorUnavailableError: If the assets are missing.
    """
    find_assets(None)
    sizes = lab.profile.plates
    config = PPOConfig(
        reward="sparse" if reward == "none" else reward,  # type: ignore[arg-type]
        bootstrap_time_limit=False,  # success counts within the budget of steps, or not at all
        episodes_per_update=sizes.episodes_per_update,
        seed=lab.seed,
        seed_start=lab.train_seed,
    )

    def train(folder: Path) -> TokenPolicy:
        policy = DEMONSTRATED.policy(Lab(lab.out, lab.profile, CLONED))
        if reward != "none":
            model = _value_model(lab) if reward == "feat2go" else None
            with SUITE.env(lab, **SUITE.options) as env:
                learner = PPO(policy, env, config, out_dir=folder, progress_model=model)
                learner.fit(sizes.num_updates)
        return policy

    settings = {**asdict(config), "sizes": sizes.as_dict()}
    return fine_tune(
        lab, f"plates-{reward}", settings, train, evaluate=lambda p, f: _evaluate(lab, p, f)
    )


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
                result = play(policy, env, seeds=seeds, out=path, env_id=f"put_on_plate:{name}")
            scores[name] = successes(result)
    return scores


def _value_model(lab: Lab) -> DistributionalProgressModel:
    """Train Feat2Go's value model on the recording, once.

    It reads the state besides: of 16 backgrounds and as many objects in a few hundred attempts the
    picture alone tells too little.
    """
    encoder, dataset = load_encoder("offline"), SUITE.record(lab)
    settings: dict[str, Any] = {"max_epochs": lab.profile.plates.value_epochs, "seed": lab.seed}

    def work(folder: Path) -> Result:
        label_dataset(dataset, encoder, camera=SUITE.camera, overwrite=True)
        labeled = LabeledEpisodes(dataset, camera=SUITE.camera)
        episodes = RecordedEpisodes(labeled, dataset, columns=[STATE])
        fit = fit_progress_model(
            episodes,
            encoder,
            camera=SUITE.camera,
            out_dir=folder / "fit",
            state_dim=episodes[0][STATE].shape[1],
            **settings,
        )
        return asdict(fit.evaluation.model)

    with lab.alone("plates-value"):
        stages = lab.stages("plates-value")
        sizes = lab.profile.plates.as_dict()
        stages.run("fit", {**settings, "reads": STATE, "sizes": sizes}, work)
    model = DistributionalProgressModel.from_pretrained(stages.folders["fit"] / "fit/model")
    return model.attach_encoder(encoder)
