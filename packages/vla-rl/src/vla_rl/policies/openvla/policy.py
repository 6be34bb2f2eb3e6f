"""OpenVLA and OpenVLA-OFT as policies of action tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from vla_rl.functional.action_bins import check_tokens
from vla_rl.functional.policy_losses import imitation_mean
from vla_rl.policies.openvla.action_tokens import (
    Bounds,
    decode_action_tokens,
    encode_action_tokens,
)
from vla_rl.policies.openvla.base import OpenVLABase
from vla_rl.policies.openvla.checkpoint import DType, load_head, load_published
from vla_rl.policies.openvla.inputs import Tokenizer
from vla_rl.policies.openvla.network import OpenVLANetwork, Prefix
from vla_rl.policies.small_policy import require_replay
from vla_rl.types import ActOutput, EvaluateOutput, ImitationBatch, Observation

Decoding = Literal["autoregressive", "parallel"]
Support = Literal["action_bins", "vocabulary"]


class OpenVLAPolicy(OpenVLABase):
    """Images and an instruction to a chunk of action tokens, by a 7B language model.

    The critic is a small network on the hidden state that predicts the first token; it sends no
    gradient back.
    """

    def __init__(  # noqa: PLR0913  # a policy's settings are its keyword arguments
        self,
        network: OpenVLANetwork,
        *,
        tokenizer: Tokenizer,
        action_bounds: Bounds,
        proprio_bounds: Bounds | None = None,
        cameras: Sequence[str] = ("front",),
        chunk: int = 1,
        decoding: Decoding = "autoregressive",
        log_prob_over: Support = "action_bins",
        temperature: float = 1.0,
        max_prompt_tokens: int = 64,
        crop_area: float = 1.0,
        stop_token: bool = True,
    ) -> None:
        """Wrap a network.

        Args:
            network: Trained in place.
            tokenizer: Of its language model.
            action_bounds: What normalised actions stand for; see `Bounds.from_norm_stats`.
            proprio_bounds: Likewise for ``observation.state``, which the policy then reads.
            cameras: Names of the cameras it reads, ``observation.images.<name>``.
            chunk: Primitive actions per decision; OpenVLA has 1, OpenVLA-OFT 8 on LIBERO.
            decoding: Token after token (OpenVLA), or all at once (OpenVLA-OFT).
            log_prob_over: What tokens are drawn from and probabilities normalised over: the action
                tokens, as RLinf has it, or the whole vocabulary, as OpenVLA has it. Tokens that
                stand for no action then act as the nearest end of the range.
            temperature: Of the sampling distribution, for acting and scoring alike.
            max_prompt_tokens: Prompts are padded to it in replays; longer ones are refused.
            crop_area: Share of each image that is kept; see `prepare_images`.
            stop_token: Parallel decoding ends with the stop token, as published.

        Raises:
            ValueError: If a setting makes no sense.
        """
        super().__init__(
            network,
            tokenizer=tokenizer,
            action_bounds=action_bounds,
            proprio_bounds=proprio_bounds,
            cameras=cameras,
            chunk=chunk,
            max_prompt_tokens=max_prompt_tokens,
            crop_area=crop_area,
            stop_token=stop_token,
        )
        for name, value, known in (
            ("decoding", decoding, get_args(Decoding)),
            ("log_prob_over", log_prob_over, get_args(Support)),
        ):
            if value not in known:
                raise ValueError(f"Expected `{name}` out of {known}, got {value!r}.")
        if temperature <= 0.0:
            raise ValueError(f"Expected `temperature` > 0, got {temperature}.")
        self.decoding, self.log_prob_over, self.temperature = decoding, log_prob_over, temperature
        self.value_head = nn.Sequential(
            nn.Linear(network.hidden_dim, 512), nn.GELU(), nn.Linear(512, 1)
        )
        config = network.config
        self._first, self._last = 0, int(config.text["vocab_size"])
        if log_prob_over == "action_bins":
            self._first, self._last = config.vocab_size - config.num_bins, config.vocab_size

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        unnorm_key: str | None = None,
        revision: str | None = None,
        dtype: DType = "bfloat16",
        device: str = "cpu",
        lora_rank: int = 0,
        gradient_checkpointing: bool = False,
        trained: str | None = None,
        **settings: Any,
    ) -> "OpenVLAPolicy":
        """Load a published checkpoint of OpenVLA or OpenVLA-OFT; the critic starts at random.

        Args:
            name_or_path: Folder, or repository on the Hugging Face hub.
            unnorm_key: Data set whose statistics scale actions; None where there is only one.
            revision: Branch, tag or commit on the hub.
            dtype: Of the network's weights.
            device: Where the policy lives.
            lora_rank: Of new adapters; 0 adds none and trains the whole network.
            gradient_checkpointing: Recompute activations in the backward pass.
            trained: Folder that `save_pretrained` wrote, whose adapters and critic to go on with.
            settings: Other arguments of the constructor, ``tokenizer`` and ``action_bounds`` among
                them where those of the checkpoint do not serve.

        Raises:
            CheckpointError: If it is another model, or its weights do not fit.
        """
        if trained is not None and lora_rank:
            raise ValueError(
                f"Expected `trained` or `lora_rank`, got both, {trained!r} and {lora_rank}: the "
                "folder says which rank its adapters have."
            )
        published = load_published(name_or_path, revision=revision, dtype=dtype)
        if "tokenizer" not in settings:
            settings["tokenizer"] = published.tokenizer()
        if "action_bounds" not in settings:
            settings["action_bounds"] = Bounds.from_norm_stats(published.norm_stats, unnorm_key)
        policy = cls(published.network, **settings)
        if policy.proprio_projector is not None and trained is None:
            load_head(policy.proprio_projector, published.folder, "proprio_projector")
        if trained is not None:
            policy.load_trained(trained)
        elif lora_rank:
            policy.add_lora(rank=lora_rank)
        if gradient_checkpointing:
            policy.enable_gradient_checkpointing()
        return policy.to(device)

    @torch.no_grad()
    def act(
        self, obs: Observation, *, generator: Generator | None = None, deterministic: bool = False
    ) -> ActOutput:
        """Choose a chunk of actions for each row of ``obs``.

        Args:
            obs: Arrays or tensors; see `vla_rl.types.Observation`.
            generator: Source of the samples; torch's global one when None.
            deterministic: Take the likeliest token instead of a sample.

        Raises:
            ValueError: If an image, the state or the task is missing or has another shape.
        """
        replay = self.read(obs)
        prefix = self._prefix(replay)
        if self.decoding == "parallel":
            hidden = self._states(prefix, None)
            log_probs = self._log_probs(hidden)
            index = _choose(log_probs, generator, deterministic=deterministic)
            chosen, value = _pick(log_probs, index), self._value(hidden)
        else:
            index, chosen, value = self._generate(prefix, generator, deterministic=deterministic)
        tokens = (index + self._first).view(-1, self.chunk, self.action_dim)
        replay["action_tokens"] = tokens
        return ActOutput(
            actions=self.action_bounds.unnormalize(self._decode(tokens)),
            log_prob=chosen.view(tokens.shape),
            value=value,
            replay=replay,
        )

    def evaluate(self, replay: Mapping[str, Tensor]) -> EvaluateOutput:
        """Score the decisions in ``replay`` under the present parameters, with gradients.

        Raises:
            ValueError: If they were made by another kind of policy or with other bins.
        """
        prefix = self._prefix(replay)
        tokens = require_replay(replay, "action_tokens", prefix.mask.device)
        check_tokens(tokens, num_bins=self._last - self._first, first=self._first)
        hidden = self._states(prefix, tokens.flatten(1))
        log_probs = self._log_probs(hidden)
        return EvaluateOutput(
            log_prob=_pick(log_probs, tokens.flatten(1) - self._first).view(tokens.shape),
            entropy=-(log_probs.exp() * log_probs).sum(-1).view(tokens.shape),
            value=self._value(hidden),
        )

    def imitation_loss(
        self, batch: ImitationBatch, *, reduction: Literal["none", "mean"] = "none"
    ) -> Tensor:
        """Return the cross entropy of the demonstrated actions' tokens at temperature 1.

        Actions outside the statistics' range are clipped to it, as in the published training.

        Args:
            batch: An observation with ``action`` ``(n, k, a)`` and ``action_is_pad`` ``(n, k)``.
            reduction: ``none`` gives the mean over each sample's own tokens ``(n,)``, in nats;
                ``mean`` the mean over all tokens of the batch.

        Raises:
            ValueError: If a key is missing, the chunk length is another or an action is not finite.
        """
        action, mask = self._demonstrations(batch)
        config = self.network.config
        tokens = encode_action_tokens(
            action, vocab_size=config.vocab_size, num_bins=config.num_bins
        )
        hidden = self._states(self._prefix(self.read(batch)), tokens.flatten(1))
        log_probs = self._log_probs(hidden, temperature=1.0)
        loss = -_pick(log_probs, tokens.flatten(1) - self._first).view(tokens.shape)
        return imitation_mean(loss, mask, reduction=reduction)

    def _states(
        self, prefix: Prefix, tokens: Int[Tensor, "n tokens"] | None
    ) -> Float[Tensor, "n tokens d"]:
        if self.decoding == "parallel" or tokens is None:
            count = self.chunk * self.action_dim
            return self.network.read_parallel(prefix, count, stop_token=self.stop_token)
        return self.network.read_causal(prefix, tokens)

    def _generate(
        self, prefix: Prefix, generator: Generator | None, *, deterministic: bool
    ) -> tuple[Int[Tensor, "n tokens"], Float[Tensor, "n tokens"], Float[Tensor, " n"]]:
        """Return tokens, drawn one after the other, their log-probabilities and the value."""
        hidden, cache = self.network.start(prefix)
        value = self._value(hidden[:, None])
        indices: list[Tensor] = []
        chosen: list[Tensor] = []
        for position in range(self.chunk * self.action_dim):
            if position:
                hidden = self.network.step(indices[-1] + self._first, prefix, cache)
            log_probs = self._log_probs(hidden)
            indices.append(_choose(log_probs, generator, deterministic=deterministic))
            chosen.append(_pick(log_probs, indices[-1]))
        return torch.stack(indices, dim=1), torch.stack(chosen, dim=1), value

    def _log_probs(
        self, hidden: Float[Tensor, "*b d"], *, temperature: float | None = None
    ) -> Float[Tensor, "*b support"]:
        logits = self.network.logits(hidden)[..., self._first : self._last]
        return (logits / (temperature or self.temperature)).log_softmax(-1)

    def _value(self, hidden: Float[Tensor, "n tokens d"]) -> Float[Tensor, " n"]:
        with torch.autocast(hidden.device.type, enabled=False):  # critics are float32
            value: Tensor = self.value_head(hidden[:, 0].detach().float())[:, 0]
        return value

    def _decode(self, tokens: Int[Tensor, "n k a"]) -> Float[Tensor, "n k a"]:
        config = self.network.config
        return decode_action_tokens(tokens, vocab_size=config.vocab_size, num_bins=config.num_bins)


def _choose(
    log_probs: Float[Tensor, "*b support"], generator: Generator | None, *, deterministic: bool
) -> Int[Tensor, "*b"]:
    if deterministic:
        return log_probs.argmax(-1)
    # Gumbel maximum. Drawn where the generator lives: seeds then mean the same on every device.
    device = log_probs.device if generator is None else generator.device
    noise = torch.empty(log_probs.shape, device=device).exponential_(generator=generator)
    return (log_probs - noise.log().to(log_probs.device)).argmax(-1)


def _pick(log_probs: Float[Tensor, "*b support"], index: Int[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    return log_probs.gather(-1, index[..., None])[..., 0]
