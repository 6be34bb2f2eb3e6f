"""What a study is made of: runs, which are done once, and claims, which read their results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from integration_tests.pipelines.profiles import Profile as QuickstartProfile

Result = dict[str, Any]
Verdict = Literal["holds", "holds in direction", "undecided", "does not hold", "not run"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes of a study."""

    seeds: Sequence[int]
    """Seeds that are reported; settings were chosen on others."""
    base: QuickstartProfile
    """Of recordings, value models, cloning, fine-tuning and evaluations in distribution."""
    num_rounds: int
    """Of SPIRAL."""
    num_task_episodes: int
    """Recorded of each of the ten tasks."""
    num_steps: int
    """Gradient steps of a reward model on them."""
    num_shifted: int
    """Episodes of an evaluation under each shift."""
    calvin: QuickstartProfile
    """The same of CALVIN, which is slower; episodes of an evaluation are chains."""
    plates: QuickstartProfile
    """The same of the 25-object suites."""

    def sizes(self) -> dict[str, Any]:
        """Return what most runs depend on, for their settings."""
        return {**self.base.as_dict(), "num_shifted": self.num_shifted}


PROFILES = {
    "full": Profile(
        seeds=(0, 1, 2, 3, 4),
        base=QuickstartProfile(
            num_demonstrations=300,
            value_epochs=20,
            num_cloned=30,
            clone_epochs=60,
            num_updates=30,
            episodes_per_update=96,
            num_evaluated=100,
            num_envs=16,
            num_workers=2,
        ),
        num_rounds=3,
        num_task_episodes=80,
        num_steps=400,
        num_shifted=50,
        calvin=QuickstartProfile(
            num_demonstrations=48,
            value_epochs=5,
            num_cloned=40,
            clone_epochs=20,
            num_updates=6,
            episodes_per_update=32,
            num_evaluated=24,
            num_envs=2,
            num_workers=2,
        ),
        plates=QuickstartProfile(
            num_demonstrations=2500,
            value_epochs=8,
            num_cloned=2500,
            clone_epochs=12,
            num_updates=32,
            episodes_per_update=96,
            num_evaluated=48,
            num_envs=8,
            num_workers=2,
        ),
    ),
    "ci": Profile(
        seeds=(0,),
        base=QuickstartProfile(
            num_demonstrations=12,
            value_epochs=1,
            num_cloned=6,
            clone_epochs=1,
            num_updates=1,
            episodes_per_update=8,
            num_evaluated=4,
            num_envs=2,
            num_workers=0,  # the renderer's shaders, compiled once per process, take longest
        ),
        num_rounds=1,
        num_task_episodes=10,
        num_steps=5,
        num_shifted=2,
        calvin=QuickstartProfile(
            num_demonstrations=6,
            value_epochs=1,
            num_cloned=4,
            clone_epochs=1,
            num_updates=1,
            episodes_per_update=2,
            num_evaluated=2,
            num_envs=1,
            num_workers=1,
        ),
        plates=QuickstartProfile(
            num_demonstrations=6,
            value_epochs=1,
            num_cloned=4,
            clone_epochs=1,
            num_updates=1,
            episodes_per_update=2,
            num_evaluated=2,
            num_envs=2,
            num_workers=0,
        ),
    ),
}


@dataclass(frozen=True)
class Run:
    """One unit of work; runs that several claims read are done once."""

    kind: str
    """Which function of `integration_tests.study.runs` does it."""
    seed: int
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Name of its result file."""
        return "-".join([self.kind, *(str(value) for _, value in self.options), f"seed{self.seed}"])


def make_run(kind: str, seed: int, **options: Any) -> Run:
    """Return a run; the order of the options is that of its name."""
    return Run(kind, seed, tuple(options.items()))


@dataclass(kw_only=True)
class Finding:
    """What the results say of a claim."""

    verdict: Verdict
    headline: str = ""
    """The numbers that the verdict goes by."""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    remarks: Sequence[str] = ()
    draw: Callable[[], Any] | None = field(default=None, repr=False)
    """Returns the figure."""


Results = Mapping[str, Result]
"""Result by name of the run; runs that have not been done are absent."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a paper and how it is checked."""

    name: str
    """Short, for the command line."""
    title: str
    source: str
    hypothesis: str
    setting: str
    runs: Callable[[Profile], Sequence[Run]]
    judge: Callable[[Profile, Results], Finding]
