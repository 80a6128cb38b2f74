"""Sparse dictionaries as concepts: sparse autoencoders (one layer) and transcoders (two).

A token's concept is its most active neuron: the one that adds the longest vector to the output. Sources: the sparse
autoencoder of Bricken et al. (2023, "Towards Monosemanticity"), TopK of Gao et al. (arXiv 2406.04093), transcoders and
their scaling of Llama Scope (arXiv 2410.20526).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_sparse import SparseConfig
from .modeling_concepts import ConceptModel
from .projections import orthonormal_rows
from .quantizer import Float32Module, from_first_process, is_distributed

# Length of an encoder row at the start; with rows of length one the first reconstruction would be far too long.
INITIAL_NORM = 0.1
# Length of a revived encoder row, of the mean of the others, as in Bricken et al.
REVIVED_NORM = 0.2


@dataclass
class SparseOutput(ModelOutput):
    """What [`SparseDictionary`] returns.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*): Squared error of the reconstruction in scaled states, per token
            and dimension, plus `λ·sparsity_loss`; only with a target.
        reconstruction_loss (`torch.Tensor` of shape `()`, *optional*): Mean squared error of the reconstruction, per
            token and dimension, in the states' own scale; only with a target.
        sparsity_loss (`torch.Tensor` of shape `()`, *optional*): Sum of a token's activations divided by `√d'`, mean
            over tokens: scaled states are `√d'` long, so it does not grow with the width.
        num_active (`torch.Tensor` of shape `()`, *optional*): Active neurons a token, `L0`.
        reconstruction (`torch.Tensor` of shape `(B, S, d')`): Estimate of the states at `upper_layer`; zero on padding.
        codes (`torch.Tensor` of shape `(B, S)`, int64): Most active neuron of each token, `-1` on padding.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    sparsity_loss: torch.Tensor | None = None
    num_active: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    codes: torch.Tensor | None = None


