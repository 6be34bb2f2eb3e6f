"""What claims are judged by: results of each seed, success rates and their differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from integration_tests.study import figures
from integration_tests.study.design import Finding, Profile, Result, Results, Run, make_run
from integration_tests.study.lab import curve_of
from integration_tests.study.shifts import SHIFTS
from integration_tests.study.statistics import percent, points, share, weakest

Score = Callable[[Result], float]
Done = Mapping[int, Result]
"""Results of a kind of run by seed."""


def arm(kind: str, **options: Any) -> Run:
    """Return a run whose seed does not count."""
    return make_run(kind, -1, **options)


def with_seeds(profile: Profile, one: Run) -> list[Run]:
    """Return the run under each seed of the profile."""
    return [Run(one.kind, seed, one.options) for seed in profile.seeds]


def done(profile: Profile, results: Results, one: Run) -> dict[int, Result]:
    """Return the results of a run by seed, as far as they are done."""
    runs = with_seeds(profile, one)
    return {run.seed: results[run.name] for run in runs if run.name in results}


@dataclass(frozen=True)
class Success:
    """Score that is the share of evaluated episodes that succeeded."""

    name: str = "in_distribution"
    """Or the shift they were under."""

    def counts(self, result: Result) -> tuple[int, int]:
        """Return successes and episodes."""
        score = result["after"][self.name]
        return int(score["successes"]), int(score["episodes"])

    def __call__(self, result: Result) -> float:
        """Return their ratio."""
        successes, episodes = self.counts(result)
        return successes / episodes


success = Success()
"""In distribution."""


def training_success(result: Result) -> float:
    """Return the mean success of all training episodes: high where learning is fast."""
    curve = _curve(result)
    return float(np.mean(curve_of(curve))) if curve else float("nan")


def _curve(result: Result) -> list[dict[str, Any]]:
    """Return the rows of training; none of a policy that was not trained."""
    return list(result.get("curve", []))


def first_shaping(result: Result) -> float:
    """Return what the first update's episodes were paid for progress, on average."""
    return float(_curve(result)[0]["reward_shaping"])


def first_failure(result: Result) -> float:
    """Return what a failed episode of the first update was paid, on average; NaN without any."""
    failed = 1 - float(_curve(result)[0]["success_once"])
    return first_shaping(result) / failed if failed else float("nan")


SHIFT_CATEGORIES: Mapping[str, Sequence[str]] = {
    category: [name for name, shift in SHIFTS.items() if shift.category == category]
    for category in sorted({shift.category for shift in SHIFTS.values()})
}
"""Names of PickCube's shifts by Feat2Go's kinds."""


def mean_success(*categories: Sequence[str]) -> Score:
    """Return the plain mean of categories, each the plain mean of its evaluations."""
    return lambda result: float(
        np.mean([np.mean([Success(name)(result) for name in names]) for names in categories])
    )


shifted_success = mean_success(*SHIFT_CATEGORIES.values())
"""Under PickCube's shifts."""


def _path(begin: Result, result: Result, score: Score) -> dict[int, float]:
    """Return a score by number of updates, from the start over the glimpses to the end."""
    glimpses = result.get("glimpses", {})
    between = {int(update): score({"after": after}) for update, after in glimpses.items()}
    return {0: score(begin), **between, len(_curve(result)): score(result)}


def differences(one: Done, other: Done, score: Score) -> list[float]:
    """Return the difference of two arms under each seed that both have."""
    return [score(one[seed]) - score(other[seed]) for seed in one if seed in other]


def column(results: Done, score: Score) -> str:
    """Format a score over seeds; a dash where there is none.

    Successes are counted over all seeds and get Wilson's interval, other scores Student's t's.
    """
    if results and isinstance(score, Success):
        successes, episodes = map(sum, zip(*map(score.counts, results.values()), strict=True))
        return share(successes, episodes)
    values = [score(item) for item in results.values()]
    return percent(values) if values and not np.isnan(values).any() else "–"


class Arms(dict[str, Run]):
    """What a claim compares, by the name of its row; the seeds of these runs do not count."""

    def runs(self, profile: Profile) -> list[Run]:
        """Return the runs of all arms and seeds."""
        return [run for arm in self.values() for run in with_seeds(profile, arm)]

    def found(self, profile: Profile, results: Results) -> dict[str, Done]:
        """Return the results of each arm, as far as they are done."""
        return {name: done(profile, results, arm) for name, arm in self.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Judges that one arm scores above each of others; a claim's ``judge``."""

    arms: Arms
    scores: Mapping[str, Score]
    """Columns of the table."""
    ours: str
    others: Sequence[str]
    by: str
    """Column that the verdict goes by."""
    told: Sequence[tuple[str, str]] = ()
    """Further pairs of arms whose difference is told."""
    look_into: Callable[[Mapping[str, Done]], str] | None = None
    """Says what was found where a result is not as the paper's, once every arm has results."""
    start: str | None = None
    """Arm that the others start from, where the figure shows the column beside training, too."""

    def __call__(self, profile: Profile, results: Results) -> Finding:
        """Return table, differences, verdict and learning curves."""
        found = self.arms.found(profile, results)
        trained = {name: group for name, group in found.items() if any(map(_curve, group.values()))}
        score = self.scores[self.by]
        gains = {other: differences(found[self.ours], found[other], score) for other in self.others}
        rival, verdict = weakest(gains)
        against = "each of " if len(self.others) > 1 else ""
        return Finding(
            verdict=verdict,
            headline=self._headline(found, rival, gains[rival]),
            header=["", "seeds", *self.scores],
            rows=[
                [name, str(len(group)), *(column(group, score) for score in self.scores.values())]
                for name, group in found.items()
            ],
            remarks=[
                *self._differences(found),
                f"Verdict: {self.by}, {self.ours} against {against}{', '.join(self.others)}.",
                *self._looked_into(found),
            ],
            draw=(lambda: self._draw(trained, found)) if trained else None,
        )

    def _headline(self, found: Mapping[str, Done], rival: str, gain: Sequence[float]) -> str:
        if not gain:
            return ""
        shared = found[self.ours].keys() & found[rival].keys()
        ours, theirs = (
            100 * np.mean([self.scores[self.by](found[name][seed]) for seed in shared])
            for name in (self.ours, rival)
        )
        return (
            f"{self.by.removesuffix(' %')} {ours:.1f} % ({self.ours}), {theirs:.1f} % ({rival}); "
            f"{points(gain)} points; n = {len(gain)}"
        )

    def _looked_into(self, found: Mapping[str, Done]) -> list[str]:
        if self.look_into is None or not all(found.values()):
            return []
        return [f"Looked into: {self.look_into(found)}"]

    def _draw(self, trained: Mapping[str, Done], found: Mapping[str, Done]) -> Any:
        if self.start is None:
            return figures.learning_curves(trained)
        begin, score = found[self.start], self.scores[self.by]
        return figures.learning_curves(
            trained,
            held_out={
                name: [_path(begin[seed], group[seed], score) for seed in group if seed in begin]
                for name, group in trained.items()
            },
            label=self.by.removesuffix(" %"),
        )

    def _differences(self, found: Mapping[str, Done]) -> list[str]:
        pairs = [*((self.ours, other) for other in self.others), *self.told]
        lines = []
        for name, score in self.scores.items():
            for one, other in pairs:
                gain = differences(found[one], found[other], score)
                if gain and not np.isnan(gain).any():
                    lines.append(f"{name}, {one} minus {other}: {points(gain)}.")
        return lines
