"""The claims: which runs each reads and what it makes of them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_adapters import wilson_interval
from integration_tests.study import figures
from integration_tests.study.ablation import MODELS
from integration_tests.study.design import (
    Claim,
    Finding,
    Profile,
    Result,
    Results,
    Run,
    Verdict,
    make_run,
)
from integration_tests.study.lab import curve_of
from integration_tests.study.shifts import SHIFTS
from integration_tests.study.statistics import interval_of_mean, percent, points, verdict_of

Floats = NDArray[np.float64]

ORDER_BAR, FALL_BAR = 0.94, 0.9
ROBUST_SHARES = (0.0, 0.3, 0.6)


def _each(profile: Profile, kind: str, **options: Any) -> list[Run]:
    return [make_run(kind, seed, **options) for seed in profile.seeds]


def _done(profile: Profile, results: Results, kind: str, **options: Any) -> dict[int, Result]:
    runs = _each(profile, kind, **options)
    return {run.seed: results[run.name] for run in runs if run.name in results}


def _rate(result: Result, name: str = "in_distribution") -> float:
    score = result["after"][name]
    return float(score["successes"] / score["episodes"])


def _shifted(result: Result) -> float:
    """Return the plain mean of the categories, each the plain mean of its shifts."""
    return float(np.mean([_category(result, name) for name in _categories()]))


def _category(result: Result, category: str) -> float:
    names = [name for name, shift in SHIFTS.items() if shift.category == category]
    return float(np.mean([_rate(result, name) for name in names]))


def _categories() -> list[str]:
    return sorted({shift.category for shift in SHIFTS.values()})


def _area(result: Result) -> float:
    """Return the mean success of all training episodes: high where learning is fast."""
    return float(np.mean(curve_of(result["curve"])))


def _differences(
    one: Mapping[int, Result], other: Mapping[int, Result], score: Callable[[Result], float]
) -> list[float]:
    return [score(one[seed]) - score(other[seed]) for seed in one if seed in other]


def _column(results: Mapping[int, Result], score: Callable[[Result], float]) -> str:
    return percent([score(item) for item in results.values()]) if results else "–"


def _num(groups: Sequence[Mapping[int, Result]]) -> str:
    counts = sorted({len(group) for group in groups})
    return "–".join(str(count) for count in (counts[0], counts[-1])[: len(counts)])


def _ranking(profile: Profile, results: Results) -> Finding:
    done = _done(profile, results, "ranking")
    if not done:
        return Finding(verdict="not run")
    first = [item["order_accuracy"][0] for item in done.values()]
    fell, drops = (sum(item[key] for item in done.values()) for key in ("fell", "drops"))
    interval = wilson_interval(fell, drops) if drops else None
    rows = [
        [f"after epoch {i + 1}", percent([item["order_accuracy"][i] for item in done.values()])]
        for i in range(min(len(item["order_accuracy"]) for item in done.values()))
    ]
    if interval is not None:
        low, high = 100 * interval[0], 100 * interval[1]
        share = f"{100 * fell / drops:.1f} [{low:.1f}, {high:.1f}] of {drops}"
        rows.append(["curves that fall after the cube is dropped", share])
    accurate = float(np.mean(first)) >= ORDER_BAR
    falls = interval is not None and fell / drops >= FALL_BAR
    verdict: Verdict = "holds" if accurate and falls else "does not hold"
    return Finding(
        verdict=verdict if len(done) >= 3 else "undecided",
        header=["held-out order accuracy", "% (mean over seeds)"],
        rows=rows,
        remarks=[f"{len(done)} seeds. Bars: 94 % after one epoch, and 90 % of the curves."],
        draw=lambda: figures.curves_at_drops(done),
    )


def _compare(
    profile: Profile, results: Results, groups: Mapping[str, dict[str, Any]], *, shifted: bool
) -> tuple[dict[str, dict[int, Result]], list[str], list[list[str]]]:
    """Return the results of each group, and a table of their success."""
    found = {
        name: _done(profile, results, options["kind"], **options["options"])
        for name, options in groups.items()
    }
    begin = _done(profile, results, "start")
    header = ["", "seeds", "success %", "mean training success %"]
    rows = [["start", str(len(begin)), _column(begin, _rate), "–"]]
    if shifted:
        header.append("shifted %")
        rows[0].append(_column(begin, _shifted))
    for name, group in found.items():
        row = [name, str(len(group)), _column(group, _rate), _column(group, _area)]
        rows.append([*row, _column(group, _shifted)] if shifted else row)
    return found, header, rows


def _ppo(reward: str, control: str | None = None) -> dict[str, Any]:
    options = {"reward": reward} if control is None else {"reward": reward, "control": control}
    return {"kind": "ppo", "options": options}


TARGETS = {
    "Feat2Go": _ppo("feat2go"),
    "steps to go": _ppo("steps_to_go"),
    "time fraction": _ppo("time_fraction"),
}
CONTROLS = {
    "sparse": _ppo("sparse"),
    "Feat2Go": _ppo("feat2go"),
    "its mean": _ppo("feat2go", "mean"),
    "shuffled": _ppo("feat2go", "shuffled"),
    "naive bonus": _ppo("naive"),
    "potential": _ppo("potential"),
}
SHAPING = {
    "dense": {"kind": "rftf", "options": {"shaping": "dense"}},
    "sparse": {"kind": "rftf", "options": {"shaping": "sparse"}},
}
GROUPS = {
    f"{reward}, from {begin}": {"kind": "grpo", "options": {"reward": reward, "begin": begin}}
    for begin in ("clone", "weak")
    for reward in ("feat2go", "sparse")
}


def _runs_of(groups: Mapping[str, dict[str, Any]]) -> Callable[[Profile], list[Run]]:
    def runs(profile: Profile) -> list[Run]:
        needed = _each(profile, "start")
        for group in groups.values():
            needed += _each(profile, group["kind"], **group["options"])
        return needed

    return runs


def _targets(profile: Profile, results: Results) -> Finding:
    found, header, rows = _compare(profile, results, TARGETS, shifted=True)
    ours = found["Feat2Go"]
    others = [found["steps to go"], found["time fraction"]]
    remarks = []
    for name in ("steps to go", "time fraction"):
        for what, score in (("success", _rate), ("shifted success", _shifted), ("speed", _area)):
            gain = _differences(ours, found[name], score)
            if gain:
                remarks.append(f"Feat2Go minus {name}, {what}: {points(gain)} points.")
    gains = [_differences(ours, other, _shifted) for other in others]
    worst = min(gains, key=lambda g: float(np.mean(g)) if g else -1.0)
    return Finding(
        verdict=verdict_of(worst),
        header=header,
        rows=rows,
        remarks=[*remarks, "Verdict: shifted success against the better of the two others."],
        draw=lambda: figures.learning_curves(found),
    )


def _dense(profile: Profile, results: Results) -> Finding:
    found, header, rows = _compare(profile, results, SHAPING, shifted=False)
    gain = _differences(found["dense"], found["sparse"], _rate)
    begin = _done(profile, results, "start")
    loss = _differences(found["sparse"], begin, _rate)
    remarks = [f"Dense minus sparse: {points(gain)} points."] if gain else []
    if loss:
        remarks.append(f"Sparse minus start: {points(loss)} points; the paper's falls below it.")
    return Finding(
        verdict=verdict_of(gain),
        header=header,
        rows=rows,
        remarks=remarks,
        draw=lambda: figures.learning_curves(found),
    )


def _controls(profile: Profile, results: Results) -> Finding:
    found, header, rows = _compare(profile, results, CONTROLS, shifted=False)
    remarks = []
    for name in ("its mean", "shuffled", "naive bonus", "potential", "sparse"):
        gain = _differences(found["Feat2Go"], found[name], _rate)
        if gain:
            remarks.append(f"Feat2Go minus {name}: {points(gain)} points.")
    gains = [_differences(found["Feat2Go"], found[n], _rate) for n in ("its mean", "shuffled")]
    worst = min(gains, key=lambda g: float(np.mean(g)) if g else -1.0)
    return Finding(
        verdict=verdict_of(worst),
        header=header,
        rows=rows,
        remarks=[
            *remarks,
            "Verdict: success against the better of its mean and shuffled.",
        ],
        draw=lambda: figures.learning_curves(found),
    )


def _groups(profile: Profile, results: Results) -> Finding:
    found, header, rows = _compare(profile, results, GROUPS, shifted=False)
    header.append("groups that tell episodes apart %")

    def kept(result: Result) -> float:
        return float(np.mean(curve_of(result["curve"], "kept_groups_share")))

    rows[0].append("–")
    for row, group in zip(rows[1:], found.values(), strict=True):
        row.append(_column(group, kept))
    gain = _differences(found["feat2go, from weak"], found["sparse, from weak"], _area)
    remarks = []
    if gain:
        remarks.append(f"Mean training success, Feat2Go minus sparse, from weak: {points(gain)}.")
    return Finding(
        verdict=verdict_of(gain),
        header=header,
        rows=rows,
        remarks=[*remarks, "Verdict: mean training success from the weak policy."],
        draw=lambda: figures.learning_curves(found),
    )


def _parts(profile: Profile, results: Results) -> Finding:
    done = _done(profile, results, "ablation")

    def errors(name: str) -> list[float]:
        return [item[name]["mse_macro"] for item in done.values()]

    rows, remarks = [], []
    for name in MODELS if done else ():
        mean, low, high = interval_of_mean(errors(name))
        rows.append([name, f"{mean:.4f} [{low:.4f}, {high:.4f}]"])
    steps = list(pairwise(MODELS[:3]))
    gains = [
        [b - a for a, b in zip(errors(one), errors(other), strict=True)] for one, other in steps
    ]
    if done:
        ratio = np.mean(errors(MODELS[0])) / np.mean(errors(MODELS[3]))
        remarks.append(f"SARM2 over single head: {ratio:.2f}; the paper's is at most 0.56.")
    return Finding(
        verdict=verdict_of(min(gains, key=lambda g: float(np.mean(g)) if g else -1.0)),
        header=["model", "error (mean over seeds)"],
        rows=rows,
        remarks=[f"{len(done)} seeds.", *remarks, "Verdict: the smaller of the two steps."],
        draw=lambda: figures.errors({name: errors(name) for name in MODELS}),
    )


def _cloning_runs(profile: Profile) -> list[Run]:
    return [
        run
        for share in ROBUST_SHARES
        for method in ("bc", "rabc")
        for run in _each(profile, "cloning", method=method, degraded=share)
    ]


def _cloning(profile: Profile, results: Results) -> Finding:
    rows, gains, bars = [], {}, {}
    for share in ROBUST_SHARES:
        found = {
            method: _done(profile, results, "cloning", method=method, degraded=share)
            for method in ("bc", "rabc")
        }
        gains[share] = _differences(found["rabc"], found["bc"], _rate)
        bars[share] = {m: [_rate(r) for r in group.values()] for m, group in found.items()}
        rows.append(
            [
                f"{100 * share:.0f} % degraded",
                _num(list(found.values())),
                _column(found["bc"], _rate),
                _column(found["rabc"], _rate),
                points(gains[share]) if gains[share] else "–",
            ]
        )
    paired = zip(gains[0.3], gains[0.6], strict=False)
    return Finding(
        verdict=verdict_of([(a + b) / 2 for a, b in paired]),
        header=["demonstrations", "seeds", "BC %", "RA-BC %", "difference, points"],
        rows=rows,
        remarks=["Verdict: mean difference at 30 and 60 %."],
        draw=lambda: figures.paired_bars(bars),
    )


ROUNDS: dict[str, dict[str, Any]] = {
    name: {"kind": "spiral", "options": {"reward": reward}}
    for name, reward in {
        "frozen policy": "none",
        "SARM2": "sarm2",
        "single head": "single_head",
        "sparse": "sparse",
    }.items()
}


def _spiral_runs(profile: Profile) -> list[Run]:
    return [r for g in ROUNDS.values() for r in _each(profile, g["kind"], **g["options"])]


def _spiral(profile: Profile, results: Results) -> Finding:
    found, header, rows = _compare(profile, results, ROUNDS, shifted=False)
    rows = [row[:3] for row in rows[1:]]
    remarks = []
    for one, other in (
        ("SARM2", "frozen policy"),
        ("SARM2", "single head"),
        ("SARM2", "sparse"),
        ("sparse", "frozen policy"),
    ):
        gain = _differences(found[one], found[other], _rate)
        if gain:
            remarks.append(f"{one} minus {other}: {points(gain)} points.")
    gains = [_differences(found["SARM2"], found[name], _rate) for name in list(ROUNDS)[:1]]
    gains += [_differences(found["SARM2"], found[n], _rate) for n in ("single head", "sparse")]
    worst = min(gains, key=lambda g: float(np.mean(g)) if g else -1.0)
    trained = {name: group for name, group in found.items() if name != "frozen policy"}
    return Finding(
        verdict=verdict_of(worst),
        header=header[:3],
        rows=rows,
        remarks=[*remarks, "Verdict: SARM2 against the best of the three others."],
        draw=lambda: figures.learning_curves(trained),
    )


def _shift_runs(profile: Profile) -> list[Run]:
    return [*_each(profile, "start"), *_each(profile, "ppo", reward="feat2go")]


def _shifts(profile: Profile, results: Results) -> Finding:
    before = _done(profile, results, "start")
    after = _done(profile, results, "ppo", reward="feat2go")
    names: dict[str, Callable[[Result], float]] = {"in distribution": _rate}
    for category in _categories():
        names[category] = lambda result, c=category: _category(result, c)  # type: ignore[misc]
    names["mean of the three"] = _shifted
    rows = []
    for name, score in names.items():
        gain = _differences(after, before, score)
        cells = [_column(before, score), _column(after, score)]
        rows.append([name, *cells, points(gain) if gain else "–"])
    for name, shift in SHIFTS.items():
        one = [_column(group, lambda r, n=name: _rate(r, n)) for group in (before, after)]  # type: ignore[misc]
        rows.append([f"{shift.category}: {shift.what}", *one, ""])
    return Finding(
        verdict=verdict_of(_differences(after, before, _shifted)),
        header=["", "before %", "after %", "difference, points"],
        rows=rows,
        remarks=[f"{_num([before, after])} seeds. Categories are plain means of their rows."],
        draw=lambda: figures.before_and_after(
            {name: ([score(r) for r in before.values()], [score(r) for r in after.values()])
             for name, score in names.items()}
        ),
    )  # fmt: skip


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="ranking",
        title="Order of frames, learned in one epoch; curves fall at failures",
        source="RFTF, section 4.3 and figure 6",
        hypothesis="After one epoch the ranking model orders at least 94 % of held-out pairs of "
        "frames, and its curve falls after the cube is dropped.",
        setting="PickCube, wrist camera, shipped encoder; successes only in training.",
        runs=lambda profile: _each(profile, "ranking"),
        judge=_ranking,
    ),
    Claim(
        name="targets",
        title="Feat2Go's targets against counting time",
        source="Feat2Go, section 4",
        hypothesis="As a terminal reward of PPO, a value model trained on feature-grounded "
        "progress gives more success under shifts than one trained to count time.",
        setting="PPO from the same cloned policy; the value model's training differs in its "
        "targets alone.",
        runs=_runs_of(TARGETS),
        judge=_targets,
    ),
    Claim(
        name="dense",
        title="Dense against sparse advantages",
        source="RFTF, table 3",
        hypothesis="RFTF's shaped advantage gives more success than its sparse ablation, which can "
        "fall below the policy it starts from.",
        setting="RFTF with KL penalty, from the same cloned policy, η = 1.",
        runs=_runs_of(SHAPING),
        judge=_dense,
    ),
    Claim(
        name="controls",
        title="Is it the information in the value?",
        source="control of ours on Feat2Go's reward (Eq. 4); Ng et al. (1999) on shaping",
        hypothesis="Replaced by its mean or given to other episodes, the value no longer helps; "
        "paid at every step as it is, it does harm.",
        setting="PPO from the same cloned policy; only the reward differs.",
        runs=_runs_of(CONTROLS),
        judge=_controls,
    ),
    Claim(
        name="groups",
        title="GRPO's groups that all fail",
        source="Feat2Go, section 3.4",
        hypothesis="With Feat2Go's reward fewer groups are without contrast, and groups that fail "
        "throughout teach something.",
        setting="GRPO, groups of 8, from the cloned policy and from one that hardly ever succeeds.",
        runs=_runs_of(GROUPS),
        judge=_groups,
    ),
    Claim(
        name="parts",
        title="Which part of SARM2 does it",
        source="SARM2, ablation table",
        hypothesis="The error grows without the gates, more without the stage estimator, and SARM2 "
        "stays 44 % below a single head.",
        setting="Ten recorded tasks, shipped encoder, equal features and steps; mean square error "
        "of held-out progress, plain mean over tasks.",
        runs=lambda profile: _each(profile, "ablation"),
        judge=_parts,
    ),
    Claim(
        name="degraded",
        title="Cloning degraded demonstrations",
        source="SARM, section 5 (RA-BC)",
        hypothesis="Weighing samples by predicted progress helps where 30 % or more of the "
        "demonstrations are failures, and does no harm where none are.",
        setting="40 demonstrations; progress predicted by the Feat2Go value model; κ = 0.05.",
        runs=_cloning_runs,
        judge=_cloning,
    ),
    Claim(
        name="rounds",
        title="Rounds of self-improvement of a frozen policy",
        source="SPIRAL, section 5",
        hypothesis="Success rises over rounds, and more with SARM2's reward than with that of a "
        "single head or the sparse one.",
        setting="SPIRAL with its published losses on a frozen Gaussian policy; 96 episodes and "
        "1000 steps per round.",
        runs=_spiral_runs,
        judge=_spiral,
    ),
    Claim(
        name="shifts",
        title="Out of distribution",
        source="Feat2Go, tables 1 and 2",
        hypothesis="Reinforcement fine-tuning raises success under changes that it never saw.",
        setting="The policies of `targets` on PickCube changed in eight ways; sampled actions.",
        runs=_shift_runs,
        judge=_shifts,
    ),
)
