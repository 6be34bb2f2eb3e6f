"""SARM2 and what is left of it without its parts, by the bench of value-models."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from integration_tests.study.design import Result
from integration_tests.study.lab import Lab

BENCH = Path(__file__).parents[2] / "packages/value-models/benchmarks/bench_tasks.py"
MODELS = ("SARM2", "SARM2, one gate", "SARM2, no estimator", "single head (ReWiND)", "linear time")
KEPT = ("mse_macro", "mse_micro", "order_accuracy", "auroc")


def ablation(lab: Lab) -> Result:
    """Train every variant on the ten tasks with the study's seed; all seeds share the recording."""
    tasks, out = lab.out / "tasks", lab.out / f"ablation-seed{lab.seed}"
    command = [
        sys.executable,
        str(BENCH),
        f"--data={tasks}",
        f"--out={out}",
        f"--seeds={lab.seed}",
        f"--steps={lab.profile.num_steps}",
        f"--episodes={lab.profile.num_task_episodes}",
        "--measure",
        "table",
        "--models",
        *MODELS[:-1],
    ]
    with lab.alone("ablation", shared=True):
        subprocess.run(command, check=True)
    results = json.loads((out / "result.json").read_text())
    return {name: _summary(results[name]) for name in MODELS}


def _summary(by_seed: dict[str, Any]) -> Result:
    (scores,) = by_seed.values()
    return {key: scores[key] for key in KEPT if key in scores}
