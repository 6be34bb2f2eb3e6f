"""Command line: ``vla-rl imitate``, ``fit``, ``evaluate``, ``estimate`` and ``print-config``."""

import json
import signal
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from vla_rl.algorithms.settings import (
    CloneConfig,
    GRPOConfig,
    PPOConfig,
    RABCConfig,
    RFTFConfig,
    SpiralConfig,
)
from vla_rl.components import accepts, build
from vla_rl.estimate import Workload, estimate

CLONING = {"bc": CloneConfig, "rabc": RABCConfig}
SETTINGS = {"ppo": PPOConfig, "grpo": GRPOConfig, "rftf": RFTFConfig, "spiral": SpiralConfig}


@dataclass(frozen=True, kw_only=True)
class FabricConfig:
    """How Lightning Fabric runs the loop."""

    accelerator: str = "cpu"
    """cpu, gpu, auto, and so on."""
    devices: int = 1
    """Processes per machine."""
    strategy: str = "auto"
    """auto, ddp, fsdp2 (parameters shared out over processes), and so on."""
    precision: str = "32-true"
    """Of forward and backward passes."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; exits with 2 and one line on bad input."""
    parser = _parser()
    config = parser.parse_args(args)
    # A scheduler's SIGTERM stops a run as Ctrl-C does: between checkpoints, never within one.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if config.subcommand == "print-config":
            print(_stock_config(config["print-config"].name), end="")
        elif config.subcommand == "estimate":
            print(estimate(Workload(**vars(config.estimate))).table())
        elif config.subcommand == "evaluate":
            _evaluate(config.evaluate)
        elif config.subcommand == "imitate":
            _imitate(config.imitate)
        else:
            _fit(config.fit)
    except (ValueError, TypeError, OSError) as error:
        print(f"vla-rl: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("vla-rl: stopped; the same command continues from here", file=sys.stderr)
        sys.exit(130)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="vla-rl", description="Reinforcement fine-tuning of VLA policies.")
    commands = parser.add_subcommands()

    fit = ArgumentParser(description="Fine-tune a policy; continues a stopped run.")
    fit.add_argument("--config", action="config", help="YAML file; see print-config.")
    _add_component(fit, "env", "vla_rl.types.VecEnv")
    _add_component(fit, "policy", "vla_rl.types.Policy")
    _add_component(fit, "progress_model", "vla_rl.types.ProgressModel", required=False)
    _add_component(fit, "logger", "Lightning logger", required=False)
    fit.add_argument("--algorithm", choices=list(SETTINGS), default="ppo", help="What trains it.")
    for name, settings in SETTINGS.items():
        fit.add_argument(f"--{name}", type=settings, default=settings())
    fit.add_argument(
        "--num_env_groups",
        type=int,
        default=1,
        help="Build `env` this many times; one steps while the policy acts for the others.",
    )
    fit.add_argument("--fabric", type=FabricConfig, default=FabricConfig())
    fit.add_argument(
        "--num_updates",
        type=int,
        default=30,
        help="Or rounds; earlier runs included.",
    )
    fit.add_argument(
        "--out_dir", type=str, required=True, help="Checkpoint, metrics.csv and the policy."
    )
    commands.add_subcommand("fit", fit, help="fine-tune a policy")

    imitate = ArgumentParser(description="Clone demonstrations; continues a stopped run.")
    imitate.add_argument("--config", action="config", help="YAML file; see print-config.")
    _add_component(
        imitate, "episodes", "function that returns episodes; see vla_rl.data.make_chunks"
    )
    _add_component(imitate, "policy", "vla_rl.types.Policy")
    _add_component(imitate, "progress_model", "vla_rl.types.ProgressModel", required=False)
    imitate.add_argument("--chunk", type=int, default=4, help="Primitive actions per sample.")
    imitate.add_argument("--stride", type=int, default=1, help="Frames from sample to sample.")
    imitate.add_argument("--algorithm", choices=list(CLONING), default="bc", help="What trains it.")
    for name, settings in CLONING.items():
        imitate.add_argument(f"--{name}", type=settings, default=settings())
    imitate.add_argument("--fabric", type=FabricConfig, default=FabricConfig())
    imitate.add_argument(
        "--out_dir", type=str, required=True, help="Checkpoint, metrics.csv and the policy."
    )
    commands.add_subcommand("imitate", imitate, help="clone demonstrations")

    evaluate = ArgumentParser(description="Measure a policy on episodes of given seeds.")
    evaluate.add_argument("--config", action="config", help="YAML file.")
    _add_component(evaluate, "env", "vla_rl.types.VecEnv")
    _add_component(evaluate, "policy", "vla_rl.types.Policy")
    evaluate.add_argument("--num_episodes", type=int, default=200, help="How many.")
    evaluate.add_argument("--seed_start", type=int, default=0, help="Of the first.")
    evaluate.add_argument("--deterministic", type=bool, default=True, help="Act greedily.")
    evaluate.add_argument("--sampling_seed", type=int, default=0, help="Of samples, where not.")
    evaluate.add_argument("--out", type=str, help="JSON file to write.")
    commands.add_subcommand("evaluate", evaluate, help="measure a policy")

    budget = ArgumentParser(description="Memory and time of updates of a 7B OpenVLA.")
    budget.add_class_arguments(Workload, as_group=False)
    commands.add_subcommand("estimate", budget, help="memory and time of an update")

    show = ArgumentParser(description="Print a stock config to start from.")
    show.add_argument("name", nargs="?", default="toy-ppo", help="Which one.")
    commands.add_subcommand("print-config", show, help="print a stock config")
    return parser


