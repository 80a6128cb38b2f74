"""`ConceptModel`: what every concept method of this library offers, whatever it is made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..hosts import hooks
from ..hosts.host import load_host
from .interventions import Splice, ablate, steer
from .modeling_pretrained import PreTrainedConceptModel
from .tap import Tap

if TYPE_CHECKING:
    from datasets import Dataset

    from ..tables.concept_table import ConceptTable

logger = logging.get_logger(__name__)

# End of the names of ablation variants that choose concepts by the gradient of the prediction.
BY_GRADIENT = "_by_gradient"


class ConceptModel(PreTrainedConceptModel):
    """Base of all concept methods: it turns hidden states into one concept (code) per token.

    A method implements [`encode`][clvq_hf.ConceptModel.encode],
    [`ablation_basis`][clvq_hf.ConceptModel.ablation_basis] and, if its concepts are vectors,
    [`codebook`][clvq_hf.ConceptModel.codebook]. Its config names the host layers (`lower_layer`, `upper_layer`,
    `stack`) and their widths (`hidden_size`, `target_hidden_size`). Everything else comes with the base: saving,
    loading and sharing, attaching to a host, intervening in it, checking that a host fits.

    A method that [`CLVQTrainer`][clvq_hf.training.trainer.CLVQTrainer] can train has a `forward` with the arguments of
    [`CLVQModel.forward`][clvq_hf.CLVQModel.forward], whose output holds `loss`, `codes` and the figures of
    `loss_names`; and, if it needs them, `initialize_codebook`, `update_codebook` and `discard_pending`.
    """

    # Figures of an output besides its loss, each a mean over the tokens that count; empty: no gradients, no trainer.
    loss_names: tuple[str, ...] = ()
    # Whether the vectors of `codebook` are states, which can be taken out of another state (`how="swap"`).
    codes_are_states: bool = True
    # Bases that `ablation_basis` can give; the first is the default.
    ablation_variants: tuple[str, ...] = ("codebook",)

    def _repr_html_(self) -> str:
        from ..report.notebook import model_html  # which knows models

        return model_html(self)

    def encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Assign a concept to each token.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, d)`): Host states at `lower_layer`, any float dtype.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Nonzero on real tokens; all real if absent.

        Returns:
            `torch.Tensor` of shape `(B, S)`, int64: Codes in `[0, K)`, `-1` on padding.
        """
        raise NotImplementedError  # abstract

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
        raise NotImplementedError  # abstract

    def directions(self, codes: torch.Tensor) -> torch.Tensor:
        """Unit directions of concepts, the ones that are removed if these codes are ablated.

        Args:
            codes (`torch.Tensor` of shape `(N,)`, int64): In `[0, K)`.

        Returns:
            `torch.Tensor` of shape `(N, 1, d)`, float32.
        """
        return F.normalize(self.codebook[codes], dim=-1)[:, None]

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
    def is_initialized(self) -> bool:
        """Whether the concepts were fitted to data; codes of a fresh model mean nothing."""
        raise NotImplementedError  # abstract

    def num_active(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """`torch.Tensor` of shape `(B, S)`, int64: concepts that are active on each token (`L0`), 0 on padding.

        One for methods that give each token one code; sparse methods count.
        """
        return self._mask("attention_mask", attention_mask, hidden_states).long()

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

    def attach(self, host: Any, keep_states: bool = True) -> Tap:
        """Watch `host`: after every call its concepts lie on the returned tap.

        The tap is active from this call until [`Tap.remove`][clvq_hf.models.tap.Tap.remove], or the end of a `with` block.
        In `generate()` the codes of each step are appended to those of the prompt.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are; it may be wrapped in PEFT or DDP.
            keep_states (`bool`): Whether the tap also keeps the (detached) states of both layers. Turn it off for
                long generations.

        Returns:
            [`Tap`][clvq_hf.models.tap.Tap]: with `.codes`, `.hidden_states` and `.target_hidden_states`.

        Raises:
            ValueError: If the host has no such layers, or they are of another width.
        """
        self.check_host(host)
        if not self.is_initialized:
            logger.warning("The concepts of this model were never fitted to data: its codes mean nothing yet.")
        return Tap(self, host, keep_states=keep_states)

    def concept_table(
        self,
        host: Any,
        tokenizer: PreTrainedTokenizerBase,
        dataset: "Dataset",
        *,
        split: str = "test",
        dataset_name: str = "",
        salience: "Dataset | None" = None,
        text_column: str = "text",
        label_column: str = "label",
        max_length: int | None = None,
        batch_size: int = 32,
        output_dir: str | Path | None = None,
    ) -> "ConceptTable":
        """The concept of every token of some texts, with labels and predictions: one pass over `host`.

        Memory stays bounded: rows are written to Arrow files as they come, and mapped.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are. Its predictions are in the table if it has a
                head (`AutoModelForSequenceClassification`, `AutoModelForCausalLM`); else it is stopped early.
            tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
            dataset (`datasets.Dataset`): The texts; row numbers become `text_id`. Empty ones are left out and counted.
            split (`str`): Which part of the data these texts are: `"test"`, `"select"`, `"codebook_train"`, ….
                Metrics warn when they read what was trained on.
            dataset_name (`str`): For the record.
            salience (`datasets.Dataset`, *optional*): What [`salient_tokens`][clvq_hf.salient_tokens] returned for the
                same texts.
            text_column (`str`): Column of the texts.
            label_column (`str`): Column of the labels, integers; there may be none.
            max_length (`int`, *optional*): In tokens; the host's limit if not given.
            batch_size (`int`): Texts a host forward.
            output_dir (`str` or `Path`, *optional*): Where the table is saved; a temporary folder if not given.

        Returns:
            [`ConceptTable`][clvq_hf.ConceptTable]: With one row per real token.

        Raises:
            ValueError: If the host does not fit, the tokenizer is a slow one, or the texts are unusable.
        """
        from ..tables.builder import build_table  # pulls pandas and scikit-learn

        self.check_host(host)
        if not self.is_initialized:
            raise ValueError("The concepts of this model were never fitted to data; train it first.")
        return build_table(
            self,
            host,
            tokenizer,
            dataset,
            split=split,
            dataset_name=dataset_name,
            salience=salience,
            text_column=text_column,
            label_column=label_column,
            max_length=max_length,
            batch_size=batch_size,
            output_dir=output_dir,
        )

    def ablate(
        self,
        host: Any,
        codes: int | Sequence[int] | torch.Tensor,
        positions: str | torch.Tensor = "code",
        how: str = "project",
        mean: torch.Tensor | None = None,
    ) -> hooks.Edit:
        """Remove concepts from `host` at `lower_layer`, until the returned handle is removed or its `with` block ends.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are.
            codes (`int`, sequence of `int`, or `torch.Tensor` of shape `(B,)` or `(B, k)`): One concept or several, for
                all texts; a tensor names those of each text.
            positions (`str` or `torch.Tensor`): `"code"`: where these codes occur. `"all"`: at all real tokens.
                `"cls"`: the first real token. `"last"`: the last one; in `generate()` also each new token. A bool mask
                `(B, S)` or `(S,)`: there; in `generate()` these are positions of the prompt.
            how (`str`): `"project"`: off the span of the concepts' vectors, `x ← x - QᵀQx`. `"swap"`: the concept's
                vector replaced by the mean state, `x ← x - e + μ`; for one code and methods with a codebook.
            mean (`torch.Tensor` of shape `(d,)`, *optional*): `μ`; [`mean_state`][clvq_hf.ConceptModel.mean_state] if
                not given.

        Returns:
            [`Edit`][clvq_hf.hosts.hooks.Edit]: A context manager with `remove()`.

        Raises:
            ValueError: If the host does not fit, a code does not exist, or an argument is unknown.

        Example:
            ```python
            with model.ablate(host, codes=137):
                host(**inputs).logits
            ```
        """
        return ablate(self, host, codes, positions, how, mean)

    def steer(self, host: Any, code: int, strength: float, positions: str | torch.Tensor = "all") -> hooks.Edit:
        """Push `host` towards a concept: `x ← x + strength · ê · ‖x‖` at `lower_layer`.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are.
            code (`int`): The concept; `ê` is its unit vector.
            strength (`float`): In units of each token's norm; negative pushes away.
            positions (`str` or `torch.Tensor`): As for [`ablate`][clvq_hf.ConceptModel.ablate].

        Returns:
            [`Edit`][clvq_hf.hosts.hooks.Edit]: A context manager with `remove()`.

        Raises:
            ValueError: If the host does not fit, or the code does not exist.
        """
        return steer(self, host, code, strength, positions)

    def splice(self, host: Any) -> Splice:
        """Let `host` go on from the reconstruction: the states of `upper_layer` are replaced by what the concepts give.

        Inside `generate()` the concept model must be causal, as it is if its host was.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are.

        Returns:
            [`Splice`][clvq_hf.models.interventions.Splice]: A context manager with `remove()`.

        Raises:
            ValueError: If the host does not fit.
        """
        return Splice(self, host)

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


def load_with_host(
    name: str, host: str | None = None
) -> tuple[ConceptModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a concept model together with its host and tokenizer.

    Args:
        name (`str`): Folder or Hub id of the concept model.
        host (`str`, *optional*): Folder or Hub id of the host; the one that the model names if not given.

    Returns:
        The model, the host and the host's tokenizer, in evaluation mode.

    Raises:
        OSError: If one of them does not exist or cannot be downloaded.
        ValueError: If there is no concept model, or it does not say which host it belongs to.
    """
    model = ConceptModel.from_pretrained(name)
    if host is None:
        return model, model.load_host(), model.load_tokenizer()
    return model, load_host(host), AutoTokenizer.from_pretrained(host)


def check_batch(name: str, tensor: torch.Tensor, hidden_states: torch.Tensor) -> None:
    """Refuse a tensor of other texts: a batch of one would be broadcast, and the loss be of what was never meant.

    Raises:
        ValueError: If the first two sizes differ from those of `hidden_states`.
    """
    if tensor.shape[:2] != hidden_states.shape[:2]:
        raise ValueError(
            f"{name} has the shape {tuple(tensor.shape)}, hidden_states {tuple(hidden_states.shape)}: the first two "
            "sizes must agree."
        )


def masked_mse(
    estimate: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor | int
) -> torch.Tensor:
    """Squared error summed over the tokens of `mask`, divided by `tokens` and the width, in float32."""
    difference = torch.where(mask[..., None], estimate.float() - target.float(), 0)
    return difference.square().sum() / (tokens * target.shape[-1])


__all__ = ["BY_GRADIENT", "ConceptModel", "check_batch", "load_with_host", "masked_mse"]
