"""``python -m integration_tests.study [claim ...]``: do what has not been done, then report."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench_adapters import BenchAdaptersError, SimulatorUnavailableError
from integration_tests.pipelines.stages import StageError, interrupt_on_sigterm
from integration_tests.study.claims import CLAIMS
from integration_tests.study.design import PROFILES, Run
from integration_tests.study.lab import Lab
from integration_tests.study.records import Records
from integration_tests.study.report import judge_all, write_report, write_verdicts
from integration_tests.study.runs import KINDS

HERE = Path(__file__).parent
PAGE = "integration_tests/study/results/README.md"
"""Of the report, as the repository's README links it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    profile = PROFILES[args.profile]
    played = replace(profile, seeds=args.seeds or profile.seeds)
    if args.out is None and not set(played.seeds) <= set(profile.seeds):
        parser.error(f"--seeds {args.seeds}: reported are {profile.seeds}; for others give --out")
    out = args.out or Path("outputs") / f"study-{args.profile}"
    kept = HERE / "results" if args.profile == "full" and args.out is None else out / "results"
    records = Records(kept, args.profile)
    claims = [claim for claim in CLAIMS if not args.claims or claim.name in args.claims]
    runs = dict.fromkeys(run for claim in claims for run in claim.runs(played))
    todo = in_shard(runs, args.shard)
    torch.set_num_threads(2)
    try:
        if not args.report_only:
            for number, run in enumerate(todo):
                print(f"run {number + 1} of {len(todo)}: {run.name}", flush=True)
                _do(run, records, out, args.profile)
        pages = kept if kept.parent == HERE else out
        print(write_report(profile if args.out is None else played, records, pages))
    except (StageError, BenchAdaptersError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; start again to continue", file=sys.stderr)
        return 130
    if kept.parent == HERE:
        readme = HERE.parents[1] / "README.md"
        write_verdicts(judge_all(profile, records), readme, PAGE)
    return 0


def in_shard(runs: Iterable[Run], shard: tuple[int, int]) -> list[Run]:
    """Return the runs of a shard, all runs of the first seed first."""
    index, num = shard
    return sorted(runs, key=lambda run: run.seed)[index::num]


def _do(run: Run, records: Records, out: Path, profile: str) -> None:
    lab = Lab(out, PROFILES[profile], run.seed)
    try:
        with lab.alone(f"run-{run.name}", shared=True):  # another claim's command may be at it
            if run.name not in records.results():
                records.add(run, lambda: KINDS[run.kind](lab, **dict(run.options)))
    except SimulatorUnavailableError as error:
        print(f"{run.name} is left out: {error}", flush=True)


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"Expected i/n with i < n, such as 0/2, got {text!r}.")
    return int(index), int(count)


def _parser() -> argparse.ArgumentParser:
    names = [claim.name for claim in CLAIMS]
    parser = argparse.ArgumentParser(prog="study", description=__doc__)
    parser.add_argument("claims", nargs="*", choices=[[], *names], help="all when none is named")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="full")
    parser.add_argument("--out", type=Path, help="folder of the runs; default outputs/study-…")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="only these; others than the profile's, to choose settings on, need an --out",
    )
    parser.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="i/n", help="every n-th run"
    )
    parser.add_argument("--report-only", action="store_true", help="write the pages and stop")
    return parser


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())
