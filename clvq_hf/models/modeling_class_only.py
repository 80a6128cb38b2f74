"""A control: codes that say which class the host predicts for the text, and where in it the token stands."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from ..hosts.readout import class_names
from .configuration_concepts import ConceptConfig, Preset
from .modeling_clusters import UpperMeans, group_means
from .modeling_concepts import ConceptModel
from .quantizer import Float32Module

if TYPE_CHECKING:
    from ..data.activation_cache import ActivationCache


class ClassOnlyConfig(ConceptConfig):
    r"""Config of a [`ClassOnlyModel`].

    Args:
        num_classes (`int`): Classes of the host; there are `codebook_size // num_classes` positions of each.
        **kwargs: The fields of [`ConceptConfig`][clvq_hf.models.ConceptConfig].

    Raises:
        ValueError: If there are fewer codes than classes.
    """

    model_type = "concept_class_only"
    family = "class-only"

    num_classes: int = 2

    title = "a control (class and position)"
    hub_tag = "class-only"
    card_settings = ("codebook_size", "num_classes")
    identity = (*ConceptConfig.identity, "num_classes")
    presets: ClassVar[Mapping[str, Preset]] = {"class-only": Preset("class and position only", control=True)}

    @classmethod
    def from_host(
        cls, host: Any, lower_layer: int, upper_layer: int, stack: str | None = None, **kwargs: Any
    ) -> "ClassOnlyConfig":
        kwargs.setdefault("num_classes", len(class_names(host) or ()) or cls.num_classes)
        return super().from_host(host, lower_layer, upper_layer, stack, **kwargs)

    def model_bytes(self) -> int:
        upper = self.codebook_size * self.target_hidden_size if self.has_decoder else 0
        return 4 * ((self.codebook_size + self.num_classes) * (self.hidden_size + 1) + upper)

    def _check(self) -> None:
        super()._check()
        self._check_integers("num_classes")
        if self.codebook_size < self.num_classes:
            raise ValueError(f"codebook_size={self.codebook_size} is smaller than num_classes={self.num_classes}.")
        self._check_size()


class ClassReader(Float32Module):
    """A linear classifier of a text's mean state, and the mean state of each code's tokens."""

    def __init__(self, config: ClassOnlyConfig) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(config.num_classes, config.hidden_size))
        self.register_buffer("bias", torch.zeros(config.num_classes))
        self.register_buffer("members", torch.zeros(config.codebook_size, config.hidden_size))
        self.register_buffer("initialized", torch.tensor(False))


class ClassOnlyModel(ConceptModel):
    """One code for each class that the host predicts and part of the text: it says nothing of a token but its place.

    What a class-only codebook scores on a metric of dictionaries, the metric gives to the class. The class is read off
    the mean state of the text by logistic regression, fitted to the host's predictions; so it needs whole texts. The
    i-th of `n` tokens has the position `⌊i·P/n⌋` of `P`.
    """

    config_class = ClassOnlyConfig
    _keep_in_fp32_modules_strict = ["reader", "decoder"]
    _not_in_fingerprint = ("decoder.", "reader.members")
    _may_be_infinite = ("reader.bias",)  # of a class that the host never chooses

    def __init__(self, config: ClassOnlyConfig) -> None:
        super().__init__(config)
        self.reader = ClassReader(config)
        self.decoder = UpperMeans(config) if config.has_decoder else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ClassReader):
            for tensor in (module.weight, module.bias, module.members, module.initialized):
                init.zeros_(tensor)
        elif isinstance(module, UpperMeans):
            init.zeros_(module.vectors)

    @property
    def codebook(self) -> torch.Tensor:
        return self.reader.members

    @property
    def member_means(self) -> torch.Tensor:
        return self.reader.members

    @property
    def is_initialized(self) -> bool:
        return bool(self.reader.initialized)

    @torch.no_grad()
    def fit(self, cache: "ActivationCache", *, seed: int = 0) -> "ClassOnlyModel":
        """Fit the classifier to what the host predicts for the texts of a cache, and average the tokens of each code.

        Args:
            cache ([`ActivationCache`][clvq_hf.ActivationCache]): States of training texts, of the config's layers.
            seed (`int`): Nothing is drawn.

        Raises:
            ValueError: If the cache is of other layers, or its host chooses no classes or only one.
        """
        from sklearn.linear_model import LogisticRegression  # at use: it takes long to import

        config = self.config
        cache.check_layers(config)
        predictions = cache.predictions
        if predictions is None or len(predictions.unique()) < 2:
            raise ValueError("This control needs a host that chooses classes, and texts of two of them or more.")
        texts = [cache[row]["hidden_states"].float() for row in range(len(cache))]
        means = torch.stack([states.mean(0) for states in texts])
        found = LogisticRegression(C=100.0, max_iter=2000).fit(means.numpy(), predictions.numpy())
        # Of two classes scikit-learn keeps one row, the logit of the second.
        weight, bias = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
        if len(weight) == 1:
            weight, bias = torch.cat([-weight, weight]), torch.cat([-bias, bias])
        classes = torch.from_numpy(found.classes_)
        self.reader.bias.fill_(-torch.inf)
        self.reader.weight[classes], self.reader.bias[classes] = weight.float(), bias.float()
        masks = [cache[row]["token_mask"].bool() for row in range(len(cache))]
        codes = torch.cat([self.encode(each[None])[0][mask] for each, mask in zip(texts, masks, strict=True)])
        self.reader.members.copy_(group_means(cache.counted("hidden_states"), codes, config.codebook_size))
        if self.decoder is not None:
            targets = cache.counted("target_hidden_states")
            self.decoder.vectors.copy_(group_means(targets, codes, config.codebook_size))
        self.reader.initialized.fill_(True)
        self.record_training_texts(cache.text_numbers)
        return self

    @torch.no_grad()
    def encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = self._real_tokens(hidden_states, attention_mask)
        lengths = mask.sum(-1, keepdim=True).clamp(min=1)
        means = torch.where(mask[..., None], hidden_states.float(), 0).sum(1) / lengths
        classes = (means @ self.reader.weight.T + self.reader.bias).argmax(-1, keepdim=True)
        parts = self.config.codebook_size // self.config.num_classes
        places = (mask.cumsum(-1) - 1).clamp(min=0) * parts // lengths
        return (classes * parts + places).masked_fill(~mask, -1)

    @torch.no_grad()
    def nearest(self, hidden_states: torch.Tensor, k: int = 1) -> torch.Tensor:
        # Tokens without their texts: all that is known of them is their state.
        return torch.cdist(hidden_states.float(), self.codebook).topk(k, dim=-1, largest=False).indices

    @torch.no_grad()
    def reconstruct(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self._check_decoder()
        codes = self.encode(hidden_states, attention_mask) if codes is None else codes
        return F.embedding(codes.clamp(min=0), self.decoder.vectors)


__all__ = ["ClassOnlyConfig", "ClassOnlyModel"]