def _add_component(parser: ArgumentParser, name: str, kind: str, *, required: bool = True) -> None:
    text = f"`class_path` and `init_args` of a {kind} (a string is JSON)."
    kind_of = _entry if required else _optional_entry
    parser.add_argument(f"--{name}", type=kind_of, required=required, help=text)


def _entry(value: str | dict[str, Any]) -> dict[str, Any]:
    # A function, not dict[str, Any]: jsonargparse treats a dict with a class_path as its own.
    entry = json.loads(value) if isinstance(value, str) else value
    if not isinstance(entry, dict):
        raise ValueError(f"Expected a mapping with `class_path`, got {value!r}.")  # noqa: TRY004
    return entry


def _optional_entry(value: str | dict[str, Any]) -> dict[str, Any] | None:
    return None if value == "null" else _entry(value)


def _stock_config(name: str) -> str:
    folder = files("vla_rl") / "configs"
    known = sorted(Path(entry.name).stem for entry in folder.iterdir())
    if name not in known:
        raise ValueError(f"Expected a stock config out of {known}, got {name!r}.")
    return (folder / f"{name}.yaml").read_text()


def _fit(config: Namespace) -> None:
    import torch
    from lightning.fabric import Fabric  # seconds: not for --help

    from vla_rl.algorithms.grpo import GRPO
    from vla_rl.algorithms.ppo import PPO
    from vla_rl.algorithms.rftf import RFTF
    from vla_rl.algorithms.spiral import Spiral
    from vla_rl.sharding import fully_sharded, is_sharded, whole_state

    algorithms: dict[str, Any] = {"ppo": PPO, "grpo": GRPO, "rftf": RFTF, "spiral": Spiral}
    _check_settings(config, SETTINGS)
    if config.num_updates < 1:
        raise ValueError(f"Expected `num_updates` > 0, got {config.num_updates}.")
    loggers = [] if config.logger is None else [build(config.logger, "logger")]
    hardware = dict(vars(config.fabric))
    if hardware["strategy"] == "fsdp2":
        hardware["strategy"] = fully_sharded()
    fabric = Fabric(**hardware, loggers=loggers)
    fabric.launch()
    # Weights that are not loaded are drawn; a run started twice must draw the same.
    torch.manual_seed(config[config.algorithm].seed)
    envs = [build(config.env, "env") for _ in range(config.num_env_groups)]
    policy = build(config.policy, "policy")
    progress_models = None
    if config.progress_model is not None:
        progress_models = [build(config.progress_model, "progress_model") for _ in envs]
    run = algorithms[config.algorithm](
        policy,
        envs,
        SETTINGS[config.algorithm](**vars(config[config.algorithm])),
        out_dir=config.out_dir,
        fabric=fabric,
        progress_model=progress_models,
    )
    history = run.fit(config.num_updates)
    weights = whole_state(policy) if is_sharded(policy) else None
    if fabric.is_global_zero:
        if weights is not None:  # a policy of its own: of the trained one this process has a share
            policy = build(config.policy, "policy")
            policy.load_state_dict(weights)
        print(f"success_once {history[0]['success_once']:.3f} -> {history[-1]['success_once']:.3f}")
        _save(policy, Path(config.out_dir))


