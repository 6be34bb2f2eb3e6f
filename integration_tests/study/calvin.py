"""RFTF on CALVIN's scene D, from a policy cloned from scripted motions; needs a clone of CALVIN."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench_adapters.envs.calvin_chains import official_chains
from bench_adapters.envs.calvin_clone import find_clone
from integration_tests.pipelines.evaluation import play
from integration_tests.study.benchmark import Benchmark
from integration_tests.study.design import Result
from integration_tests.study.lab import Lab, fine_tune
from integration_tests.study.ranking import train_ranking
from progress_labels import time_fraction
from progress_labels.dataset import EpisodeDataset
from progress_labels.encoders import load_encoder
from value_models.progress_model import TemporalRankingModel
from vla_rl.algorithms.rftf import RFTF
from vla_rl.algorithms.settings import RFTFConfig
from vla_rl.policies.token_policy import TokenPolicy

SUBTASKS = (
    "open_drawer",
    "close_drawer",
    "move_slider_left",
    "move_slider_right",
    "turn_on_led",
    "turn_off_led",
)
"""What the scripted expert does within `SUBTASK_STEPS` and no block is needed for."""
SUBTASK_STEPS = 152
"""Of an instruction in recording and training; the challenge gives 360."""
PREFIX = 2
"""Chains are evaluated whose first so many subtasks were trained."""
SCENE = Benchmark(
    name="calvin",
    env_id="calvin:D",
    camera="static",
    options={"subtasks": list(SUBTASKS), "chain_length": 1, "subtask_steps": SUBTASK_STEPS},
    recording={"noise": 0.1},
    network={
        "image_size": 200,
        "channels": (8, 16, 32),
        "action_low": -1.0,
        "action_high": 1.0,
    },
    chunk=8,
    stride=2,
    sizes=lambda profile: profile.calvin,
)


class Attempts(Sequence[dict[str, Any]]):
    """Recorded attempts under the keys a value model reads; only successes have progress."""

    def __init__(self, root: Path) -> None:
        self.dataset = EpisodeDataset(root, camera=SCENE.camera)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        episode = self.dataset[index]
        known = torch.as_tensor(time_fraction(len(episode["frames"])), dtype=torch.float32)
        return {
            f"observation.images.{SCENE.camera}": episode["frames"],
            "task": episode["task"],
            "episode_index": episode["episode_index"],
            "success": episode["success"],
            "progress": known if episode["success"] else torch.full_like(known, torch.nan),
        }


def calvin(lab: Lab, *, shaping: str) -> Result:
    """Fine-tune by RFTF on single instructions of scene D and evaluate chains of the challenge.

    Args:
        lab: Of the seed.
        shaping: ``dense`` or ``sparse``; ``none`` evaluates the cloned policy.

    Raises:
        SimulatorUnavailableError: If there is no clone of CALVIN.
    """
    find_clone(None)
    sizes = lab.profile.calvin
    config = RFTFConfig(
        episodes_per_update=sizes.episodes_per_update,
        shaping=shaping == "dense",
        eta_success=2.0,
        kl_target=None,
        seed=lab.seed,
        seed_start=lab.train_seed,
    )
    updates = sizes.num_updates if shaping != "none" else 0

    def train(folder: Path) -> TokenPolicy:
        policy = SCENE.policy(lab)
        model = _value_model(lab) if config.shaping else None
        with SCENE.env(lab, **SCENE.options) as env:
            RFTF(policy, env, config, out_dir=folder, progress_model=model).fit(updates)
        return policy

    settings = {**asdict(config), "sizes": sizes.as_dict()}
    return fine_tune(
        lab, f"calvin-{shaping}", settings, train, evaluate=lambda p, f: _evaluate(lab, p, f)
    )


def chosen_chains(num: int) -> list[int]:
    """Return the numbers of the first official chains that begin with `PREFIX` trained subtasks."""
    fitting = (
        number
        for number, chain in enumerate(official_chains())
        if set(chain.tasks[:PREFIX]) <= set(SUBTASKS)
    )
    return list(islice(fitting, num))


def _evaluate(lab: Lab, policy: Any, folder: Path) -> Result:
    """Run the chains by the challenge's rules; actions are sampled."""
    seeds = chosen_chains(lab.profile.calvin.num_evaluated)
    with SCENE.env(lab) as env:
        path = folder / "chains.json"
        result = play(policy, env, seeds=seeds, out=path, suite="study", env_id=SCENE.env_id)
    return {"chains": [round(episode.episode_return) for episode in result.episodes]}


def _value_model(lab: Lab) -> TemporalRankingModel:
    sizes = lab.profile.calvin

    def work(folder: Path) -> Result:
        _, result = train_ranking(
            Attempts(SCENE.record(lab)),
            camera=SCENE.camera,
            seed=lab.seed,
            folder=folder,
            num_epochs=sizes.value_epochs,
        )
        return result

    with lab.alone("calvin-ranking"):
        stages = lab.stages("calvin-ranking")
        stages.run("fit", [sizes.value_epochs, sizes.num_demonstrations], work)
    model: TemporalRankingModel = TemporalRankingModel.from_pretrained(
        stages.folders["fit"] / "model"
    )
    return model.attach_encoder(load_encoder("offline"))
