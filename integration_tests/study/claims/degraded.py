"""RA-BC against plain cloning when demonstrations are degraded."""

from integration_tests.study import figures
from integration_tests.study.comparison import Arms, arm, column, success
from integration_tests.study.design import Claim, Finding, Profile, Results
from integration_tests.study.statistics import points, verdict_of

SHARES = (0.0, 0.3, 0.6)
ARMS = {
    share: Arms({m: arm("cloning", method=m, degraded=share) for m in ("bc", "rabc")})
    for share in SHARES
}


def judge(profile: Profile, results: Results) -> Finding:
    """Compare success where some demonstrations failed."""
    rows, bars = [], {}
    gains: dict[float, dict[int, float]] = {}
    for share, arms in ARMS.items():
        found = arms.found(profile, results)
        bc, rabc = found["bc"], found["rabc"]
        gains[share] = {
            seed: success(rabc[seed]) - success(bc[seed]) for seed in rabc.keys() & bc.keys()
        }
        bars[share] = {m: [success(r) for r in group.values()] for m, group in found.items()}
        rows.append(
            [
                f"{100 * share:.0f} % degraded",
                str(len(gains[share])),
                *(column(group, success) for group in found.values()),
                points(list(gains[share].values())) if gains[share] else "–",
            ]
        )
    some, most = (gains[share] for share in SHARES if share)
    degraded = [(some[seed] + most[seed]) / 2 for seed in some.keys() & most.keys()]
    num = len(degraded)
    return Finding(
        verdict=verdict_of(degraded),
        headline=f"{points(degraded)} points at 30 and 60 %; n = {num}" if num else "",
        header=["demonstrations", "seeds", "BC %", "RA-BC %", "difference, points"],
        rows=rows,
        remarks=["Verdict: mean difference at 30 and 60 %.", *_looked_into(profile, results)],
        draw=lambda: figures.paired_bars(bars),
    )


def _looked_into(profile: Profile, results: Results) -> list[str]:
    """Say what RA-BC made of the failed demonstrations, where results hold it."""
    weights = [
        item["weights"]
        for share in SHARES
        if share
        for item in ARMS[share].found(profile, results)["rabc"].values()
        if "weights" in item
    ]
    if not weights:
        return []
    success, end, failure = (
        f"{sum(item[name] for item in weights) / len(weights):.2f}"
        for name in ("success", "end of success", "failure")
    )
    text = (
        f"Looked into: a sample of a failed demonstration weighs {failure} on average, one of a "
        f"successful one {success}, and {end} in its last third ({len(weights)} trainings). Most "
        "of a failure is done as a success is; and at the goal progress rises no more, so that "
        "stopping there, which success takes, is weighed down as well."
    )
    return [text]


DEGRADED = Claim(
    name="degraded",
    title="Cloning degraded demonstrations",
    source="SARM, section 5 (RA-BC)",
    hypothesis="Weighing samples by predicted progress helps where 30 % or more of the "
    "demonstrations are failures.",
    setting="40 demonstrations; progress predicted by the Feat2Go value model; κ = 0.01, chosen "
    "on seed 40 after 0.05 had cloned clean demonstrations worse on seed 0.",
    runs=lambda profile: [run for arms in ARMS.values() for run in arms.runs(profile)],
    judge=judge,
)
