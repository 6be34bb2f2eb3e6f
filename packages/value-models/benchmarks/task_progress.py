"""True progress of recorded attempts: what the plan of a scripted expert had reached.

Progress of a success is SARM's (arXiv 2509.25358, Eq. 1 and 2) over the phases of the plan: the
mean share of each phase in the duration of clean successes of the task, and linear time within a
phase. Mistakes are treated as SARM2's labels of rollouts do (arXiv 2606.10305, appendix):

* ``stall``: progress stays where the arm stopped;
* ``miss``: it falls from the moment the gripper closes beside the object, at the pace at which a
  clean attempt rises, down to 0: everything has to be done again;
* ``drop``: it is 0 from the moment the gripper opens on the way;
* ``recover``: it falls to 0 while the arm errs and backs off, then rises as in a success;
* ``near_miss``: unknown from the last phase on, for how much a few centimetres are worth is not
  known; such episodes still count as failures.

An attempt that failed or succeeded by chance, against its plan, has no label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float32]
GRIPPERS = {4: (3,), 7: (6,), 8: (3, 7)}
"""Places of the grippers in actions of each width."""
MOVING = 0.25
"""Action units per step above which an arm moves; its noise stays below."""
CARRYING = ("lift", "move", "turn")
TAIL = 20
"""Frames kept after what went wrong; the rest is a still picture."""


@dataclass(frozen=True)
class Attempt:
    """One recorded episode without its frames."""

    phase: list[str]
    action: NDArray[np.float32]
    perturbation: str
    success: bool

    @property
    def is_clean(self) -> bool:
        """Whether it went as planned."""
        return self.success and not self.perturbation


@dataclass(frozen=True)
class Truth:
    """Progress of an attempt, the frame at which it went wrong, and the frames to keep."""

    progress: Curve
    event: int | None
    length: int


@dataclass(frozen=True)
class Plan:
    """Phases of a task, the progress at which each begins, and their clean durations."""

    phases: list[str]
    start: list[float]
    duration: list[float]

    @property
    def pace(self) -> float:
        """Progress per frame of a clean attempt."""
        return 1.0 / sum(self.duration)

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> "Plan":
        """Read the plan from clean attempts."""
        runs = [_runs(attempt.phase) for attempt in attempts if attempt.is_clean]
        phases = [name for name, _ in max(runs, key=len)]
        shares, durations = [], []
        for run in runs:
            length = np.zeros(len(phases))
            for place, (_, frames) in zip(_places(run, phases), run, strict=True):
                length[place] = frames
            shares.append(length / length.sum())
            durations.append(length)
        share = np.mean(shares, axis=0)
        return cls(phases, list(np.cumsum(share) - share), list(np.mean(durations, axis=0)))

    def forward(self, phase: list[str], *, complete: bool) -> Curve:
        """Progress of an attempt that goes forward; ``complete`` if it reaches 1."""
        run = _runs(phase)
        places = _places(run, self.phases)
        starts = np.cumsum([0, *(frames for _, frames in run)])
        frames = [float(s) for s in starts[:-1]]
        values = [self.start[place] for place in places]
        if complete:
            frames.append(len(phase) - 1.0)
            values.append(1.0)
        else:  # the last phase at its clean pace, at most to its end
            last = places[-1]
            end = self.start[last + 1] if last + 1 < len(self.start) else 1.0
            frames.append(frames[-1] + max(self.duration[last], 1.0))
            values.append(end)
        return np.interp(np.arange(len(phase)), frames, values).astype(np.float32)


def true_progress(attempt: Attempt, plan: Plan) -> Truth:
    """Return the progress of an attempt; see the head of this file."""
    t = len(attempt.phase)
    kind = attempt.perturbation
    if attempt.is_clean:
        return Truth(plan.forward(attempt.phase, complete=True), None, t)
    if kind == "recover" and attempt.success:
        return _recovered(attempt, plan)
    if attempt.success or kind not in ("stall", "miss", "drop", "near_miss"):
        return Truth(np.full(t, np.nan, np.float32), None, t)
    event = _event(attempt)
    if event is None:
        return Truth(np.full(t, np.nan, np.float32), None, min(t, 60))
    before = plan.forward(attempt.phase[: event + 1], complete=False)
    progress = np.full(t, before[-1], np.float32)
    progress[: event + 1] = before
    after = np.arange(t - event)
    if kind == "drop":
        progress[event:] = 0.0
    elif kind == "miss":
        progress[event:] = np.maximum(before[-1] - plan.pace * after, 0.0)
    elif kind == "near_miss":
        # The phases before the last are done; what the last one is worth is not known.
        done = sum(frames for _, frames in _runs(attempt.phase)[:-1])
        progress[min(done, event) :] = np.nan
    return Truth(progress, event, min(t, event + TAIL))


def _recovered(attempt: Attempt, plan: Plan) -> Truth:
    """Forward, falling to 0 while erring and backing off, forward again."""
    runs = _runs(attempt.phase, merge=False)
    back = next(i for i, (name, _) in enumerate(runs) if name == "retreat")
    first, again = sum(n for _, n in runs[:back]), sum(n for _, n in runs[: back + 1])
    event = min(runs[0][1], first)
    rise = plan.forward(attempt.phase[: event + 1], complete=False)[: event + 1]
    fall = np.linspace(rise[-1], 0.0, again - event + 1, dtype=np.float32)
    second = plan.forward(attempt.phase[again:], complete=True)
    progress = np.concatenate([rise[:event], fall[:-1], second])
    return Truth(progress, event, len(progress))


def _event(attempt: Attempt) -> int | None:
    """Return the frame from which it is wrong; None if it never got to its mistake."""
    runs = _runs(attempt.phase, merge=False)
    if attempt.perturbation == "miss":
        return runs[0][1] if len(runs) > 1 else None
    if attempt.perturbation == "drop":
        closed = attempt.action[:, list(GRIPPERS[attempt.action.shape[1]])] < 0
        carrying = np.array([name in CARRYING for name in attempt.phase])
        opens = (closed[:-1] & ~closed[1:]).any(1) & carrying[1:]
        return int(np.flatnonzero(opens)[0]) + 1 if opens.any() else None
    return last_motion(attempt)


def last_motion(attempt: Attempt) -> int:
    """Return the frame after the last one in which an arm moved; 0 if none ever did."""
    width = attempt.action.shape[1]
    arms = [slice(0, 3), slice(4, 7)] if width == 8 else [slice(0, 3)]
    speed = np.max([np.linalg.norm(attempt.action[:, arm], axis=1) for arm in arms], axis=0)
    moving = np.flatnonzero(speed > MOVING)
    return min(int(moving[-1]) + 1, len(speed) - 1) if len(moving) else 0


def _runs(phase: Sequence[str], *, merge: bool = True) -> list[tuple[str, int]]:
    """Phases and their frames in order; a retreat in the end belongs to the phase before it."""
    runs = [(name, len(list(frames))) for name, frames in groupby(phase)]
    if merge and len(runs) > 1 and runs[-1][0] == "retreat":
        name, frames = runs[-2]
        runs[-2:] = [(name, frames + runs[-1][1])]
    return runs


def _places(run: Sequence[tuple[str, int]], phases: Sequence[str]) -> list[int]:
    """Place in the plan of each run; phases that were skipped leave a gap."""
    places, place = [], 0
    for name, _ in run:
        place = phases.index(name, place)
        places.append(place)
        place += 1
    return places
