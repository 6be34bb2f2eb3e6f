"""All value models on ten recorded ManiSkill tasks, trained on equal features for equal budgets.

python benchmarks/bench_tasks.py [--data FOLDER] [--out RESULT_FOLDER] [--no-state]

FOLDER holds ten datasets of ``bench-adapters record``; what is missing is recorded. Needs the
extra ``[data]``. The true progress of every frame is defined in `task_progress`. One episode in
ten of each task is held out; ``--development`` holds out others, for choosing settings.
Writes ``result.json``, ``table.md`` and figures; a run that was stopped goes on.
"""

import argparse
import json
import logging
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer
from task_data import (
    CAMERA,
    STAGES,
    STATE,
    STATE_DIM,
    TASKS,
    TaskEpisode,
    load_tasks,
    num_recorded,
    record,
    reduced,
)
from task_report import summary, write_report
from task_scores import curve, score, score_clock
from torch.utils.data import DataLoader

from value_models.features import EncodedEpisode
from value_models.module import ProgressModule
from value_models.pretrained import save_folder
from value_models.stage_modules import GatedModule, PrimitiveModule, StageModule
from value_models.window_modules import RankingModule, RewindModule
from value_models.windows import WindowDataset, WindowSpec

DIM = 32
"""Principal components of a patch that are kept."""
SPEC = {"num_frames": 6, "stride": 4}
SIZE = {"hidden_dim": 64, "num_layers": 2, "num_heads": 4, "dropout": 0.0, **SPEC}
EXPERTS = {"num_experts": 10, "top_k": 2, "expert_dim": 64}
LEVELS = {"all": [1.0 / STAGES] * STAGES}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SARM2": (GatedModule, {"network": {**SIZE, **EXPERTS}, "joint": False}),
    "SARM2, one gate": (
        GatedModule,
        {"network": {**SIZE, **EXPERTS, "multi_gate": False}, "joint": False},
    ),
    "SARM2, trained jointly": (GatedModule, {"network": {**SIZE, **EXPERTS}}),
    "SARM2, no estimator": (GatedModule, {"network": {**SIZE, **EXPERTS, "use_estimator": False}}),
    "single head (ReWiND)": (RewindModule, {"network": SIZE}),
    "SARM": (StageModule, {"network": {**SIZE, "priors": LEVELS}}),
    "Feat2Go, 201 bins": (ProgressModule, {"hidden_dim": 128}),
    "RFTF ranking": (
        RankingModule,
        {"network": {"hidden_dim": 128, "dropout": 0.1, "head_layers": 2}},
    ),
}
RANKED_STATE = [7, 8, 19, 20, *range(STATE_DIM // 2, STATE_DIM)]
"""What the ranking reads of the state: the fingers, and how all moves. Where the arm is would tell
the order of successes without a look at the object: 0.97 of pairs on development episodes, but
a fall after 9 of 28 drops in place of 24."""
MEASURES = ("table", "first epoch", "first epoch, whole state", "clock test")
CLOCK: dict[str, dict[str, Any]] = {
    "rewinding": {"max_rewind": 3},
    "rewinding and stalls": {"max_rewind": 3, "stall_probability": 0.3},
    "no rewinding": {},
}
"""Single head, trained on clean successes: how its windows are changed."""


def with_state(episode: TaskEpisode, columns: Sequence[int]) -> TaskEpisode:
    """Keep some of what the robot knows of itself, or nothing."""
    signals = dict(episode.encoded.signals)
    state = signals.pop(STATE, torch.empty(0))
    if len(state) and columns:
        signals[STATE] = state[:, list(columns)]
    return replace(episode, encoded=episode.encoded._replace(signals=signals))


@dataclass(frozen=True)
class Data:
    """Episodes to train on, those held out of each task, and failures for models of successes."""

    kept: list[TaskEpisode]
    held_out: list[TaskEpisode]
    failures: list[TaskEpisode]

    @classmethod
    def split(cls, episodes: Sequence[TaskEpisode], *, development: bool) -> "Data":
        """Hold out one episode in ten of each task; in development another, the first neither.

        Models that are trained on successes alone are tried on every other failure, in
        development on the rest.
        """
        kept, held_out = [], []
        for env in TASKS:
            own = [episode for episode in episodes if episode.env == env]
            order = torch.randperm(len(own), generator=torch.Generator().manual_seed(42)).tolist()
            tenth = max(1, len(own) // 10)
            test, other = order[:tenth], order[tenth : 2 * tenth]
            chosen, hidden = (other, test) if development else (test, [])
            held_out += [own[i] for i in chosen]
            kept += [own[i] for i in order if i not in {*chosen, *hidden}]
        failures = [e for e in episodes if not e.encoded.success]
        failures = [e for e in failures if e.encoded.episode_index % 2 == (not development)]
        return cls(kept, held_out, failures)

    def for_ranking(self) -> "Data":
        """Leave out of the state what RFTF does not read."""
        parts = (self.kept, self.held_out, self.failures)
        return Data(*([with_state(e, RANKED_STATE) for e in part] for part in parts))


def train(
    cls: Any, options: dict[str, Any], data: Sequence[EncodedEpisode], *, spec: WindowSpec,
    steps: int, seed: int, batch_size: int = 64, lr: float = 2e-3,
) -> Any:  # fmt: skip
    """Train one model for a number of steps on windows of labelled episodes."""
    windows = WindowDataset(data, spec, camera=CAMERA, seed=seed)
    loader = DataLoader(
        windows, batch_size=batch_size, sampler=windows.sampler, collate_fn=lambda batch: batch
    )
    patches, dim = data[0].features.shape[1:]
    if STATE in data[0].signals:
        state_dim = data[0].signals[STATE].shape[1]
        if "network" in options:
            options = {**options, "network": {**options["network"], "state_dim": state_dim}}
        else:
            options = {**options, "state_dim": state_dim}
    lightning.seed_everything(seed, verbose=False)
    module = cls(
        camera=CAMERA, encoder_id="offline", num_patches=patches, feature_dim=dim, lr=lr,
        seed=seed, **options,
    )  # fmt: skip
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, loader)
    return module.eval()


def labelled(episodes: Sequence[TaskEpisode], *, clean: bool) -> list[EncodedEpisode]:
    """Episodes to train on; ``clean`` for successes that nothing was done to."""
    wanted = [e for e in episodes if not clean or (e.encoded.success and not e.perturbation)]
    return [e.encoded for e in wanted if e.encoded.is_labelled]


def estimator(data: Sequence[EncodedEpisode], folder: Path, *, steps: int, seed: int) -> str:
    """Train SARM2's estimator on its own, as the paper does; models of one seed share it."""
    if not (folder / "config.json").exists():
        spec = WindowSpec(**SPEC)
        module = train(PrimitiveModule, {"network": SIZE}, data, spec=spec, steps=steps, seed=seed)
        save_folder(module.model, folder)
    return str(folder)


def run(name: str, seed: int, data: Data, *, steps: int, estimators: Path) -> dict[str, Any]:
    """Train and score one model."""
    if name == "RFTF ranking":
        return rank(seed, data.for_ranking(), steps=steps, batch_size=64)
    start = time.perf_counter()
    cls, options = MODELS[name]
    episodes = labelled(data.kept, clean=False)
    if options.get("joint") is False:
        folder = estimator(episodes, estimators / str(seed), steps=steps, seed=seed)
        options = {**options, "estimator_folder": folder}
    spec = WindowSpec(**SPEC, max_rewind=3)
    module = train(cls, options, episodes, spec=spec, steps=steps, seed=seed)
    fit_s = time.perf_counter() - start
    failures = [e for e in data.held_out if not e.encoded.success]
    result = score(module.model, data.held_out, failures=failures, is_share=True)
    parameters = sum(p.numel() for p in module.model.parameters() if p.requires_grad)
    return {**result, "parameters": parameters, "fit_s": round(fit_s, 1)}


def rank(seed: int, data: Data, *, steps: int | None = None, batch_size: int = 8) -> dict[str, Any]:
    """RFTF on eight frames over the episode so far, of successes; for one epoch if no ``steps``."""
    start = time.perf_counter()
    cls, options = MODELS["RFTF ranking"]
    episodes = labelled(data.kept, clean=True)
    if steps is None:
        steps = sum(e.length for e in episodes) // batch_size
    spec = WindowSpec(num_frames=8, stride=10)
    module = train(cls, options, episodes, spec=spec, steps=steps, seed=seed, batch_size=batch_size)
    fit_s = time.perf_counter() - start
    scores = score(module.model, data.held_out, failures=data.failures, is_share=False)
    return {**scores, "steps": steps, "fit_s": round(fit_s, 1)}


def clock(seed: int, data: Data, *, steps: int) -> dict[str, Any]:
    """Change of predicted progress on clips that run backwards or stand still."""
    found = {}
    episodes = labelled(data.kept, clean=True)
    clean = [e.encoded for e in data.held_out if e.encoded.success and not e.perturbation]
    for name, windows in CLOCK.items():
        options = {"network": SIZE}
        spec = WindowSpec(**SPEC, **windows)
        module = train(RewindModule, options, episodes, spec=spec, steps=steps, seed=seed)
        backwards, still = [], []
        for episode in clean:
            turn = int(0.6 * len(episode.features))
            forward = list(range(turn + 1))
            for frames, changes in (
                ([*forward, *reversed(range(max(turn - 12, 0), turn))], backwards),
                ([*forward, *[turn] * 20], still),
            ):
                values = curve(module.model, episode, frames=frames)
                changes.append(float(values[-1] - values[turn]))
        found[name] = {"reversed": _mean(backwards), "stalled": _mean(still), "clips": len(clean)}
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Record what is missing, train, score, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("outputs/tasks"))
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_tasks"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=80, help="of a task, where it is recorded")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--no-state", action="store_true", help="pictures and words alone")
    parser.add_argument("--development", action="store_true")
    arguments = parser.parse_args()
    if min(num_recorded(arguments.data / f"{env}-v1") for env in TASKS) < arguments.episodes:
        record(arguments.data, episodes=arguments.episodes)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    arguments.out.mkdir(parents=True, exist_ok=True)
    episodes = load_tasks(arguments.data, arguments.out / "features", tasks=list(TASKS))
    episodes, share = reduced(episodes, dim=DIM)
    print(f"{DIM} components hold {share:.3f} of the variance of a patch")
    if arguments.no_state:
        episodes = [with_state(episode, []) for episode in episodes]
    data = Data.split(episodes, development=arguments.development)
    name = "development" if arguments.development else "result"
    path = arguments.out / f"{name}{'-no-state' if arguments.no_state else ''}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results["linear time"] = {"0": score_clock(data.kept, data.held_out)}
    models = arguments.models if "table" in arguments.measure else []
    jobs = [(name, seed) for seed in arguments.seeds for name in models]
    for name, seed in jobs:
        done = results.setdefault(name, {})
        if str(seed) not in done:
            done[str(seed)] = run(name, seed, data, steps=arguments.steps,
                                  estimators=path.with_suffix(""))  # fmt: skip
            _save(path, results)
            print(name, seed, summary(done[str(seed)]), flush=True)
    for seed in arguments.seeds:
        for name, measure in (
            ("first epoch", lambda s: rank(s, data.for_ranking())),
            ("first epoch, whole state", lambda s: rank(s, data)),
            ("clock test", lambda s: clock(s, data, steps=arguments.steps)),
        ):
            if name not in arguments.measure:
                continue
            done = results.setdefault(name, {})
            if str(seed) not in done:
                done[str(seed)] = measure(seed)
                _save(path, results)
                print(name, seed, done[str(seed)], flush=True)
    write_report(results, data.held_out, arguments.out)


def _save(path: Path, results: dict[str, Any]) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(results, indent=1))
    os.replace(fresh, path)


if __name__ == "__main__":
    main()
