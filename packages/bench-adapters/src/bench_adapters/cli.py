"""The ``bench-adapters`` command."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

# Heavier modules are imported by the command that needs them: `--help` must be quick.

EnvKwargs = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        name="set",
        metavar="KEY=VALUE",
        help="Arguments of the environment, such as image_size=64; values are JSON or plain text.",
    ),
]


def doctor(fix: bool = False) -> int:
    """Say what a simulator would meet on this machine, and the remedy for each thing amiss.

    Args:
        fix: Install software rendering on Debian or Ubuntu where no Vulkan device is found; it
            prints every command and changes nothing when all is well.
    """
    from bench_adapters import doctor as checks

    if fix:
        checks.fix(print)
    findings = checks.diagnose()
    for finding in findings:
        print(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:<14} {finding.detail}")
        if not finding.ok:
            print(f"     {'':<14} -> {finding.remedy}")
    return int(not all(finding.ok for finding in findings))


def list_envs() -> int:
    """List every environment id. Simulators are imported for this, which takes seconds."""
    from bench_adapters.registry import known_envs

    for env_id in known_envs():
        print(env_id)
    return 0


def record(
    env: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    /,
    *,
    episodes: int,
    seed: int = 1_000_000,
    noise: float = 0.0,
    failure_fraction: float = 0.0,
    perturbations: tuple[str, ...] = (),
    num_workers: int = 0,
    env_kwargs: EnvKwargs = (),
    progress_bar: bool = True,
) -> int:
    """Record a LeRobot v3.0 dataset with the environment's scripted expert.

    Stopped, it goes on from where it was when it is started again with the same options.

    Args:
        env: Environment id, <family>:<name>.
        out: Folder of the dataset.
        episodes: Episodes that the dataset shall have.
        seed: Seed of the first episode; the others count up. Evaluations begin at 0: a policy
            should not be tested on the initial states it has learned from.
        noise: Standard deviation of the noise on the expert's actions, in action units; where these
            are metres (put_on_plate) in units of 0.1 m.
        failure_fraction: Share of episodes in which the expert is made to fail.
        perturbations: How it fails, of what the environment offers (stall, drop, miss, near_miss,
            recover, ...); its failure modes when none is named.
        num_workers: Worker processes; 0 records in this one.
        env_kwargs: Arguments of the environment.
        progress_bar: Show one.
    """
    from bench_adapters.record import record_dataset

    summary = record_dataset(
        env,
        out,
        num_episodes=episodes,
        seed=seed,
        noise=noise,
        failure_fraction=failure_fraction,
        perturbations=perturbations,
        num_workers=num_workers,
        env_kwargs=_parse_env_kwargs(env_kwargs),
        progress_bar=progress_bar,
    )
    print(
        f"{summary.root}: {summary.num_episodes} episodes ({summary.num_new_episodes} new), "
        f"{summary.num_frames} frames, {summary.num_successes} successes"
    )
    return 0


ConverterOptions = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        name="set",
        metavar="KEY=VALUE",
        help="Further arguments of the converter, such as actions=absolute (calvin), "
        "instruction_type=unseen (robotwin) or fps=20 (maniskill); JSON or plain text.",
    ),
]


def convert(
    kind: tyro.conf.Positional[Literal["maniskill", "calvin", "robotwin"]],
    source: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    /,
    *,
    cameras: tuple[str, ...] = (),
    max_episodes: int | None = None,
    options: ConverterOptions = (),
    progress_bar: bool = True,
) -> int:
    """Turn a benchmark's own demonstrations into a LeRobot v3.0 dataset.

    Stopped, it goes on from where it was when it is started again with the same options.

    Args:
        kind: Whose layout the source has.
        source: ManiSkill's trajectory .h5, a CALVIN split, or RoboTwin's folder of episodes.
        out: Folder of the dataset.
        cameras: Cameras to keep, by the benchmark's names; the converter's own choice when none.
        max_episodes: Stop after so many.
        options: Further arguments of the converter.
        progress_bar: Show one.
    """
    converter = importlib.import_module(f"bench_adapters.converters.{kind}")
    arguments = _parse_env_kwargs(options) | ({"cameras": cameras} if cameras else {})
    summary = getattr(converter, f"convert_{kind}")(
        source, out, max_episodes=max_episodes, progress_bar=progress_bar, **arguments
    )
    print(
        f"{summary.root}: {summary.num_episodes} episodes ({summary.num_new_episodes} new), "
        f"{summary.num_frames} frames"
    )
    return 0


def evaluate(  # noqa: PLR0913  # options of a command
    env: tyro.conf.Positional[str],
    /,
    *,
    policy: str,
    out: Path,
    episodes: int = 100,
    seed: int = 0,
    num_envs: int = 8,
    num_workers: int = 0,
    deterministic: bool = False,
    videos: int = 0,
    max_errors: int = 10,
    env_kwargs: EnvKwargs = (),
    progress_bar: bool = True,
) -> int:
    """Evaluate a policy, one episode per seed; stopped, it goes on when it is started again.

    Args:
        env: Environment id, <family>:<name>.
        policy: Where the policy comes from, as module:factory; the factory is called with the
            vector environment. A policy that wants another generator than torch's (numpy's where
            torch is not loaded) brings `make_generator(seed)`.
        out: JSON file for the result.
        episodes: Number of episodes.
        seed: Seed of the first episode; the others count up.
        num_envs: Environments stepped together.
        num_workers: Worker processes; 0 steps in this one.
        deterministic: Ask the policy for its mode in place of a sample.
        videos: Film the first so many episodes, into <out>.videos.
        max_errors: Episodes that the simulator may fail to run, twice each, before it is given up.
        env_kwargs: Arguments of the environment.
        progress_bar: Show one.
    """
    import contextlib

    from bench_adapters.evaluate import evaluate as run
    from bench_adapters.registry import make

    if episodes < 1 or seed < 0:
        raise ValueError(f"Expected `episodes` ≥ 1 and `seed` ≥ 0, got {episodes} and {seed}.")
    factory = _load_factory(policy)
    arguments = _parse_env_kwargs(env_kwargs)
    vector = make(env, num_envs=num_envs, num_workers=num_workers, **arguments)
    with contextlib.closing(vector):
        chosen = factory(vector)
        result = run(
            chosen,
            vector,
            seeds=range(seed, seed + episodes),
            deterministic=deterministic,
            make_generator=getattr(chosen, "make_generator", _make_generator),
            out=out,
            videos=videos,
            max_errors=max_errors,
            env_id=env,
            policy_name=policy,
            progress_bar=progress_bar,
        )
    for name in ("success_once", "success_at_end"):
        rate = getattr(result, name)
        print(
            f"{name:<15} {rate['rate']:6.1%}  [{rate['low']:.1%}, {rate['high']:.1%}]  "
            f"{rate['count']:.0f} of {rate['total']:.0f}"
        )
    print(out)
    for error in result.errors:
        print(f"not run: episode {error.episode} of seed {error.seed}: {error.message}")
    return int(bool(result.errors))


def _load_factory(name: str) -> Any:
    module_name, separator, attribute = name.partition(":")
    if not separator:
        raise ValueError(f"Expected `--policy` as module:factory, got {name!r}.")
    sys.path.insert(0, "")  # as `python -m` does, so that a file next to the user is found
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`--policy {name}` cannot be loaded: {error}") from error


def _make_generator(seed: int) -> Any:
    """Return torch's generator for policies that came with torch, numpy's for the others."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.Generator().manual_seed(seed)
    import numpy as np

    return np.random.default_rng(seed)


def _parse_env_kwargs(pairs: tuple[str, ...]) -> dict[str, Any]:
    arguments = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"Expected `--set` as key=value, got {pair!r}.")
        try:
            arguments[key] = json.loads(text)
        except ValueError:
            arguments[key] = text
    return arguments


def main() -> None:
    """Run the command line; a user's error is one line and exit code 1."""
    commands: dict[str, Callable[..., int]] = {
        "doctor": doctor,
        "list": list_envs,
        "record": record,
        "convert": convert,
        "evaluate": evaluate,
    }
    try:
        code: int = tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="bench-adapters",
            description="Robot benchmarks: set up, record, convert, evaluate.",
        )
    except KeyboardInterrupt:
        print("interrupted; start it again to go on", file=sys.stderr)
        code = 130
    except Exception as error:
        code = _report(error)
    sys.exit(code)


def _report(error: Exception) -> int:
    from bench_adapters.errors import BenchAdaptersError, WorkerError

    if isinstance(error, WorkerError):
        message = error.summary
    elif isinstance(error, (BenchAdaptersError, ValueError, TypeError, OSError)):
        message = str(error)
    else:
        raise error
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 1
