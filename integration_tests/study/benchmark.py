"""Where else than on PickCube policies are trained: a recording and what is cloned from it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench_adapters import VectorEnv, make
from bench_adapters.record import record_dataset
from integration_tests.pipelines.demonstrations import demonstrations, policy_arguments
from integration_tests.pipelines.profiles import Profile as Sizes
from integration_tests.pipelines.quickstart import RECORD_SEEDS, SEED_STRIDE
from integration_tests.study.design import Profile, Result
from integration_tests.study.lab import FIRST_SEED, Lab
from vla_rl.algorithms.behaviour_cloning import clone
from vla_rl.algorithms.settings import CloneConfig
from vla_rl.data import make_chunks
from vla_rl.observations import concat_rows
from vla_rl.policies.token_policy import TokenPolicy


@dataclass(frozen=True, kw_only=True, eq=False)
class Benchmark:
    """A task, and the small policy that is cloned for it; seeds come with a `Lab`."""

    name: str
    """Of the folders."""
    env_id: str
    camera: str
    options: Mapping[str, Any]
    """Of the environments in recording and training."""
    recording: Mapping[str, Any]
    """Further arguments of `record_dataset`."""
    network: Mapping[str, Any]
    """Arguments of the policy that samples do not tell."""
    chunk: int
    """Actions per decision."""
    stride: int
    """Every so many frames a sample to clone."""
    beginning: int = 0
    """About so many first frames of each demonstration are samples once more, at every step: there
    only the picture tells where to go; later the arm is there, and its state tells it as well."""
    sizes: Callable[[Profile], Sizes]

    @contextmanager
    def env(self, lab: Lab, env_id: str | None = None, **options: Any) -> Iterator[VectorEnv]:
        """Build environments of the task, or of another one with the same camera; close them."""
        sizes = self.sizes(lab.profile)
        given = {"num_envs": sizes.num_envs, "num_workers": sizes.num_workers, **options}
        env = make(env_id or self.env_id, cameras=[self.camera], **given)
        try:
            yield env
        finally:
            env.close()

    def record(self, lab: Lab) -> Path:
        """Record scripted attempts, once for all runs of a seed."""
        root, sizes = self.folder(lab) / "dataset", self.sizes(lab.profile)
        with lab.alone(self.name):
            record_dataset(
                self.env_id,
                root,
                num_episodes=sizes.num_demonstrations,
                seed=RECORD_SEEDS + (FIRST_SEED + lab.seed) * SEED_STRIDE,
                num_workers=sizes.num_workers,
                env_kwargs={"cameras": [self.camera], **self.options},
                **self.recording,
            )
        return root

    def policy(self, lab: Lab) -> TokenPolicy:
        """Return the policy cloned from the first successes, once for all runs of a seed."""
        dataset, sizes = self.record(lab), self.sizes(lab.profile)
        settings = {
            "network": dict(self.network),
            "samples": [sizes.num_cloned, self.chunk, self.stride, self.beginning],
            "num_epochs": sizes.clone_epochs,
        }
        with lab.alone(self.name):
            stages = lab.stages(f"{self.name}-policy")
            stages.run("clone", settings, lambda folder: self._clone(lab, dataset, folder))
        policy: TokenPolicy = TokenPolicy.from_pretrained(stages.folders["clone"] / "policy")
        policy.eval()
        return policy

    def _clone(self, lab: Lab, dataset: Path, folder: Path) -> Result:
        sizes = self.sizes(lab.profile)
        successes = demonstrations(dataset, self.camera, success=True)
        chosen = list(islice(successes, sizes.num_cloned))
        samples = make_chunks(chosen, chunk=self.chunk, stride=self.stride)
        if self.beginning:
            beginnings = make_chunks(
                (_first_frames(item, self.beginning) for item in chosen),
                chunk=self.chunk,
            )
            samples = concat_rows([samples, beginnings])
        torch.manual_seed(lab.seed)
        policy = TokenPolicy(**policy_arguments(samples, self.camera), **self.network)
        config = CloneConfig(num_epochs=sizes.clone_epochs, seed=lab.seed)
        history = clone(policy, samples, config, out_dir=folder / "clone")
        policy.save_pretrained(folder / "policy")
        return {"loss": history[-1]["loss"]}

    def folder(self, lab: Lab) -> Path:
        """Return where a seed's recording is."""
        return lab.out / f"{self.name}-seed{lab.seed}"


def _first_frames(episode: Mapping[str, Any], num: int) -> dict[str, Any]:
    return {key: value if key == "task" else value[:num] for key, value in episode.items()}
