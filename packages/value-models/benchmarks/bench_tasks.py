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
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer
from task_data import CAMERA, STAGES, STATE, TASKS, TaskEpisode, load_tasks, record, reduced
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
    "RFTF ranking": (RankingModule, {"network": {"hidden_dim": 128, "dropout": 0.3}}),
}
MEASURES = ("table", "first epoch", "clock test")
CLOCK: dict[str, dict[str, Any]] = {
    "rewinding": {"max_rewind": 3},
    "rewinding and stalls": {"max_rewind": 3, "stall_probability": 0.3},
    "no rewinding": {},
}
"""Single head, trained on clean successes: how its windows are changed."""


def without_state(episode: TaskEpisode) -> TaskEpisode:
    """Leave out what the robot knows of itself."""
    signals = {key: value for key, value in episode.encoded.signals.items() if key != STATE}
    return replace(episode, encoded=episode.encoded._replace(signals=signals))


def split(
    episodes: Sequence[TaskEpisode], *, development: bool
) -> tuple[list[TaskEpisode], list[TaskEpisode]]:
    """Hold out one episode in ten of each task; in development another one, the first neither."""
    kept, held_out = [], []
    for env in TASKS:
        own = [episode for episode in episodes if episode.env == env]
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(42)).tolist()
        tenth = max(1, len(own) // 10)
        test, other = order[:tenth], order[tenth : 2 * tenth]
        chosen, hidden = (other, test) if development else (test, [])
        held_out += [own[i] for i in chosen]
        kept += [own[i] for i in order if i not in {*chosen, *hidden}]
    return kept, held_out


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


def run(name: str, seed: int, kept: Sequence[TaskEpisode], held_out: Sequence[TaskEpisode],
        *, steps: int, all_episodes: Sequence[TaskEpisode], estimators: Path,
        ) -> dict[str, Any]:  # fmt: skip
    """Train and score one model."""
    start = time.perf_counter()
    ranking = name.startswith("RFTF")
    cls, options = MODELS[name]
    spec = WindowSpec(**SPEC, max_rewind=3)
    if ranking:  # eight frames over the episode so far, of successes
        spec = WindowSpec(num_frames=8, stride=10)
    data = labelled(kept, clean=ranking)
    if options.get("joint") is False:
        folder = estimator(data, estimators / str(seed), steps=steps, seed=seed)
        options = {**options, "estimator_folder": folder}
    module = train(cls, options, data, spec=spec, steps=steps, seed=seed)
    fit_s = time.perf_counter() - start
    # RFTF saw no failure, so that all of them are held out for it.
    failures = [e for e in (all_episodes if ranking else held_out) if not e.encoded.success]
    result = score(module.model, held_out, failures=failures, is_share=not ranking)
    parameters = sum(p.numel() for p in module.model.parameters() if p.requires_grad)
    return {**result, "parameters": parameters, "fit_s": round(fit_s, 1)}


def first_epoch(
    seed: int,
    kept: Sequence[TaskEpisode],
    held_out: Sequence[TaskEpisode],
    all_episodes: Sequence[TaskEpisode],
) -> dict[str, Any]:
    """RFTF after one epoch, of a run that ends there; all failures are held out for it."""
    cls, options = MODELS["RFTF ranking"]
    data = labelled(kept, clean=True)
    steps = sum(e.length for e in data) // 16
    module = train(cls, options, data, spec=WindowSpec(num_frames=8, stride=10), steps=steps,
                   seed=seed, batch_size=16)  # fmt: skip
    failures = [e for e in all_episodes if not e.encoded.success]
    scores = score(module.model, held_out, failures=failures, is_share=False)
    return {"steps": steps, **scores}


def clock(seed: int, kept: Sequence[TaskEpisode], held_out: Sequence[TaskEpisode], *,
          steps: int) -> dict[str, Any]:  # fmt: skip
    """Change of predicted progress on clips that run backwards or stand still."""
    found = {}
    clean = [e.encoded for e in held_out if e.encoded.success and not e.perturbation]
    for name, changes in CLOCK.items():
        options = {"network": SIZE}
        spec = WindowSpec(**SPEC, **changes)
        module = train(RewindModule, options, labelled(kept, clean=True), spec=spec, steps=steps,
                       seed=seed)  # fmt: skip
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
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--episodes", type=int, default=80, help="of a task, where it is recorded")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--no-state", action="store_true", help="pictures and words alone")
    parser.add_argument("--development", action="store_true")
    arguments = parser.parse_args()
    if not all((arguments.data / f"{env}-v1" / "meta" / "info.json").exists() for env in TASKS):
        record(arguments.data, episodes=arguments.episodes)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    arguments.out.mkdir(parents=True, exist_ok=True)
    episodes = load_tasks(arguments.data, arguments.out / "features", tasks=list(TASKS))
    episodes, share = reduced(episodes, dim=DIM)
    print(f"{DIM} components hold {share:.3f} of the variance of a patch")
    kept, held_out = split(episodes, development=arguments.development)
    if arguments.no_state:
        episodes = [without_state(episode) for episode in episodes]
    name = "development" if arguments.development else "result"
    path = arguments.out / f"{name}{'-no-state' if arguments.no_state else ''}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results["linear time"] = {"0": score_clock(kept, held_out)}
    models = arguments.models if "table" in arguments.measure else []
    jobs = [(name, seed) for seed in arguments.seeds for name in models]
    for name, seed in jobs:
        done = results.setdefault(name, {})
        if str(seed) not in done:
            done[str(seed)] = run(name, seed, kept, held_out, steps=arguments.steps,
                                  all_episodes=episodes,
                                  estimators=path.with_suffix(""))  # fmt: skip
            _save(path, results)
            print(name, seed, summary(done[str(seed)]), flush=True)
    for seed in arguments.seeds:
        for name, measure in (
            ("first epoch", lambda s: first_epoch(s, kept, held_out, episodes)),
            ("clock test", lambda s: clock(s, kept, held_out, steps=arguments.steps)),
        ):
            if name not in arguments.measure:
                continue
            done = results.setdefault(name, {})
            if str(seed) not in done:
                done[str(seed)] = measure(seed)
                _save(path, results)
                print(name, seed, done[str(seed)], flush=True)
    write_report(results, held_out, arguments.out)


def _save(path: Path, results: dict[str, Any]) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(results, indent=1))
    os.replace(fresh, path)


if __name__ == "__main__":
    main()