class SparseEncoder(Float32Module):
    """`f = act(W(s·x - b_in) + b)`: states of `lower_layer` → activations of `K` neurons."""

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.activation, self.num_active = config.activation, config.num_active
        size = config.codebook_size
        self.weight = nn.Parameter(torch.empty(size, config.hidden_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(size, dtype=torch.float32))
        self.register_buffer("input_bias", torch.zeros(config.hidden_size, dtype=torch.float32))
        self.register_buffer("input_scale", torch.ones((), dtype=torch.float32))
        if config.activation == "jumprelu":
            self.register_buffer("threshold", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("row_lengths", torch.ones(size, dtype=torch.float32) if config.has_row_lengths else None)
        self.register_buffer("steps_since_use", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("initialized", torch.tensor(False))

    def centred(self, states: torch.Tensor) -> torch.Tensor:
        """`s·x - b_in`, float32."""
        return states.float() * self.input_scale - self.input_bias

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Pre-activations `(…, K)` of states `(…, d)`."""
        with self.full_precision(states.device):
            return F.linear(self.centred(states), self.weight, self.bias)

    def activate(self, scores: torch.Tensor) -> torch.Tensor:
        """Activations of pre-activations, both `(…, K)`."""
        if self.activation == "topk":
            strongest, neurons = scores.topk(self.num_active, dim=-1)
            return torch.zeros_like(scores).scatter(-1, neurons, strongest.relu())
        if self.activation == "jumprelu":
            return scores.relu() * (scores > self.threshold)
        return scores.relu()

    def in_output_units(self, values: torch.Tensor) -> torch.Tensor:
        """Values `(…, K)` of neurons, multiplied by the lengths of their decoder rows.

        A neuron that is ten times as active with a row a tenth as long is the same neuron.
        """
        return values if self.row_lengths is None else values * self.row_lengths

    def codes(self, scores: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """`(N,)`: the most active neuron; where none is active, the one that comes nearest to it."""
        strength = self.in_output_units(activations)
        silent = strength.amax(-1, keepdim=True) <= 0
        missing = self.in_output_units(scores - self.threshold if self.activation == "jumprelu" else scores)
        if self.row_lengths is not None:  # a neuron without a decoder row is never any token's
            missing = missing.masked_fill(self.row_lengths == 0, -torch.inf)
        return torch.where(silent, missing, strength).argmax(-1)


class SparseDecoder(Float32Module):
    """`ŷ = (fD + b_dec + S(s·x)) / s'`: activations → estimate of the states at `upper_layer`."""

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.codebook_size, config.target_hidden_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(config.target_hidden_size, dtype=torch.float32))
        self.skip = None
        if config.has_skip:
            self.skip = nn.Parameter(torch.zeros(config.target_hidden_size, config.hidden_size, dtype=torch.float32))
        self.register_buffer("output_scale", torch.ones((), dtype=torch.float32))

    def forward(self, activations: torch.Tensor, scaled_states: torch.Tensor) -> torch.Tensor:
        """`s'·ŷ` `(…, d')` of activations `(…, K)` and scaled states `(…, d)`."""
        with self.full_precision(activations.device):
            output = activations @ self.weight + self.bias
            return output if self.skip is None else output + F.linear(scaled_states, self.skip)


class SparseDictionary(ConceptModel):
    """Sparse autoencoder or transcoder: each neuron is a concept, the most active one is the token's.

    Decoder rows have length one, after each step of training; the input is centred on the data's mean, where the
    decoder's bias starts too. Ablation removes the span of the *encoder* rows of a token's most active neurons.

    Args:
        config ([`SparseConfig`]): Activation, number of neurons and host layers.
    """

    config_class = SparseConfig
    loss_names = ("reconstruction_loss", "sparsity_loss", "num_active")
    codes_are_states = False
    ablation_variants = ("encoder", "decoder", "encoder_by_gradient", "decoder_by_gradient")
    gradient_variants = ("encoder_by_gradient", "decoder_by_gradient")
    is_sparse = True
    _keep_in_fp32_modules_strict = ["encoder", "decoder"]
    _not_in_fingerprint = ("decoder.", "encoder.steps_since_use")
    _in_fingerprint = ("activation", "num_active")

    def __init__(self, config: SparseConfig) -> None:
        super().__init__(config)
        self.encoder = SparseEncoder(config)
        self.decoder = SparseDecoder(config) if config.has_decoder else None
        # Of the optimizer step under way: neurons that fired, and states and errors of the last batch.
        self._fired: torch.Tensor | None = None
        self._recent: tuple[torch.Tensor, torch.Tensor] | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SparseEncoder):
            init.normal_(module.weight, std=INITIAL_NORM / math.sqrt(self.config.hidden_size))
            init.zeros_(module.bias)
            init.zeros_(module.input_bias)
            init.ones_(module.input_scale)
            init.zeros_(module.steps_since_use)
            init.zeros_(module.initialized)
            if module.activation == "jumprelu":
                init.zeros_(module.threshold)
            if module.row_lengths is not None:
                init.ones_(module.row_lengths)
        elif isinstance(module, SparseDecoder):
            init.normal_(module.weight, std=1 / math.sqrt(self.config.target_hidden_size))
            init.zeros_(module.bias)
            init.ones_(module.output_scale)
            if module.skip is not None:
                init.zeros_(module.skip)

    @property
    def codebook(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(K, d)`: the encoder rows, which live in the space of `lower_layer`.

        Each is as long as it would be if its decoder row had the length one.
        """
        return self.encoder.in_output_units(self.encoder.weight.T).T

    @property
    def mean_state(self) -> torch.Tensor:
        return self.encoder.input_bias / self.encoder.input_scale

    @property
    def projection_centre(self) -> torch.Tensor:
        """See [`ConceptModel.projection_centre`][clvq_hf.ConceptModel.projection_centre].

        Where `s·x - b_in` is zero: the data's mean, or the decoder's bias of a published dictionary that subtracts it.
        """
        return self.mean_state

    @property
    def is_initialized(self) -> bool:
        return bool(self.encoder.initialized)

    # ------------------------------------------------------------------------------------------------------- training

    @torch.no_grad()
    def initialize_codebook(
        self, hidden_states: torch.Tensor, target_hidden_states: torch.Tensor | None = None, seed: int = 0
    ) -> None:
        """Set centring, scales and the decoder's bias from a sample; neurons start in the directions of its tokens.

        See [`ConceptModel.initialize_codebook`][clvq_hf.ConceptModel.initialize_codebook]; the target is needed.

        Raises:
            ValueError: If a state is not finite, or all are the same.
        """
        self._check_width("hidden_states", hidden_states[None], self.config.hidden_size)
        self._check_width("target_hidden_states", target_hidden_states[None], self.config.target_hidden_size)
        encoder, decoder = self.encoder, self.decoder
        sides = []
        for states in (hidden_states, target_hidden_states):
            states = states.to(self.device, torch.float32)
            mean = states.mean(0)
            norm = (states - mean).square().sum(-1).mean().sqrt()
            if not (torch.isfinite(norm) & (norm > 0)):
                raise ValueError("The sample of states contains NaN or Inf, or all of its states are the same.")
            scale = math.sqrt(states.shape[1]) / norm if self.config.scale_states else torch.ones_like(norm)
            sides.append((states, mean, scale))
        (lower, lower_mean, lower_scale), (upper, upper_mean, upper_scale) = sides
        encoder.input_scale.copy_(lower_scale)
        encoder.input_bias.copy_(lower_scale * lower_mean)
        decoder.output_scale.copy_(upper_scale)
        decoder.bias.copy_(upper_scale * upper_mean)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(lower), generator=generator)
        # Where neurons outnumber tokens, directions repeat; training tells them apart by a little noise.
        chosen = chosen[torch.arange(self.config.codebook_size) % len(lower)].to(lower.device)
        noise = torch.randn(encoder.weight.shape, generator=generator).to(lower.device)
        directions = F.normalize(lower[chosen] - lower_mean, dim=-1) + INITIAL_NORM * F.normalize(noise, dim=-1)
        encoder.weight.copy_(INITIAL_NORM * F.normalize(directions, dim=-1))
        encoder.bias.zero_()
        decoder.weight.copy_(F.normalize(upper[chosen] - upper_mean, dim=-1))
        encoder.initialized.fill_(True)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        target_hidden_states: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> SparseOutput:
        """Encode the states of `lower_layer` and reconstruct those of `upper_layer`.

        Arguments, shapes and errors are those of [`CLVQModel.forward`][clvq_hf.CLVQModel.forward].

        Returns:
            [`SparseOutput`]: losses, reconstruction and codes.
        """
        mask = self._real_tokens(hidden_states, attention_mask)
        counted = (mask & self._mask("token_mask", token_mask, hidden_states))[mask]
        # Real tokens alone: with thousands of neurons, padding is what there is to save.
        states = hidden_states[mask]
        scores = self.encoder.scores(states)
        activations = self.encoder.activate(scores)
        output = SparseOutput(codes=_unpacked(self.encoder.codes(scores, activations), mask, -1))
        if target_hidden_states is not None:
            self._check_target(target_hidden_states, hidden_states)
        if self.decoder is None:
            return output
        scaled = self.decoder(activations, states.float() * self.encoder.input_scale)
        output.reconstruction = _unpacked(scaled / self.decoder.output_scale, mask, 0)
        if target_hidden_states is None:
            return output
        tokens = counted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        error = scaled - target_hidden_states[mask].float() * self.decoder.output_scale
        scaled_loss = error[counted].square().sum() / (tokens * error.shape[-1])
        output.reconstruction_loss = scaled_loss / self.decoder.output_scale**2
        output.sparsity_loss = activations[counted].sum() / (tokens * math.sqrt(error.shape[-1]))
        output.num_active = (activations[counted] > 0).sum() / tokens
        output.loss = scaled_loss + self.config.sparsity_cost * output.sparsity_loss
        if self.training and self.config.revive_after is not None:
            fired = (activations[counted] > 0).any(0)
            self._fired = fired if self._fired is None else self._fired | fired
            recent = states[counted]
            if len(recent) or self._recent is None:  # a batch without a token that counts leaves nothing to start on
                self._recent = (self.encoder.centred(recent).detach(), -error[counted].detach())
        return output

    @torch.no_grad()
    def update_codebook(self) -> int:
        """Give decoder rows length one again, and revive neurons that have not fired; once after each optimizer step.

        Returns:
            `int`: Number of neurons that were revived (0 unless `config.revive_after` is set).
        """
        # In place, as the optimizer's own step.
        self.decoder.weight.div_(self.decoder.weight.norm(dim=-1, keepdim=True).clamp(min=1e-8))
        if self.encoder.row_lengths is not None:
            self.encoder.row_lengths.fill_(1)
        if self._fired is None:
            return 0
        fired, self._fired = self._fired.to(torch.int64), None
        if is_distributed():
            torch.distributed.all_reduce(fired)
        self.encoder.steps_since_use.add_(1).masked_fill_(fired > 0, 0)
        return self._revive()

    def discard_pending(self) -> None:
        self._fired = self._recent = None

    def _revive(self) -> int:
        encoder = self.encoder
        dead = (encoder.steps_since_use >= self.config.revive_after).nonzero().flatten()
        (states, errors), self._recent = self._recent, None
        if len(dead) == 0:
            return 0
        # The first process chooses for all, among its own tokens, the worst reconstructed ones most often.
        if from_first_process(torch.tensor(len(states), device=dead.device)) == 0:
            return 0
        rows = torch.zeros(len(dead), states.shape[1] + errors.shape[1], device=states.device)
        if not is_distributed() or torch.distributed.get_rank() == 0:
            chosen = errors.square().sum(-1).clamp(min=1e-12).multinomial(len(dead), replacement=True)
            rows = torch.cat([F.normalize(states[chosen], dim=-1), F.normalize(errors[chosen], dim=-1)], dim=-1)
        rows = from_first_process(rows)
        alive = encoder.steps_since_use < self.config.revive_after
        length = encoder.weight[alive].norm(dim=-1).mean() if alive.any() else torch.tensor(INITIAL_NORM)
        encoder.weight[dead] = REVIVED_NORM * length * rows[:, : states.shape[1]]
        encoder.bias[dead] = 0.0
        self.decoder.weight[dead] = rows[:, states.shape[1] :]
        encoder.steps_since_use[dead] = 0
        return len(dead)

    # ------------------------------------------------------------------------------------------------------- concepts

    @torch.no_grad()
    def encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = self._real_tokens(hidden_states, attention_mask)
        scores = self.encoder.scores(hidden_states[mask])
        return _unpacked(self.encoder.codes(scores, self.encoder.activate(scores)), mask, -1)

    @torch.no_grad()
    def activations(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Activations `(…, K)` of all neurons, float32, of host states `(…, d)` at `lower_layer`."""
        return self.encoder.activate(self.encoder.scores(hidden_states))

    @torch.no_grad()
    def distances(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See [`ConceptModel.distances`][clvq_hf.ConceptModel.distances].

        One minus the cosine between the centred state `s·x - b_in` and the encoder row of the token's code: about 1 if
        the neuron finds nothing in the state, as where none is active. It needs neither a decoder nor the target.
        """
        codes = self._codes_of(hidden_states, attention_mask, codes)
        cosines = F.cosine_similarity(
            self.encoder.centred(hidden_states), F.embedding(codes.clamp(min=0), self.encoder.weight), dim=-1
        )
        return (1 - cosines).masked_fill(codes < 0, torch.nan)

    @torch.no_grad()
    def num_active(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = self._mask("attention_mask", attention_mask, hidden_states)
        return _unpacked((self.activations(hidden_states[mask]) > 0).sum(-1), mask, 0)

    @torch.no_grad()
    def ablation_basis(
        self,
        hidden_states: torch.Tensor,
        k: int = 1,
        variant: str | None = None,
        gradients: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Orthonormalised rows of each token's `k` strongest neurons, `(N, k, d)`.

        Rows of the encoder (the paper's) or of the decoder, which lives at `upper_layer`; strongest by activation `f`
        (in units in which decoder rows have the length one), or `by_gradient`: by `f·(row·∇)`, how much the activation
        in the direction of the row speaks for the prediction.
        A neuron that is not active is no concept of the token and gives a row of zeros, unless it is the token's code.

        See [`ConceptModel.ablation_basis`][clvq_hf.ConceptModel.ablation_basis].

        Raises:
            ValueError: If decoder rows are asked for and there are none, or they are of another width.
        """
        variant = self._check_variant(variant)
        self._check_width("hidden_states", hidden_states[None], self.config.hidden_size)
        rows, _, by_gradient = variant.partition("_by_")
        scores = self.encoder.scores(hidden_states)
        activations = self.encoder.activate(scores)
        codes = self.encoder.codes(scores, activations)
        if rows == "decoder":
            self._check_decoder()
        if rows == "decoder" and self.config.target_hidden_size != self.config.hidden_size:
            raise ValueError(
                f"Decoder rows are {self.config.target_hidden_size} wide, states of lower_layer "
                f"{self.config.hidden_size}: only encoder rows can be removed from these."
            )
        activations = self.encoder.in_output_units(activations)
        weight = self.codebook if rows == "encoder" else self._unit_rows()
        if by_gradient:
            if gradients is None:
                raise ValueError(f"The variant {variant!r} needs gradients.")
            strength = activations * (gradients.to(activations) @ weight.T)
        else:
            strength = torch.where(activations > 0, activations, -torch.inf)
            # Its code, also where no neuron is active.
            strength.scatter_(-1, codes[:, None], torch.inf)
        strength, neurons = strength.topk(k, dim=-1)
        return orthonormal_rows(torch.where((strength > 0)[..., None], weight[neurons], 0))

    @torch.no_grad()
    def reconstruct(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See [`ConceptModel.reconstruct`][clvq_hf.ConceptModel.reconstruct].

        With `codes`, each token has the one neuron of its code, with the activation of its own strongest one.
        """
        self._check_decoder()
        mask = self._real_tokens(hidden_states, attention_mask)
        states = hidden_states[mask]
        activations = self.activations(states)
        if codes is not None:
            strongest, chosen = self.encoder.in_output_units(activations).amax(-1, keepdim=True), codes[mask][:, None]
            if (lengths := self.encoder.row_lengths) is not None:
                strongest = strongest / lengths[chosen].clamp(min=1e-8)
            activations = torch.zeros_like(activations).scatter(-1, chosen, strongest)
        scaled = self.decoder(activations, states.float() * self.encoder.input_scale)
        return _unpacked(scaled / self.decoder.output_scale, mask, 0)

    def _unit_rows(self) -> torch.Tensor:
        """Decoder rows `(K, d')`, of which only those of published dictionaries may have other lengths than one."""
        lengths = self.encoder.row_lengths
        return self.decoder.weight if lengths is None else self.decoder.weight / lengths[:, None].clamp(min=1e-8)


def _unpacked(values: torch.Tensor, mask: torch.Tensor, fill: int) -> torch.Tensor:
    """Values of the real tokens `(N, …)` → `(B, S, …)`, `fill` on padding."""
    full = values.new_full((*mask.shape, *values.shape[1:]), fill)
    return full.masked_scatter(mask.reshape(*mask.shape, *[1] * (values.ndim - 1)), values)


__all__ = ["SparseDictionary", "SparseOutput"]
