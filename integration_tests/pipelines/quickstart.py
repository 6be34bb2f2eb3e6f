"""Record → label → value model → clone → reinforcement fine-tuning → evaluate → report.

Everything goes through the packages' public API, as a downstream project would. Run it by
``nox -s quickstart``; ``-- --help`` lists the options. A second start reuses finished stages, and
one that was stopped is continued.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench_adapters import BenchAdaptersError, VectorEnv, make
from bench_adapters.record import record_dataset
from integration_tests.pipelines import report
from integration_tests.pipelines.demonstrations import demonstrations, policy_arguments
from integration_tests.pipelines.evaluation import play
from integration_tests.pipelines.files import provenance
from integration_tests.pipelines.profiles import PROFILES, Profile
from integration_tests.pipelines.stages import (
    Result,
    StageError,
    Stages,
    alone,
    interrupt_on_sigterm,
)
from integration_tests.pipelines.summary import film_one_of_each, write_report, write_result
from progress_labels.encoders import load_encoder
from progress_labels.episodes import LabeledEpisodes
from progress_labels.errors import DatasetError
from progress_labels.labels import LabelConfig, label_dataset, read_labels
from progress_labels.plots import plot_episode
from value_models.plots import plot_curves
from value_models.progress_model import DistributionalProgressModel
from value_models.training import fit_progress_model
from vla_rl.algorithms.behaviour_cloning import clone
from vla_rl.algorithms.ppo import PPO
from vla_rl.algorithms.settings import CloneConfig, PPOConfig, Reward
from vla_rl.data import make_chunks
from vla_rl.policies.token_policy import TokenPolicy

ENV_ID = "maniskill:PickCube-v1"
CAMERA = "hand_camera"
CHUNK = 4
MAX_STEPS = 48  # twelve decisions; the expert needs about 25 steps
NOISE = 0.05
FAILURE_FRACTION = 0.2
ACTIONS: dict[str, Any] = {
    "action_low": [-0.4, -0.4, -0.4, -1.0],
    "action_high": [0.4, 0.4, 0.4, 1.0],
}
# Episodes last about 30 frames: shorter windows and smaller slopes cut some of them into two stages
# and some into four, and the same picture then has many values.
LABELS = LabelConfig(window=9, alpha=1.3)
# Disjoint ranges of episode seeds; `--seed` shifts each within its range.
RECORD_SEEDS, TRAIN_SEEDS, EVALUATION_SEEDS = 1_000_000, 10_000_000, 20_000_000
SEED_STRIDE = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pipeline; returns the exit status."""
    args = _parser().parse_args(arguments)
    out = args.out or Path("outputs") / f"quickstart-{args.profile}-seed{args.seed}"
    torch.set_num_threads(2)  # the simulators of the default profile use as many processes
    try:
        summary = run(args.profile, out, seed=args.seed, compare=args.compare)
    except (StageError, BenchAdaptersError, DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; start again to continue", file=sys.stderr)
        return 130
    print(summary)
    return 0


def run(profile: str, out: Path, *, seed: int = 0, compare: Reward | None = None) -> str:
    """Run or continue all stages in ``out``; leaves ``report.html`` and ``result.json`` there.

    Args:
        profile: Name of its sizes.
        out: Folder of the run.
        seed: Seed of everything that is drawn.
        compare: ``sparse`` fine-tunes a second time with the sparse reward.

    Returns:
        A one-screen summary.
    """
    rewards: list[Reward] = ["feat2go", *([compare] if compare else [])]
    with alone(out / ".lock", wait=False):
        job = Quickstart(PROFILES[profile], Stages(out), seed)
        job.record()
        job.label()
        job.fit_value_model()
        job.clone()
        for reward in rewards:
            job.fine_tune(reward)
        job.evaluate(rewards)
        command = f"nox -s quickstart -- --profile {profile} --seed {seed}"
        made = provenance(f"{command} --compare {compare}" if compare else command, seed)
        write_result(job.stages, made)
        return write_report(job.stages, rewards)


class Quickstart:
    """The stages, in order; each reads what the ones before it left on disk."""

    def __init__(self, profile: Profile, stages: Stages, seed: int) -> None:
        self.profile, self.stages, self.seed = profile, stages, seed
        self.shift = seed * SEED_STRIDE

    def record(self) -> Result:
        """Record scripted attempts, some of which fail, as a LeRobot dataset."""
        settings: dict[str, Any] = {
            "env_id": ENV_ID,
            "num_episodes": self.profile.num_demonstrations,
            "seed": RECORD_SEEDS + self.shift,
            "noise": NOISE,
            "failure_fraction": FAILURE_FRACTION,
            "env_kwargs": {"cameras": [CAMERA], "max_episode_steps": MAX_STEPS},
        }

        def work(folder: Path) -> Result:
            summary = record_dataset(
                **settings, root=folder / "dataset", num_workers=self.profile.num_workers
            )
            return {
                "episodes": summary.num_episodes,
                "frames": summary.num_frames,
                "successes": summary.num_successes,
            }

        return self.stages.run("record", settings, work)

    def label(self) -> Result:
        """Label the successes the Feat2Go way and draw one of them."""
        encoder = load_encoder("offline")
        settings = {"encoder": encoder.encoder_id, "camera": CAMERA, "config": asdict(LABELS)}

        def work(folder: Path) -> Result:
            path = label_dataset(
                self.dataset, encoder, camera=CAMERA, config=LABELS, overwrite=True
            )
            labels = {i: item for i, item in read_labels(path).items() if item.num_stages}
            stages = np.bincount([item.num_stages for item in labels.values()])
            shown = next(i for i, item in labels.items() if item.num_stages == stages.argmax())
            episode = LabeledEpisodes(self.dataset, camera=CAMERA)[shown]
            figure = plot_episode(
                episode[f"observation.images.{CAMERA}"],
                labels[shown],
                title=f"{ENV_ID}, episode {shown}: {episode['task']}",
            )
            report.save(figure, folder / "label.png")
            return {"labeled": len(labels), "stage_counts": stages.tolist()}

        return self.stages.run("label", settings, work)

    def fit_value_model(self) -> Result:
        """Train the 201-bin value model on frames and instruction."""
        settings: dict[str, Any] = {"max_epochs": self.profile.value_epochs, "seed": self.seed}

        def work(folder: Path) -> Result:
            fit = fit_progress_model(
                LabeledEpisodes(self.dataset, camera=CAMERA),
                load_encoder("offline"),
                camera=CAMERA,
                out_dir=folder / "fit",
                **settings,
            )
            print(fit.evaluation.table(), flush=True)
            shown = sorted(fit.evaluation.predictions, key=lambda p: p.success)
            report.save(plot_curves([*shown[:4], *shown[-4:]]), folder / "curves.png")
            scores = {"model": asdict(fit.evaluation.model)}
            if fit.evaluation.baseline is not None:
                scores["linear time"] = asdict(fit.evaluation.baseline)
            return {
                "scores": scores,
                "episodes": fit.evaluation.num_episodes,
                "failures": fit.evaluation.num_failures,
            }

        return self.stages.run("value", settings, work)

    def clone(self) -> Result:
        """Warm-start the policy on a few successful demonstrations."""
        settings = {
            "num_cloned": self.profile.num_cloned,
            "epochs": self.profile.clone_epochs,
            "seed": self.seed,
        }

        def work(folder: Path) -> Result:
            successes = demonstrations(self.dataset, CAMERA, success=True)
            chosen = list(islice(successes, self.profile.num_cloned))
            samples = make_chunks(chosen, chunk=CHUNK)
            torch.manual_seed(self.seed)
            policy = TokenPolicy(**policy_arguments(samples, CAMERA), **ACTIONS)
            clone(
                policy,
                samples,
                CloneConfig(num_epochs=self.profile.clone_epochs, seed=self.seed),
                out_dir=folder / "fit",
            )
            policy.save_pretrained(folder / "policy")
            return {"demonstrations": len(chosen), "frames": len(samples["action"])}

        return self.stages.run("clone", settings, work)

    def fine_tune(self, reward: Reward) -> Result:
        """Improve the cloned policy by PPO."""
        config = PPOConfig(
            reward=reward,
            bootstrap_time_limit=False,  # success counts within the budget of steps, or not at all
            episodes_per_update=self.profile.episodes_per_update,
            seed=self.seed,
            seed_start=TRAIN_SEEDS + self.shift,
        )
        settings = {**asdict(config), "num_updates": self.profile.num_updates}

        def work(folder: Path) -> Result:
            policy = load_policy(self.stages.folders["clone"])
            with self._env() as env:
                ppo = PPO(
                    policy,
                    env,
                    config,
                    out_dir=folder / "fit",
                    progress_model=self._progress_model() if reward == "feat2go" else None,
                )
                ppo.fit(self.profile.num_updates)
            policy.save_pretrained(folder / "policy")
            return {"updates": self.profile.num_updates}

        return self.stages.run(f"finetune-{reward}", settings, work)

    def evaluate(self, rewards: Sequence[str]) -> Result:
        """Evaluate every policy on the same held-out episodes, sampled and greedy."""
        folders = {"before": "clone", **{reward: f"finetune-{reward}" for reward in rewards}}
        settings = {"policies": folders, "num_episodes": self.profile.num_evaluated}
        first = EVALUATION_SEEDS + self.shift
        seeds = range(first, first + self.profile.num_evaluated)

        def work(folder: Path) -> Result:
            scores: Result = {}
            with self._env(ignore_terminations=True) as env:
                for name, source in folders.items():
                    policy = load_policy(self.stages.folders[source])
                    for mode in ("sampled", "greedy"):
                        result = play(
                            policy,
                            env,
                            seeds=seeds,
                            deterministic=mode == "greedy",
                            out=folder / f"{name}-{mode}.json",
                            suite="quickstart",
                            env_id=ENV_ID,
                            policy_name=name,
                        )
                        scores[f"{name}, {mode}"] = {
                            "success_once": dict(result.success_once),
                            "success_at_end": dict(result.success_at_end),
                            "outcomes": [
                                (episode.seed, episode.success_once) for episode in result.episodes
                            ],
                        }
            best = load_policy(self.stages.folders[folders[rewards[0]]])
            with self._env(
                num_envs=1,
                num_workers=0,
                cameras=[CAMERA, "base_camera"],
                image_size={CAMERA: 64, "base_camera": 256},
            ) as env:
                outcomes = scores[f"{rewards[0]}, greedy"]["outcomes"]
                film_one_of_each(best, env, outcomes, folder)
            return scores

        return self.stages.run("evaluate", settings, work)

    @property
    def dataset(self) -> Path:
        """Folder of the recorded dataset."""
        return self.stages.folders["record"] / "dataset"

    def _progress_model(self) -> DistributionalProgressModel:
        model = DistributionalProgressModel.from_pretrained(
            self.stages.folders["value"] / "fit" / "model"
        )
        return model.attach_encoder(load_encoder("offline"))

    @contextmanager
    def _env(self, **overrides: Any) -> Iterator[VectorEnv]:
        options: dict[str, Any] = {
            "num_envs": self.profile.num_envs,
            "num_workers": self.profile.num_workers,
            "cameras": [CAMERA],
            "max_episode_steps": MAX_STEPS,
        }
        env = make(ENV_ID, **{**options, **overrides})
        try:
            yield env
        finally:
            env.close()


def load_policy(stage: Path) -> TokenPolicy:
    """Load the policy that a stage left, ready to act."""
    policy: TokenPolicy = TokenPolicy.from_pretrained(stage / "policy")
    policy.eval()
    return policy


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quickstart", description=__doc__)
    parser.add_argument("--profile", choices=sorted(PROFILES), default="full")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn")
    parser.add_argument("--out", type=Path, help="folder of the run; default outputs/quickstart-…")
    parser.add_argument(
        "--compare", choices=["sparse"], help="fine-tune with this reward too and print it beside"
    )
    return parser


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())
