"""`BaseConceptModel`: what a concept method is. Whoever writes a method reads this file."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..hosts import hooks
from ..hub.provenance import public_name
from .configuration_concepts import ConceptConfig
from .projections import orthonormal_rows


class BaseConceptModel(PreTrainedModel):
    """What a concept method is: it turns hidden states into one concept (code) per token.

    A method subclasses [`ConceptModel`][clvq_hf.ConceptModel], which adds what one does with it. It implements
    [`encode`][clvq_hf.ConceptModel.encode], [`is_initialized`][clvq_hf.ConceptModel.is_initialized] and
    [`codebook`][clvq_hf.ConceptModel.codebook]; if its concepts are not vectors of the lower layer,
    [`directions`][clvq_hf.ConceptModel.directions] and [`ablation_basis`][clvq_hf.ConceptModel.ablation_basis] too; if
    it centres the states, [`projection_centre`][clvq_hf.ConceptModel.projection_centre]; and if it assigns codes in a
    space of its own, [`distances`][clvq_hf.ConceptModel.distances].
    Its config names the host layers (`lower_layer`, `upper_layer`, `stack`), their widths (`hidden_size`,
    `target_hidden_size`), and what to call the method. `.github/CONTRIBUTING.md` has a complete example.

    Its concepts come from a `fit`, or from [`CLVQTrainer`][clvq_hf.CLVQTrainer]. The latter needs a `forward` with the
    arguments of [`CLVQModel.forward`][clvq_hf.CLVQModel.forward], whose output holds `loss`, `codes` and the figures of
    `loss_names`; and, if the method needs them, `initialize_codebook`, `update_codebook` and `discard_pending`.
    """

    main_input_name = "hidden_states"
    base_model_prefix = ""
    # The Trainer passes the number of tokens of the whole optimizer step to forward.
    accepts_loss_kwargs = True
    # Beginnings of the names of tensors that no code depends on.
    _not_in_fingerprint: tuple[str, ...] = ()
    # Beginnings of the names of tensors in which infinity means something.
    _may_be_infinite: tuple[str, ...] = ()
    # Fields of the config that codes depend on, besides layers and weights.
    _in_fingerprint: tuple[str, ...] = ()
    # Fields of an output besides its loss, each a mean over the tokens that count. Empty: the method has no gradients,
    # and is fitted by `fit` instead of a trainer.
    loss_names: tuple[str, ...] = ()
    # Whether the vectors of `codebook` are states, which can be subtracted from another state (`how="swap"`).
    codes_are_states: bool = True
    # Whether several concepts are active on a token, which `num_active` counts.
    is_sparse: bool = False
    # Bases that `ablation_basis` can give; the first is the default.
    ablation_variants: tuple[str, ...] = ("codebook",)
    # Those of them that choose concepts by the gradient of the prediction.
    gradient_variants: tuple[str, ...] = ()

    def encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Assign a concept to each token.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, d)`): Host states at `lower_layer`, any float dtype.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Nonzero on real tokens; all real if absent.

        Returns:
            `torch.Tensor` of shape `(B, S)`, int64: Codes in `[0, K)`, `-1` on padding.
        """
        raise NotImplementedError  # abstract

    @torch.no_grad()
    def nearest(self, hidden_states: torch.Tensor, k: int = 1) -> torch.Tensor:
        """The strongest concepts of each token: its code, then those whose vectors in `codebook` are nearest.

        Args:
            hidden_states (`torch.Tensor` of shape `(N, d)`): Host states at `lower_layer`, any float dtype.
            k (`int`): How many.

        Returns:
            `torch.Tensor` of shape `(N, k)`, int64: Codes, strongest first.
        """
        codes = self.encode(hidden_states[None])[0][:, None]
        if k == 1:
            return codes
        distances = torch.cdist(hidden_states.float(), self.codebook).scatter(-1, codes, -1.0)
        return distances.topk(k, dim=-1, largest=False).indices

    @torch.no_grad()
    def distances(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """How far the state of each token is from its code, in the space in which the method assigns codes.

        Here `‖x - e‖ / ‖x‖`, where `e` is the code's vector in `codebook`. Methods that assign codes elsewhere override
        it: CLVQ-VAE gives `‖z - e‖` of the encoder's state, clusters give `‖x - e‖`, sparse dictionaries one minus the
        cosine between the centred state and the neuron's encoder row. Only distances of one model can be compared;
        [`distance_quantiles`][clvq_hf.ConceptModel.distance_quantiles] says which are usual.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, d)`): Host states at `lower_layer`, any float dtype.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Nonzero on real tokens; all real if absent.
            codes (`torch.Tensor` of shape `(B, S)`, int64, *optional*): The distances to these codes are computed;
                those of `encode` if not given. -1 on padding.

        Returns:
            `torch.Tensor` of shape `(B, S)`, float32, or `None`: NaN on padding. `None` if the method's codes are not
            states and it does not say how far a state is from them.
        """
        if not self.codes_are_states:
            return None
        codes = self._codes_of(hidden_states, attention_mask, codes)
        lengths = hidden_states.float().norm(dim=-1).clamp(min=1e-12)
        return distances_to_vectors(hidden_states, self.codebook, codes) / lengths

    @property
    def removed_vectors(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(K, d)`, float32: vectors whose directions are removed if a concept is ablated."""
        return self.codebook

    @torch.no_grad()
    def ablation_basis(
        self,
        hidden_states: torch.Tensor,
        k: int = 1,
        variant: str | None = None,
        gradients: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Directions to remove from the host if the concepts of these tokens are to be ablated.

        Args:
            hidden_states (`torch.Tensor` of shape `(N, d)`): Host states at `lower_layer`.
            k (`int`): How many directions: those of each token's `k` strongest concepts.
            variant (`str`, *optional*): One of `ablation_variants`; the first if not given.
            gradients (`torch.Tensor` of shape `(N, d)`, *optional*): Of the prediction's margin at `lower_layer`, for
                variants that choose concepts by it.

        Returns:
            `torch.Tensor` of shape `(N, k, d)`, float32: `k` orthonormal rows for each token.
        """
        self._check_variant(variant)
        self._check_width("hidden_states", hidden_states[None], self.config.hidden_size)
        return orthonormal_rows(self.removed_vectors[self.nearest(hidden_states, k)])

    def needs_gradients(self, variant: str | None) -> bool:
        """Whether an ablation variant chooses concepts by the gradient of the prediction's margin."""
        return self._check_variant(variant) in self.gradient_variants

    def directions(self, codes: torch.Tensor) -> torch.Tensor:
        """Unit directions of concepts, the ones that are removed if these codes are ablated.

        Args:
            codes (`torch.Tensor` of shape `(N,)`, int64): In `[0, K)`.

        Returns:
            `torch.Tensor` of shape `(N, 1, d)`, float32.
        """
        return F.normalize(self.removed_vectors[codes], dim=-1)[:, None]

    def reconstruct(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Estimate the states of `upper_layer` from the concepts, in evaluation mode.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, d)`): Host states at `lower_layer`.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Nonzero on real tokens; all if absent.
            codes (`torch.Tensor` of shape `(B, S)`, int64, *optional*): In place of the codes of `hidden_states`.

        Returns:
            `torch.Tensor` of shape `(B, S, d')`.
        """
        raise NotImplementedError  # abstract

    @property
    def codebook(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(K, d)`, float32: one vector per concept, in the space of `lower_layer`."""
        raise NotImplementedError  # abstract

    @property
    def mean_state(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(d,)`, float32: the mean of the states that the concepts were fitted to.

        The mean of the codebook, weighted by use where a method counts it.
        """
        return self.codebook.mean(0)

    @property
    def member_means(self) -> torch.Tensor | None:
        """`torch.Tensor` of shape `(K, d)`, float32: mean host state of each concept's tokens, `None` if not known."""
        return None

    @property
    def projection_centre(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(d,)`, float32: what is subtracted from states before they are encoded.

        Zero, unless a method centres them.

        Concepts are directions from there, so a projection removes them from there: `x ← x - QᵀQ(x - c)`. From zero it
        would also remove what the centre has in these directions, which all tokens share and no concept says.
        """
        return torch.zeros(self.config.hidden_size, device=self.device)

    @property
    def is_initialized(self) -> bool:
        """Whether the concepts were fitted to data; codes of a fresh model mean nothing."""
        raise NotImplementedError  # abstract

    def num_active(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """`torch.Tensor` of shape `(B, S)`, int64: concepts that are active on each token (`L0`), 0 on padding.

        One for methods that give each token one code; sparse methods count.
        """
        return self._mask("attention_mask", attention_mask, hidden_states).long()

    def fit(self, cache: Any, *, seed: int = 0, **settings: Any) -> Any:
        """Find the concepts in states of training texts, for methods without gradients.

        Args:
            cache ([`ActivationCache`][clvq_hf.ActivationCache]): States at the layers of the config.
            seed (`int`): Seed of every choice.
            **settings: What the method's own `fit` takes besides.
        """
        raise NotImplementedError  # abstract for methods that are not trained

    @property
    def starts_from(self) -> tuple[str, ...]:
        """`tuple` of `str`: the arguments of `initialize_codebook` that the method needs, besides the seed.

        Of `hidden_states`, `target_hidden_states`, `input_ids` (of the same tokens) and `sensitivity` (of their host,
        see [`upper_sensitivity`][clvq_hf.data.upper_sensitivity]).
        """
        return ("hidden_states", "target_hidden_states")

    def initialize_codebook(
        self, hidden_states: torch.Tensor, target_hidden_states: torch.Tensor | None = None, seed: int = 0
    ) -> None:
        """Start from a sample of host states, before the first step of training.

        Args:
            hidden_states (`torch.Tensor` of shape `(N, d)`): States of real tokens at `lower_layer`.
            target_hidden_states (`torch.Tensor` of shape `(N, d')`, *optional*): Those of the same tokens at
                `upper_layer`.
            seed (`int`): Seed of every choice.
        """
        raise NotImplementedError  # abstract for methods that are trained

    def update_codebook(self) -> int:
        """What has to be done after each `optimizer.step()`.

        Returns:
            `int`: Number of concepts that were revived.
        """
        return 0

    def discard_pending(self) -> None:
        """Forget what forwards have left for an update that never came, as of a run that was broken off."""

    def fingerprint(self) -> str:
        """64 hexadecimal digits of what decides the codes: layers and weights, but not those of the decoder."""
        return self.fingerprint_of(self.config, self.state_dict())

    def fingerprint_of(self, config: ConceptConfig, tensors: Mapping[str, torch.Tensor]) -> str:
        """The [`fingerprint`][clvq_hf.ConceptModel.fingerprint] of a config and weights of this class."""
        decisive = [config.model_type, config.lower_layer, config.upper_layer, config.stack]
        # Of settings only what is not the default, so that a new one does not change the fingerprints of old models.
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        settings = {name: getattr(config, name) for name in self._in_fingerprint}
        decisive += [[name, value] for name, value in settings.items() if value != defaults[name]]
        digest = hashlib.sha256(json.dumps(decisive).encode())
        for name, tensor in sorted(tensors.items()):
            if not name.startswith(self._not_in_fingerprint):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().to(torch.float64).contiguous().numpy().tobytes())
        return digest.hexdigest()

    def facts(self) -> list[tuple[str, str]]:
        """Name and value of what describes the model: method, host, layers, size, and whether it is fitted."""
        config = self.config
        return [
            ("Method", config.title),
            ("Host", public_name(config.host_name_or_path) or "not recorded"),
            ("Layers", config.layers_text),
            ("Concepts", f"{config.codebook_size:,} of {config.hidden_size:,} dimensions"),
            ("Decoder", "yes" if config.has_decoder else "no: it encodes, attaches and ablates"),
            ("Fitted", "yes" if self.is_initialized else "no: its codes mean nothing yet"),
        ]

    @property
    def device(self) -> torch.device:
        """`torch.device`: of the first parameter or buffer; methods without parameters live in buffers alone."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """`torch.dtype`: of the first floating-point parameter or buffer."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next(tensor.dtype for tensor in tensors if tensor.is_floating_point())

    def check_host(self, host: Any) -> None:
        """Raise `ValueError` unless `host` has the layers of the config, with the config's widths."""
        config = self.config
        if config.lower_layer is None or config.upper_layer is None:
            raise ValueError(
                "The config names no host layers. Set lower_layer and upper_layer, or build it with "
                f"{type(config).__name__}.from_host(host, lower_layer=…, upper_layer=…)."
            )
        stream = hooks.residual_stream(host, config.stack)
        for field, layer, width in (
            ("hidden_size", config.lower_layer, config.hidden_size),
            ("target_hidden_size", config.upper_layer, config.target_hidden_size),
        ):
            stream.check_layer(layer)
            if stream.hidden_sizes[layer] != width:
                raise ValueError(
                    f"{field}={width} in the config, but layer {layer} of the host ({type(host).__name__}) is "
                    f"{stream.hidden_sizes[layer]} wide. Is it another host than the one it was trained on "
                    f"({config.host_name_or_path})? Build the config with {type(config).__name__}.from_host(host, …)."
                )

    def _check_decoder(self) -> None:
        if not self.config.has_decoder:
            raise ValueError(
                "This is a codebook without its decoder: it encodes, attaches and ablates, but nothing can be "
                "reconstructed, spliced or trained. Load the whole model."
            )

    def _check_variant(self, variant: str | None) -> str:
        if variant is not None and variant not in self.ablation_variants:
            raise ValueError(
                f"{type(self).__name__} has no ablation variant {variant!r}; it has {self.ablation_variants}."
            )
        return variant or self.ablation_variants[0]

    def _real_tokens(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """`(B, S)` bool: which tokens are no padding; refuses states that are not `(B, S, d)`."""
        self._check_width("hidden_states", hidden_states, self.config.hidden_size)
        return self._mask("attention_mask", attention_mask, hidden_states)

    def _codes_of(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, codes: torch.Tensor | None
    ) -> torch.Tensor:
        """`(B, S)` int64: the codes that were given, -1 on padding, or those of the states."""
        mask = self._real_tokens(hidden_states, attention_mask)
        if codes is None:
            return self.encode(hidden_states, attention_mask)
        check_batch("codes", codes, hidden_states)
        return codes.masked_fill(~mask, -1)

    def _check_target(self, target_hidden_states: torch.Tensor, hidden_states: torch.Tensor) -> None:
        self._check_decoder()
        self._check_width("target_hidden_states", target_hidden_states, self.config.target_hidden_size)
        check_batch("target_hidden_states", target_hidden_states, hidden_states)

    @staticmethod
    def _mask(name: str, mask: torch.Tensor | None, hidden_states: torch.Tensor) -> torch.Tensor:
        if mask is None:
            return torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
        check_batch(name, mask, hidden_states)
        return mask.bool()

    @staticmethod
    def _check_width(name: str, states: torch.Tensor, width: int) -> None:
        if states.ndim != 3 or states.shape[-1] != width:
            raise ValueError(f"{name} must have the shape (batch, sequence, {width}), got {tuple(states.shape)}.")


def check_batch(name: str, tensor: torch.Tensor, hidden_states: torch.Tensor) -> None:
    """Refuse a tensor of other texts: a batch of one would be broadcast, and the loss be of what was never meant."""
    if tensor.shape[:2] != hidden_states.shape[:2]:
        raise ValueError(
            f"{name} has the shape {tuple(tensor.shape)}, hidden_states {tuple(hidden_states.shape)}: the first two "
            "sizes must agree."
        )


def distances_to_vectors(states: torch.Tensor, vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Euclidean distance `(B, S)`, float32, of states `(B, S, d)` to the vectors `(K, d)` of codes; NaN where -1."""
    # Of the differences, not of products: states share a large mean, in whose squares the distances would drown.
    distances = (states.float() - F.embedding(codes.clamp(min=0), vectors.float())).norm(dim=-1)
    return distances.masked_fill(codes < 0, torch.nan)


def masked_mse(
    estimate: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    tokens: torch.Tensor | int,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Squared error summed over the tokens of `mask`, divided by `tokens` and the width, in float32.

    In the units `scale` `(d',)` of each dimension, if they are given.
    """
    difference = torch.where(mask[..., None], estimate.float() - target.float(), 0)
    if scale is not None:
        difference = difference / scale.float()
    return difference.square().sum() / (tokens * target.shape[-1])


__all__ = ["BaseConceptModel", "check_batch", "distances_to_vectors", "masked_mse"]
