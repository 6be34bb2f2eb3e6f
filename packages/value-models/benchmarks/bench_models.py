"""SARM2 and its ablations on a synthetic multi-task set; expert dispatch; cost of streaming.

python benchmarks/bench_models.py ablation   # held-out squared error, mean over seeds
python benchmarks/bench_models.py experts    # time of all experts / time of the chosen
python benchmarks/bench_models.py streaming  # time per frame for windows 8, 32, 128
"""

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial

import lightning
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from value_models.experts import MultiGateExperts
from value_models.functional import linear_time_progress
from value_models.stage_modules import GatedModule
from value_models.synthetic import FeatureWorld
from value_models.window_model import RewindRegressor
from value_models.window_modules import RewindModule, WindowModule
from value_models.windows import WindowDataset, WindowSpec

INPUTS = {"camera": "hand", "encoder_id": "world", "num_patches": 2, "feature_dim": 24}
NETWORK = {"hidden_dim": 32, "num_layers": 1, "num_heads": 2, "num_frames": 4, "stride": 3}
EXPERTS = {"num_experts": 6, "expert_dim": 32}
VARIANTS = {
    "SARM2": (GatedModule, EXPERTS),
    "one gate": (GatedModule, {**EXPERTS, "multi_gate": False}),
    "no estimator": (GatedModule, {**EXPERTS, "use_estimator": False}),
    "single head": (RewindModule, {}),
}


def squared_error(variant: str, seed: int, *, epochs: int) -> tuple[float, float]:
    """Train one variant; return its held-out error and that of the clock, means over episodes."""
    cls, options = VARIANTS[variant]
    world = FeatureWorld(noise=0.8, seed=seed)
    train, held_out = world.episodes(64, seed=2 * seed), world.episodes(24, seed=2 * seed + 1)
    spec = WindowSpec(num_frames=4, stride=3, max_rewind=2)
    data = WindowDataset(train, spec, camera="hand", seed=seed)
    loader = DataLoader(data, batch_size=64, sampler=data.sampler, collate_fn=lambda b: b)
    lightning.seed_everything(seed, verbose=False)
    module: WindowModule = cls(**INPUTS, network={**NETWORK, **options}, lr=2e-3, seed=seed)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    mean_length = sum(len(e.progress) for e in train) / len(train)
    errors, clock = [], []
    for episode in held_out:
        batch = {"observation.features.hand": episode.features[None], "task": [episode.task]}
        predicted = module.model.compute_progress(batch)[0]
        errors.append((predicted - episode.progress).square().mean())
        timed = linear_time_progress(len(episode.progress), mean_length)
        clock.append((timed - episode.progress).square().mean())
    return float(torch.stack(errors).mean()), float(torch.stack(clock).mean())


def ablation(*, seeds: int, epochs: int) -> None:
    """Print one line per variant."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for variant in VARIANTS:
        scores = [squared_error(variant, seed, epochs=epochs) for seed in range(seeds)]
        errors = torch.tensor([error for error, _ in scores])
        clock = sum(c for _, c in scores) / seeds
        listed = " ".join(f"{error:.4f}" for error in errors)
        mean = f"{errors.mean():.4f} ± {errors.std():.4f}"
        print(f"{variant:13s} {mean}  ({listed}; clock {clock:.4f})", flush=True)


def seconds(call: Callable[[], object], *, repeats: int = 20) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[repeats // 2]


def experts() -> None:
    """Print how much faster the chosen experts are than all of them."""
    x, gate = torch.randn(640, 3072), torch.randint(0, 8, (640,))
    for num in (10, 32, 64):
        head = MultiGateExperts(3072, num_gates=8, num_experts=num).eval()
        with torch.no_grad():
            times = []
            for dispatch in (False, True):
                head.dispatch = dispatch
                times.append(seconds(lambda: head(x, gate)))  # noqa: B023 - called here
        print(f"E = {num:3d}: all / chosen = {times[0] / times[1]:.2f}", flush=True)


def streaming() -> None:
    """Print the time of a frame online against that of all frames of its window encoded again.

    The windows are measured in turn, so that what else the machine does falls on all of them.
    """
    torch.manual_seed(0)
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(384, 6, 1536, batch_first=True),
        4,
        enable_nested_tensor=False,
    ).eval()  # a small vision transformer on 196 patches
    frame = torch.randn(1, 196, 384)
    windows = (8, 32, 128)
    models = [
        RewindRegressor(
            camera="hand", encoder_id="e", num_patches=196, feature_dim=384, num_frames=window,
            stride=1,
        ).eval()
        for window in windows
    ]  # fmt: skip

    def encode() -> torch.Tensor:
        with torch.no_grad():
            return encoder(frame)

    def step(model: RewindRegressor) -> torch.Tensor:
        return model.progress({"observation.features.hand": encode(), "task": ["a"]})

    for model, window in zip(models, windows, strict=True):
        for _ in range(window):
            model.progress({"observation.features.hand": frame, "task": ["a"]})
    times: list[list[float]] = [[] for _ in range(len(models) + 1)]
    for _ in range(60):
        for place, call in enumerate([encode, *(partial(step, model) for model in models)]):
            start = time.perf_counter()
            call()
            times[place].append(time.perf_counter() - start)
    alone, *online = (sorted(values)[len(values) // 2] for values in times)
    for window, mine in zip(windows, online, strict=True):
        again = mine + (window - 1) * alone
        print(
            f"window {window:3d}: time per frame {mine / online[0]:.2f} of window 8; encoding the "
            f"window again {again / mine:.1f} times slower",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", nargs="*", default=["experts", "streaming", "ablation"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    benches = {
        "experts": experts,
        "streaming": streaming,
        "ablation": partial(ablation, seeds=arguments.seeds, epochs=arguments.epochs),
    }
    for name in arguments.bench:
        if name not in benches:
            parser.error(f"unknown bench {name!r}; choose from {', '.join(benches)}")
        benches[name]()
