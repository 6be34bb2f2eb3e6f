"""What runs are made of: recordings, value models, policies and evaluations of one seed."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench_adapters import VectorEnv, make
from bench_adapters.types import EvaluationResult
from integration_tests.pipelines.evaluation import play
from integration_tests.pipelines.files import write_whole
from integration_tests.pipelines.quickstart import (
    ACTIONS,
    CAMERA,
    CHUNK,
    ENV_ID,
    EVALUATION_SEEDS,
    FAILURE_FRACTION,
    LABELS,
    MAX_STEPS,
    NOISE,
    SEED_STRIDE,
    TRAIN_SEEDS,
    Quickstart,
    load_policy,
)
from integration_tests.pipelines.stages import Stages, alone
from integration_tests.study.design import Profile, Result
from integration_tests.study.shifts import SHIFTS, make_shifted
from progress_labels import steps_to_go, time_fraction
from progress_labels.encoders import load_encoder
from progress_labels.episodes import LabeledEpisodes
from value_models.progress_model import DistributionalProgressModel
from value_models.recordings import RecordedEpisodes
from value_models.training import fit_progress_model
from vla_rl.policies.token_policy import TokenPolicy

FIRST_SEED = 10
"""Of the quickstart's ranges: its own first seeds, on which its settings were chosen, are not
reported here; settings of the study were chosen on those from 40."""


GLIMPSES = (1 / 3, 2 / 3)
"""Shares of a training after which its policy is evaluated, too, if it is under the shifts."""
GLIMPSED = 0.2
"""Share of the episodes of its last evaluation that these have."""


STATE = "observation.state"
BASIS = {
    "noise": NOISE,
    "failure_fraction": FAILURE_FRACTION,
    "max_steps": MAX_STEPS,
    "labels": asdict(LABELS),
    "chunk": CHUNK,
    "actions": ACTIONS,
}
"""What PickCube's recordings, labels and policies depend on, sizes aside."""


def named(*parts: str) -> str:
    """Return the name of a piece of work of a seed, without the options that are the usual ones."""
    return "-".join(part for part in parts if part not in ("none", "picture", "clone"))


EXTRA = "extra.json"
"""Further entries of a result, in the folder of a training."""


class Target(Sequence[dict[str, Any]]):
    """Labelled episodes whose successes count time in place of Feat2Go's progress.

    Args:
        episodes: What Feat2Go labelled.
        target: ``steps_to_go`` over the longest success, or ``time_fraction``.
    """

    def __init__(self, episodes: Sequence[dict[str, Any]], target: str) -> None:
        self.episodes, self.target = episodes, target
        lengths = [len(item["progress"]) for item in episodes if item["success"]]
        self.longest = max(lengths)

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        item = self.episodes[index]
        if not item["success"]:
            return item
        num = len(item["progress"])
        progress = time_fraction(num)
        if self.target == "steps_to_go":
            progress = 1.0 - steps_to_go(num) / max(1, self.longest - 1)
        return item | {"progress": torch.as_tensor(progress, dtype=torch.float32)}


class Constant:
    """A progress model that says the same of everything: nothing about the episode."""

    def __init__(self, value: float) -> None:
        self.value = value

    def reset(self, env_mask: Any = None) -> None:
        """There is nothing to forget."""

    def progress(self, obs: Any) -> Tensor:
        """Return the constant, ``(n,)``."""
        return torch.full((len(obs["task"]),), self.value)