def _save(policy: Any, out_dir: Path) -> None:
    from vla_rl.checkpoints import FILE_NAME

    if hasattr(policy, "save_pretrained"):
        policy.save_pretrained(out_dir / "policy")
        print(f"written: {out_dir}")
    else:
        kind = type(policy).__qualname__
        print(
            f"written: {out_dir}, weights only as `policy` of {out_dir / FILE_NAME}: {kind} has no "
            "`save_pretrained`"
        )


def _check_settings(config: Namespace, known: dict[str, Any]) -> None:
    for name, settings in known.items():
        if name != config.algorithm and settings(**vars(config[name])) != settings():
            raise ValueError(
                f"Expected settings of `{config.algorithm}`, the algorithm, got some of `{name}`; "
                f"pass `--algorithm {name}` or leave them out."
            )


def _imitate(config: Namespace) -> None:
    import torch
    from lightning.fabric import Fabric

    from vla_rl.algorithms.behaviour_cloning import BehaviourCloning
    from vla_rl.algorithms.rabc import RABC
    from vla_rl.data import label_progress, make_chunks, state_statistics

    _check_settings(config, CLONING)
    if config.fabric.strategy == "fsdp2":
        raise ValueError(
            "Expected a `fabric.strategy` that keeps whole policies, such as "
            "ddp_find_unused_parameters_true, got 'fsdp2'."
        )
    fabric = Fabric(**vars(config.fabric))
    fabric.launch()
    settings = CLONING[config.algorithm](**vars(config[config.algorithm]))
    episodes = build(config.episodes, "episodes")
    if config.progress_model is not None:
        episodes = label_progress(episodes, build(config.progress_model, "progress_model"))
    samples = make_chunks(episodes, chunk=config.chunk, stride=config.stride)
    entry = dict(config.policy)
    if accepts(entry, "policy", "state_mean"):  # unless they are given
        entry["init_args"] = {**state_statistics(samples), **(entry.get("init_args") or {})}
    torch.manual_seed(settings.seed)
    policy = build(entry, "policy")
    learner: Any = RABC if config.algorithm == "rabc" else BehaviourCloning
    data = {key: config[key] for key in ("episodes", "progress_model", "chunk", "stride")}
    run = learner(policy, samples, settings, out_dir=config.out_dir, fabric=fabric, data=data)
    history = run.fit()
    if fabric.is_global_zero:
        print(f"loss {history[0]['loss']:.3f} -> {history[-1]['loss']:.3f}")
        _save(policy, Path(config.out_dir))


def _evaluate(config: Namespace) -> None:
    from vla_rl.evaluation import evaluate_policy, save_evaluation

    policy = build(config.policy, "policy")
    if hasattr(policy, "eval"):
        policy.eval()
    result = evaluate_policy(
        policy,
        build(config.env, "env"),
        range(config.seed_start, config.seed_start + config.num_episodes),
        deterministic=config.deterministic,
        sampling_seed=config.sampling_seed,
        progress_bar=True,
    )
    for name in ("success_once", "success_at_end"):
        low, high = result[name]["interval_95"]
        rate, count = result[name]["rate"], result["num_episodes"]
        print(f"{name:15} {rate:6.1%} [{low:.1%}, {high:.1%}] of {count} episodes")
    if config.out is not None:
        save_evaluation(result, Path(config.out))
        print(f"written: {config.out}")


if __name__ == "__main__":
    main()
