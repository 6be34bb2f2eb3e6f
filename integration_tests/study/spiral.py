"""SPIRAL's rounds on a frozen policy, with one of three rewards."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer

from integration_tests.pipelines.demonstrations import demonstrations, policy_arguments
from integration_tests.pipelines.quickstart import ACTIONS, CAMERA, CHUNK
from integration_tests.study.design import Result
from integration_tests.study.lab import Lab, fine_tune
from progress_labels.encoders import load_encoder
from value_models.data import ProgressDataModule
from value_models.recordings import RecordedEpisodes
from value_models.sarm2 import GatedValueModel
from value_models.stage_modules import GatedModule, PrimitiveModule
from value_models.window_model import RewindRegressor
from value_models.window_modules import RewindModule, WindowModule
from value_models.windows import WindowSpec
from vla_rl.algorithms.behaviour_cloning import clone
from vla_rl.algorithms.settings import CloneConfig, SpiralConfig
from vla_rl.algorithms.spiral import Spiral
from vla_rl.data import make_chunks
from vla_rl.policies.gaussian_policy import GaussianPolicy
from vla_rl.policies.residual_policy import ResidualPolicy

WINDOWS = WindowSpec(num_frames=4, stride=1, max_rewind=2)
"""In decisions: online the reward model sees one frame per chunk."""
NETWORK = {"num_frames": 4, "stride": 1, "hidden_dim": 64, "num_layers": 2, "num_heads": 4}
FEATURE_DIM = 256


class EveryDecision(Sequence[dict[str, Any]]):
    """Episodes with the frames only that a policy decides at, and the last one."""

    def __init__(self, episodes: Sequence[dict[str, Any]]) -> None:
        self.episodes = episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        episode = self.episodes[index]
        last = len(episode["progress"]) - 1
        rows = sorted({*range(0, last + 1, CHUNK), last})
        return {key: _rows(value, rows, last + 1) for key, value in episode.items()}


def _rows(value: Any, rows: list[int], length: int) -> Any:
    if isinstance(value, list) and len(value) == length:
        return [value[i] for i in rows]
    if hasattr(value, "shape") and len(value.shape) and len(value) == length:
        return value[rows]
    return value


def spiral(lab: Lab, *, reward: str) -> Result:
    """Improve a frozen policy by rounds.

    Args:
        lab: Of the seed.
        reward: ``sarm2``, ``single_head`` or ``sparse``; ``none`` evaluates the frozen policy.
    """
    config = SpiralConfig(
        episodes_per_round=lab.profile.base.episodes_per_update,
        dense=reward in ("sarm2", "single_head"),
        seed=lab.seed,
        seed_start=lab.train_seed,
    )
    rounds = lab.profile.num_rounds if reward != "none" else 0

    def train(folder: Path) -> ResidualPolicy:
        base = _frozen_policy(lab)
        policy = ResidualPolicy(
            base,
            feature_dim=FEATURE_DIM,
            action_low=base.action_low,
            action_high=base.action_high,
            num_candidates=4 if rounds else 1,
        )
        model = _reward_model(lab, reward) if config.dense else None
        with lab.env() as env:
            learner = Spiral(policy, env, config, out_dir=folder, progress_model=model)
            learner.fit(rounds)
        return policy.eval()

    settings = {**asdict(config), "reward": reward, "rounds": rounds}
    return fine_tune(lab, f"spiral-{reward}", settings, train)


def _frozen_policy(lab: Lab) -> GaussianPolicy:
    successes = demonstrations(lab.base().dataset, CAMERA, success=True)
    samples = make_chunks(islice(successes, lab.profile.base.num_cloned), chunk=CHUNK)
    torch.manual_seed(lab.seed)
    policy = GaussianPolicy(**policy_arguments(samples, CAMERA), **ACTIONS, hidden_dim=FEATURE_DIM)
    config = CloneConfig(num_epochs=lab.profile.base.clone_epochs, seed=lab.seed)
    with lab.alone("gaussian"):
        clone(policy, samples, config, out_dir=lab.out / f"gaussian-seed{lab.seed}")
    return policy.eval()


def _reward_model(lab: Lab, name: str) -> GatedValueModel | RewindRegressor:
    """Train a reward model on the seed's recording, once."""
    encoder = load_encoder("offline")
    settings = {"epochs": lab.profile.base.value_epochs, **lab.profile.sizes()}

    def work(folder: Path) -> Result:
        data = ProgressDataModule(
            episodes=EveryDecision(RecordedEpisodes(lab.episodes(), lab.base().dataset)),
            encoder=encoder,
            camera=CAMERA,
            windows=WINDOWS,
            batch_size=64,
            seed=lab.seed,
        )
        data.setup()
        if name == "single_head":
            _train(lab, data, RewindModule).model.save_pretrained(folder / "model")
            return {}
        _train(lab, data, PrimitiveModule).model.save_pretrained(folder / "estimator")
        gated = _train(
            lab, data, GatedModule, estimator_folder=str(folder / "estimator"), joint=False
        )
        gated.model.save_pretrained(folder / "model")
        return {}

    with lab.alone(f"reward-{name}"):
        stages = lab.stages(f"reward-{name}")
        stages.run("fit", settings, work)
    cls = GatedValueModel if name == "sarm2" else RewindRegressor
    model: Any = cls.from_pretrained(stages.folders["fit"] / "model")
    return model.attach_encoder(encoder)  # type: ignore[no-any-return]


def _train(lab: Lab, data: ProgressDataModule, cls: type[WindowModule], **options: Any) -> Any:
    lightning.seed_everything(lab.seed, verbose=False)
    module = cls(
        camera=CAMERA,
        encoder_id=data.encoder_id,
        num_patches=data.num_patches,
        feature_dim=data.feature_dim,
        network=dict(NETWORK),
        lr=2e-3,
        seed=lab.seed,
        **options,
    )
    trainer = Trainer(
        max_epochs=lab.profile.base.value_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, data)
    return module.eval()