class Shuffled:
    """A progress model whose values go to other episodes: the control for their information."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def reset(self, env_mask: Any = None) -> None:
        """Forget what the model remembers."""
        self.model.reset(env_mask)

    def progress(self, obs: Any) -> Tensor:
        """Return the values of the neighbours, ``(n,)``."""
        values: Tensor = self.model.progress(obs)
        return values.roll(1)


class Lab:
    """Makes, once, what the runs of one seed share, in folders of its own.

    Args:
        out: Folder of the study.
        profile: Sizes.
        seed: Seed of the study.
    """

    def __init__(self, out: Path, profile: Profile, seed: int) -> None:
        self.out, self.profile, self.seed = out, profile, seed
        self.train_seed = TRAIN_SEEDS + (FIRST_SEED + seed) * SEED_STRIDE
        self.evaluation_seed = EVALUATION_SEEDS + (FIRST_SEED + seed) * SEED_STRIDE

    def stages(self, name: str) -> Stages:
        """Return the stages of one piece of work, which other `BASIS` would make anew."""
        return Stages(self.out / f"{name}-seed{self.seed}", basis=BASIS)

    def base(self) -> Quickstart:
        """Record, label, and clone a policy."""
        with self.alone("base"):
            job = Quickstart(self.profile.base, self.stages("base"), FIRST_SEED + self.seed)
            job.record()
            job.label()
            job.clone()
        return job

    def policy(self) -> TokenPolicy:
        """Return the cloned policy."""
        return load_policy(self.base().stages.folders["clone"])

    def episodes(self, target: str = "feat2go") -> Sequence[dict[str, Any]]:
        """Return the recorded episodes with one of the targets as progress."""
        labeled = LabeledEpisodes(self.base().dataset, camera=CAMERA)
        return labeled if target == "feat2go" else Target(labeled, target)

    def value_model(
        self, target: str, reads: str = "picture"
    ) -> tuple[DistributionalProgressModel, Result]:
        """Return Feat2Go's value model trained on a target, and its held-out scores.

        Args:
            target: Of `episodes`.
            reads: ``picture``, or ``state`` for a model that reads ``observation.state`` besides.
        """
        settings: dict[str, Any] = {"max_epochs": self.profile.base.value_epochs, "seed": self.seed}
        encoder, episodes = load_encoder("offline"), self.episodes(target)
        if reads == "state":
            episodes = RecordedEpisodes(episodes, self.base().dataset, columns=[STATE])
            settings["state_dim"] = episodes[0][STATE].shape[1]
        name = named("value", target, reads)

        def work(folder: Path) -> Result:
            fit = fit_progress_model(
                episodes,
                encoder,
                camera=CAMERA,
                out_dir=folder / "fit",
                **settings,
            )
            return asdict(fit.evaluation.model)

        with self.alone(name):
            stages = self.stages(name)
            scores = stages.run("fit", {**settings, **self.profile.sizes()}, work)
        model = DistributionalProgressModel.from_pretrained(stages.folders["fit"] / "fit/model")
        return model.attach_encoder(encoder), scores

    @contextmanager
    def env(self, shift: str | None = None, **overrides: Any) -> Iterator[VectorEnv]:
        """Build PickCube, perhaps under a shift, and close it."""
        options: dict[str, Any] = {
            "num_envs": self.profile.base.num_envs,
            "num_workers": self.profile.base.num_workers,
            "cameras": [CAMERA],
            "max_episode_steps": MAX_STEPS,
            **overrides,
        }
        env = make(ENV_ID, **options) if shift is None else make_shifted(shift, **options)
        try:
            yield env
        finally:
            env.close()

    def evaluate(self, policy: Any, folder: Path, *, shifted: bool, share: float = 1.0) -> Result:
        """Count successes in distribution (``in_distribution``) and perhaps under every shift.

        Args:
            policy: To evaluate.
            folder: Receives a file per shift.
            shifted: Evaluate under the shifts, too.
            share: Of the profile's episodes, the first ones.

        Returns:
            ``{"successes": …, "episodes": …}`` by name; actions are sampled.
        """
        scores: Result = {}
        for shift in [None, *(SHIFTS if shifted else [])]:
            name = shift or "in_distribution"
            all_of_it = self.profile.num_shifted if shift else self.profile.base.num_evaluated
            num = math.ceil(share * all_of_it)
            # As few environments as the same number of waves takes, without idle ones in the last.
            num_envs = math.ceil(num / math.ceil(num / self.profile.base.num_envs))
            options = {"num_envs": num_envs, "ignore_terminations": True}
            # In this process: others would compile the renderer's shaders for longer than they run.
            with self.env(shift, **options, num_workers=0) as env:
                seeds = range(self.evaluation_seed, self.evaluation_seed + num)
                path, env_id = folder / f"{name}.json", f"{ENV_ID}, {name}"
                result = play(policy, env, seeds=seeds, out=path, suite="study", env_id=env_id)
                scores[name] = successes(result)
        return scores

    @contextmanager
    def alone(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Keep other processes of a sharded study from making the same thing at the same time.

        Args:
            name: What is made.
            shared: By all seeds.
        """
        whose = "" if shared else f"-seed{self.seed}"
        with alone(self.out / f".{name}{whose}.lock", wait=True):
            yield


