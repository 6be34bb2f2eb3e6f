"""What a study is made of: runs, which are done once, and claims, which read their results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Result = dict[str, Any]
Verdict = Literal["holds", "holds in direction", "undecided", "does not hold", "not run"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes of a study."""

    seeds: Sequence[int]
    """Seeds that are reported; settings were chosen on others."""
    num_demonstrations: int
    value_epochs: int
    num_cloned: int
    clone_epochs: int
    num_updates: int
    episodes_per_update: int
    num_rounds: int
    """Of SPIRAL."""
    num_task_episodes: int
    """Recorded of each of the ten tasks."""
    num_steps: int
    """Gradient steps of a reward model on them."""
    num_evaluated: int
    """Episodes of an evaluation in distribution."""
    num_shifted: int
    """Episodes of an evaluation under each shift."""
    num_envs: int
    num_workers: int

    def sizes(self) -> dict[str, Any]:
        """Return all but the seeds, for the settings of what is made."""
        return {key: value for key, value in asdict(self).items() if key != "seeds"}


PROFILES = {
    "full": Profile(
        seeds=(0, 1, 2, 3, 4),
        num_demonstrations=300,
        value_epochs=20,
        num_cloned=30,
        clone_epochs=60,
        num_updates=30,
        episodes_per_update=96,
        num_rounds=3,
        num_task_episodes=80,
        num_steps=1500,
        num_evaluated=100,
        num_shifted=50,
        num_envs=16,
        num_workers=2,
    ),
    "ci": Profile(
        seeds=(0,),
        num_demonstrations=12,
        value_epochs=1,
        num_cloned=6,
        clone_epochs=1,
        num_updates=1,
        episodes_per_update=8,
        num_rounds=1,
        num_task_episodes=10,
        num_steps=5,
        num_evaluated=4,
        num_shifted=2,
        num_envs=2,
        num_workers=0,  # the renderer's shaders, compiled once per process, take longest
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
