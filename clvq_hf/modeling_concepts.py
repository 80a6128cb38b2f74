"""`ConceptModel`: what every concept method of this library offers, whatever it is made of."""

import itertools
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from . import hooks
from .tap import Tap

logger = logging.get_logger(__name__)


class ConceptModel(PreTrainedModel):
    """Base of all concept methods: it turns hidden states into one concept (code) per token.

    A method implements [`encode`][clvq_hf.ConceptModel.encode],
    [`ablation_basis`][clvq_hf.ConceptModel.ablation_basis] and, if its concepts are vectors,
    [`codebook`][clvq_hf.ConceptModel.codebook]. Its config names the host layers (`lower_layer`, `upper_layer`,
    `stack`) and their widths (`hidden_size`, `target_hidden_size`). Everything else comes with the base: saving and
    loading, attaching to a host, checking that a host fits.
    """

    main_input_name = "hidden_states"
    base_model_prefix = ""

    def encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Assign a concept to each token.

        Args:
            hidden_states (`torch.Tensor` of shape `(B, S, d)`): Host states at `lower_layer`, any float dtype.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Nonzero on real tokens; all real if absent.

        Returns:
            `torch.Tensor` of shape `(B, S)`, int64: Codes in `[0, K)`, `-1` on padding.
        """
        raise NotImplementedError  # abstract

    def ablation_basis(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Directions to remove from the host if the concepts of these tokens are to be ablated.

        Args:
            hidden_states (`torch.Tensor` of shape `(N, d)`): Host states at `lower_layer`.

        Returns:
            `torch.Tensor` of shape `(N, k, d)`, float32: `k` orthonormal rows for each token.
        """
        raise NotImplementedError  # abstract

    @property
    def codebook(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(K, d)`, float32: one vector per concept, in the space of `lower_layer`."""
        raise NotImplementedError  # abstract

    @property
    def is_initialized(self) -> bool:
        """Whether the concepts were fitted to data; codes of a fresh model mean nothing."""
        raise NotImplementedError  # abstract

    def attach(self, host: Any, keep_states: bool = True) -> Tap:
        """Watch `host`: after every call its concepts lie on the returned tap.

        The tap is active from this call until [`Tap.remove`][clvq_hf.tap.Tap.remove], or the end of a `with` block.
        In `generate()` the codes of each step are appended to those of the prompt.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are; it may be wrapped in PEFT or DDP.
            keep_states (`bool`): Whether the tap also keeps the (detached) states of both layers. Turn it off for
                long generations.

        Returns:
            [`Tap`][clvq_hf.tap.Tap]: with `.codes`, `.hidden_states` and `.target_hidden_states`.

        Raises:
            ValueError: If the host has no such layers, or they are of another width.
        """
        self.check_host(host)
        if not self.is_initialized:
            logger.warning("The concepts of this model were never fitted to data: its codes mean nothing yet.")
        return Tap(self, host, keep_states=keep_states)

    def check_host(self, host: Any) -> None:
        """Check that the layers of the config exist in `host` and have the widths of the config.

        Raises:
            ValueError: Naming what the config asks for and what the host has.
        """
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

    @property
    def device(self) -> torch.device:
        """`torch.device`: of the first parameter or buffer; methods without parameters live in buffers alone."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """`torch.dtype`: of the first floating-point parameter or buffer."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next(tensor.dtype for tensor in tensors if tensor.is_floating_point())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> "ConceptModel":
        """Load a concept model from a folder or the Hub; the arguments are those of `PreTrainedModel`.

        Only safetensors are read. A missing tensor is an error: transformers would fill it with fresh random numbers
        and warn, and the codes would be silently wrong.

        Raises:
            ValueError: If the checkpoint lacks a tensor of the model.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, **{**kwargs, "use_safetensors": True, "output_loading_info": True}
        )
        if info["missing_keys"]:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {sorted(info['missing_keys'])}. The checkpoint is incomplete "
                "or of another model; save it again with save_pretrained."
            )
        return (model, info) if wants_info else model