def fine_tune(
    lab: Lab,
    name: str,
    settings: dict[str, Any],
    train: Callable[[Path], Any],
    *,
    shifted: bool = False,
    evaluate: Callable[[Any, Path], Result] | None = None,
) -> Result:
    """Train a policy and evaluate it, each once.

    Args:
        lab: Of the seed.
        name: Of the run, without its seed.
        settings: What the training depends on.
        train: Trains in a folder that also gets ``metrics.csv`` and returns the policy; called
            again after an interruption or to evaluate, it goes on from what it finds there.
        shifted: Evaluate under the shifts, too.
        evaluate: Returns the scores of a policy; those on PickCube when None.

    Returns:
        ``curve``, rows of ``metrics.csv``; ``after``, the scores; ``glimpses``, scores on the way
        by number of updates; what ``train`` wrote to `EXTRA`.
    """
    stages = lab.stages(name)

    def work(folder: Path) -> Result:
        policy = train(folder)
        rows = _read_metrics(folder / "metrics.csv")
        scores = evaluate or (lambda p, f: lab.evaluate(p, f, shifted=shifted))
        glimpses = _read_json(folder / "glimpses.json")
        extra = _read_json(folder / EXTRA)
        return {"curve": rows, "after": scores(policy, folder), "glimpses": glimpses, **extra}

    return stages.run("finetune", {**settings, "profile": lab.profile.sizes()}, work)


def improve(
    lab: Lab,
    algorithm: Any,
    config: Any,
    policy: Callable[[], Any],
    progress_model: Callable[[], Any],
    *,
    shifted: bool = False,
) -> Callable[[Path], Any]:
    """Return what `fine_tune` calls to train by PPO, GRPO or RFTF.

    Args:
        lab: Of the seed.
        algorithm: Class.
        config: Its settings.
        policy: Returns the policy to improve.
        progress_model: Returns the progress model, or None.
        shifted: Evaluate on the way, under the shifts.
    """
    updates = lab.profile.base.num_updates

    def train(folder: Path) -> Any:
        improved, model = policy(), progress_model()
        with lab.env() as env:
            learner = algorithm(improved, env, config, out_dir=folder, progress_model=model)
            for update in glimpsed(updates) if shifted else []:
                learner.fit(update)
                if learner.update == update:  # else an earlier start was here
                    _glimpse(lab, learner, folder)
            learner.fit(updates)
        return improved

    return train


def glimpsed(updates: int) -> list[int]:
    """Return the updates after which a training of so many is evaluated on the way."""
    return sorted({round(share * updates) for share in GLIMPSES} - {0, updates})


def _glimpse(lab: Lab, learner: Any, folder: Path) -> None:
    path, update = folder / "glimpses.json", str(learner.update)
    glimpses = _read_json(path)
    if update not in glimpses:
        learner.policy.eval()
        scores = lab.evaluate(learner.policy, folder, shifted=True, share=GLIMPSED)
        write_whole(path, json.dumps({**glimpses, update: scores}))


def curve_of(rows: Sequence[dict[str, Any]], key: str = "success_once") -> Any:
    """Return one column of the metrics as an array."""
    return np.array([row[key] for row in rows], float)


KEPT = (
    "episodes",
    "episode_length",
    "success_once",
    "success_at_end",
    "kept_groups_share",
    "reward_shaping",
)
"""Columns of ``metrics.csv`` that claims read."""


def _read_metrics(path: Path) -> list[dict[str, float | None]]:
    if not path.exists():  # nothing was trained
        return []
    with path.open() as file:
        rows = [
            {key: float(row[key]) if row[key] else None for key in KEPT if key in row}
            for row in csv.DictReader(file)
        ]
    return [row for row in rows if row]  # cloning plays no episodes


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def successes(result: EvaluationResult) -> Result:
    """Return ``successes``, at any step, and ``episodes``."""
    outcomes = [bool(episode.success_once) for episode in result.episodes]
    return {"successes": sum(outcomes), "episodes": len(outcomes)}
