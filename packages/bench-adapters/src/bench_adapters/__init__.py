"""Robot benchmarks behind one vectorised interface, with recording and evaluation.

The heavier parts are imported by name: `bench_adapters.registry`, `bench_adapters.recorder`,
`bench_adapters.record`, `bench_adapters.evaluate`, `bench_adapters.doctor`,
`bench_adapters.testing`.
"""

from bench_adapters.errors import (
    BenchAdaptersError,
    EnvFailure,
    SimulatorUnavailableError,
    WorkerError,
)
from bench_adapters.functional.scores import category_means, success_summary, wilson_interval
from bench_adapters.registry import known_envs, make, make_single
from bench_adapters.specs import ActionSpec, Dimension, SpecMismatchError, check_specs
from bench_adapters.types import (
    ActOutput,
    ChunkStep,
    EpisodeError,
    EpisodeResult,
    EvaluationResult,
    Observation,
    Policy,
    VectorEnv,
)
from bench_adapters.vector import ProcessVectorEnv

__all__ = [
    "ActOutput",
    "ActionSpec",
    "BenchAdaptersError",
    "ChunkStep",
    "Dimension",
    "EnvFailure",
    "EpisodeError",
    "EpisodeResult",
    "EvaluationResult",
    "Observation",
    "Policy",
    "ProcessVectorEnv",
    "SimulatorUnavailableError",
    "SpecMismatchError",
    "VectorEnv",
    "WorkerError",
    "category_means",
    "check_specs",
    "known_envs",
    "make",
    "make_single",
    "success_summary",
    "wilson_interval",
]

__version__ = "0.1.0"
