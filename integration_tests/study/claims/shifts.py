"""Out of distribution, before and after fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench_adapters.functional.put_on_plate import CATEGORIES
from integration_tests.study import figures
from integration_tests.study.comparison import (
    SHIFT_CATEGORIES,
    Arms,
    Done,
    Score,
    Success,
    arm,
    column,
    differences,
    mean_success,
    success,
)
from integration_tests.study.design import Claim, Finding, Profile, Results
from integration_tests.study.lab import curve_of
from integration_tests.study.plates import IN_DISTRIBUTION, run_names
from integration_tests.study.shifts import SHIFTS
from integration_tests.study.statistics import points, verdict_of


@dataclass(frozen=True, kw_only=True, eq=False)
class BeforeAndAfter:
    """Judges that success out of distribution rises, by categories; a claim's ``judge``."""

    arms: Arms
    """``before`` and ``after``."""
    in_distribution: Success
    categories: Mapping[str, Sequence[str]]
    """Names of evaluations by category; its success is their plain mean."""
    labels: Mapping[str, str]
    """What the rows of evaluations say beside their category."""
    look_into: Callable[[Done, Done], str] | None = None
    """Says of the results before and after what was found."""

    def __call__(self, profile: Profile, results: Results) -> Finding:
        """Return table, difference and verdict."""
        before, after = self.arms.found(profile, results).values()
        outside = mean_success(*self.categories.values())
        means: dict[str, Score] = {
            "in distribution": self.in_distribution,
            **{name: mean_success(names) for name, names in self.categories.items()},
            "mean of categories": outside,
        }
        single: dict[str, Score] = {
            f"{category}: {self.labels[name]}": Success(name)
            for category, names in self.categories.items()
            for name in names
        }
        rows = []
        for name, score in (means | single).items():
            gain = differences(after, before, score)
            cells = [column(before, score), column(after, score), points(gain) if gain else "–"]
            rows.append([name, *cells])
        bars = {
            name: (
                [score(item) for item in before.values()],
                [score(item) for item in after.values()],
            )
            for name, score in means.items()
        }
        gain = differences(after, before, outside)
        return Finding(
            verdict=verdict_of(gain),
            headline=_headline(before, after, outside) if gain else "",
            header=["", "before %", "after %", "difference, points"],
            rows=rows,
            remarks=[
                f"{len(before)} seeds before, {len(after)} after.",
                "Categories are plain means of their rows.",
                *self._looked_into(before, after),
            ],
            draw=lambda: figures.before_and_after(bars),
        )

    def _looked_into(self, before: Done, after: Done) -> list[str]:
        if self.look_into is None or not (before and after):
            return []
        return [f"Looked into: {self.look_into(before, after)}"]


def _headline(before: Done, after: Done, score: Score) -> str:
    shared, gain = before.keys() & after.keys(), differences(after, before, score)
    at_first, at_last = (
        100 * float(np.mean([score(group[seed]) for seed in shared])) for group in (before, after)
    )
    return (
        f"success {at_first:.1f} % before, {at_last:.1f} % after; {points(gain)} points; "
        f"n = {len(gain)}"
    )


SHIFTED = BeforeAndAfter(
    arms=Arms({"before": arm("start"), "after": arm("ppo", reward="feat2go")}),
    in_distribution=success,
    categories=SHIFT_CATEGORIES,
    labels={name: shift.what for name, shift in SHIFTS.items()},
)
OUT_OF_DISTRIBUTION = Claim(
    name="shifts",
    title="Out of distribution",
    source="Feat2Go, tables 1 and 2",
    hypothesis="Reinforcement fine-tuning raises success under changes that it never saw.",
    setting="The policies of `targets` on PickCube changed in eight ways; sampled actions.",
    runs=SHIFTED.arms.runs,
    judge=SHIFTED,
)

ENDS = 4
"""Updates at the beginning and at the end of a training that are compared."""


def look_into(before: Done, after: Done) -> str:
    """Say how success, the pay of a failure and that of an episode change in training.

    These episodes go on after a success, and are paid for the end.
    """
    success, paid = (
        np.array([curve_of(item["curve"], key) for item in after.values()])
        for key in ("success_at_end", "reward_shaping")
    )
    failure = paid.sum(axis=0) / np.maximum((1 - success).sum(axis=0), 1e-9)
    told = [
        f"{100 * values[:ENDS].mean():.0f} to {100 * values[-ENDS:].mean():.0f} %"
        for values in (success.mean(axis=0), failure, (success + paid).mean(axis=0))
    ]
    judged = [item["value_model"] for item in before.values()]
    aurocs = [item["auroc"] for item in judged if item["auroc"] is not None]
    told_apart = f"{np.mean(aurocs):.2f}" if aurocs else "not known"
    played = np.mean([item["curve"][-1]["episodes"] for item in after.values()])
    return (
        f"from the first to the last {ENDS} updates success at the end of training episodes goes "
        f"from {told[0]}, what a failure earns from {told[1]} of a success, what an episode earns "
        f"in all from {told[2]}. "
        "Where the last does not rise, PPO has not learned its reward but drifted, and a failure "
        "that earns nearly as much as a success does not hold it back. Whether an episode of the "
        f"cloned policy succeeded the value model tells from its last frame with an AUROC of "
        f"{told_apart} (n = {sum(item['episodes'] for item in judged)}). A seed trains on "
        f"{played:.0f} episodes."
    )


_SUITES = {name: run_names(name) for name in CATEGORIES if name != "in_distribution"}
PLATES = BeforeAndAfter(
    arms=Arms({"before": arm("plates", reward="none"), "after": arm("plates", reward="feat2go")}),
    in_distribution=Success(IN_DISTRIBUTION),
    categories=_SUITES,
    labels={name: name for names in _SUITES.values() for name in names},
    look_into=look_into,
)
SUITES = Claim(
    name="suites",
    title="The 25-object suites",
    source="Feat2Go, table 1",
    hypothesis="Reinforcement fine-tuning raises success on suites that it never saw.",
    setting="WidowX, object and plate of the benchmark, its one camera at 64 pixels. One policy is "
    "cloned from 2,500 scripted attempts for all seeds, as the paper starts from one checkpoint, "
    "and one value model trained on their successes. Each seed fine-tunes the policy by PPO with "
    "Feat2Go's reward on `Main-v3` with the 16 training objects. Actions are sampled at a "
    "temperature of 0.6, in training, too; success at any of 80 steps. Needs PUT_ON_PLATE_ASSETS.",
    runs=PLATES.arms.runs,
    judge=PLATES,
)
