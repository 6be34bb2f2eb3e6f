"""A frozen policy, a small residual on its actions, and critics that choose among them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from vla_rl.errors import CheckpointError
from vla_rl.identity import policy_config, weights_checksum
from vla_rl.policies.trunk import as_vector
from vla_rl.types import ActOutput, EvaluateOutput, ImitationBatch, LatentPolicy, Observation

_WEIGHTS = "residual.safetensors"


class ResidualPolicy(nn.Module):
    """a = base(s, z) + s_θ(f, z) with z standard normal noise and f the base's features.

    Of several draws of z it takes the action that the most pessimistic critic likes best. The
    residual is zero at first. It acts, but has no probabilities: policy gradients cannot train it.

    Source: SPIRAL (arXiv 2606.10305).
    """

    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        base: nn.Module,
        *,
        feature_dim: int,
        action_low: Tensor,
        action_high: Tensor,
        hidden_dim: int = 256,
        num_layers: int = 3,
        num_critics: int = 5,
        residual_scale: float = 0.1,
        num_candidates: int = 4,
    ) -> None:
        """Build the residual and its critics.

        Args:
            base: A `vla_rl.types.LatentPolicy` that is a module; frozen here.
            feature_dim: Width of its features.
            action_low: Lower end of the range of actions, that -1 stands for; ``(a,)``.
            action_high: Upper end.
            hidden_dim: Width of the layers; the paper has 1024.
            num_layers: Hidden layers.
            num_critics: The paper has 5.
            residual_scale: Factor on the residual.
            num_candidates: Draws of noise to choose from when acting; 1 takes what comes.

        Raises:
            ValueError: If a number is not positive.
        """
        super().__init__()
        numbers = {
            "num_layers": num_layers,
            "num_critics": num_critics,
            "num_candidates": num_candidates,
            "residual_scale": residual_scale,
        }
        for name, number in numbers.items():
            if number <= 0:
                raise ValueError(f"Expected `{name}` > 0, got {number}.")
        self.base = base.eval().requires_grad_(requires_grad=False)
        latent = cast(LatentPolicy, base)
        self.chunk, self.action_dim = latent.chunk, latent.action_dim
        self.residual_scale, self.num_candidates = residual_scale, num_candidates
        self._identity = {
            "residual_scale": residual_scale,
            "num_candidates": num_candidates,  # as built: the first round of SPIRAL takes one
            "base": type(base).__qualname__,
            "base_config": policy_config(base),
            "base_weights": weights_checksum(base),
        }
        for name, end in (("action_low", action_low), ("action_high", action_high)):
            self.register_buffer(name, as_vector(end.tolist(), self.action_dim, name))
        size = self.chunk * self.action_dim
        self.actor = _mlp(feature_dim + size, size, hidden_dim, num_layers)
        last = cast(nn.Linear, self.actor[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.critics = nn.ModuleList(
            _mlp(feature_dim + 2 * size, 1, hidden_dim, num_layers) for _ in range(num_critics)
        )

    @classmethod
    def around(cls, base: nn.Module, *, weights: str | Path | None = None, **settings: Any) -> Self:
        """Build one for a base that knows its widths and range, such as a `FlowPolicy`.

        Args:
            base: With ``feature_dim``, ``action_low`` and ``action_high``.
            weights: Folder that `save_pretrained` wrote; an untrained residual when None.
            settings: Other arguments of ``__init__``.

        Raises:
            CheckpointError: If the weights were learned on another base or with other settings.
        """
        known = {name: getattr(base, name) for name in ("feature_dim", "action_low", "action_high")}
        policy = cls(base, **known, **settings)
        if weights is not None:
            policy._load(Path(weights))
        return policy

    def save_pretrained(self, folder: str | Path) -> None:
        """Write residual and critics, without the base, into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{_WEIGHTS}.partial"
        # Their names are those of this module's own state; contiguous, as the format wants them.
        state = {name: value.contiguous() for name, value in self._learned().items()}
        save_file(state, partial, metadata={"identity": json.dumps(self._identity)})
        os.replace(partial, folder / _WEIGHTS)

    def _load(self, folder: Path) -> None:
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get("identity", "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if found != json.loads(json.dumps(self._identity)):
            raise CheckpointError(
                f"Expected a residual of this base with these settings at {folder}, got {found} "
                f"instead of {self._identity}."
            )
        self.load_state_dict(state, strict=False)

    def _learned(self) -> dict[str, Tensor]:
        state = self.state_dict()
        return {k: v for k, v in state.items() if k.startswith(("actor.", "critics."))}

    @torch.no_grad()
    def act(
        self, obs: Observation, *, generator: Generator | None = None, deterministic: bool = False
    ) -> ActOutput:
        """Choose a chunk of actions; from the mean of the noise when ``deterministic``.

        Log-probabilities are NaN. The replay holds ``features``, ``latent`` and ``action``, what
        the critics learn from.
        """
        base = cast(LatentPolicy, self.base)
        features = base.features(base.read(obs))
        draws = 1 if deterministic else self.num_candidates
        latent = features.new_zeros(draws, len(features), self.chunk, self.action_dim)
        if not deterministic:
            latent.normal_(generator=generator)
        action, _ = self.propose(features, latent)
        if draws > 1:
            best = self.q(features, latent, action).amin(0).argmax(0)
            rows = torch.arange(len(features), device=best.device)
            latent, action = latent[best, rows], action[best, rows]
        else:
            latent, action = latent[0], action[0]
        share = 0.5 * (action.clamp(-1.0, 1.0) + 1.0)
        return ActOutput(
            actions=self.action_low + share * (self.action_high - self.action_low),
            log_prob=torch.full_like(action, torch.nan),
            value=None,
            replay={"features": features, "latent": latent, "action": action},
        )

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint must agree on, the frozen base included."""
        return self._identity

    def propose(
        self, features: Float[Tensor, "n f"], latent: Float[Tensor, "draws n k a"]
    ) -> tuple[Float[Tensor, "draws n k a"], Float[Tensor, "draws n k a"]]:
        """Return normalised actions and, of that, the residual, for several draws of noise."""
        base = cast(LatentPolicy, self.base)
        many = features.expand(len(latent), *features.shape).flatten(0, 1)
        noise = latent.flatten(0, 1)
        with torch.no_grad():
            action = base.decode(many, noise)
        residual = self.actor(torch.cat([many, noise.flatten(1)], -1)).view_as(action)
        residual = self.residual_scale * residual
        return (action + residual).view_as(latent), residual.view_as(latent)

    def q(
        self,
        features: Float[Tensor, "n f"],
        latent: Float[Tensor, "draws n k a"],
        action: Float[Tensor, "draws n k a"],
        *,
        critics: nn.ModuleList | None = None,
    ) -> Float[Tensor, "m draws n"]:
        """Return the values that the critics, or others of their kind, give to actions."""
        many = features.expand(len(latent), *features.shape)
        inputs = torch.cat([many, latent.flatten(2), action.flatten(2)], -1)
        return torch.stack([critic(inputs)[..., 0] for critic in critics or self.critics])

    def evaluate(self, replay: Mapping[str, Tensor]) -> EvaluateOutput:
        """Raise: there are no probabilities.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "Expected a policy with log-probabilities, got a ResidualPolicy: train it with "
            "`vla_rl.algorithms.spiral.Spiral`."
        )

    def imitation_loss(self, batch: ImitationBatch, *, reduction: str = "none") -> Tensor:
        """Raise: clone the base instead.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "Expected a policy to clone into, got a ResidualPolicy: clone its base first."
        )


def _mlp(in_dim: int, out_dim: int, hidden_dim: int, num_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(num_layers):
        width = in_dim if i == 0 else hidden_dim
        layers += [nn.Linear(width, hidden_dim), nn.LayerNorm(hidden_dim), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(hidden_dim, out_dim))
