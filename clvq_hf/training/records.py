"""What a concept model says of the run that made it, whichever method that was: host, texts, settings, references."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..hub.provenance import describe_host, library_versions, resolve_commit, tokenizer_fingerprint
from ..hub.repositories import REFERENCE_NAME
from ..models.modeling_concepts import ConceptModel

logger = logging.get_logger(__name__)


def record_run(
    model: ConceptModel,
    host: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    text_numbers: np.ndarray | None,
    texts: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Note in the config of a model what it is learned from, with what, and on which commit of which host.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The model.
        host (`PreTrainedModel`, *optional*): Where the states come from; unknown if they were extracted before.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The host's.
        text_numbers (`numpy.ndarray`, *optional*): Of the texts, see `ConceptModel.record_training_texts`.
        texts (`Mapping[str, Any]`): Where they are from, and how many they are.
        settings (`Mapping[str, Any]`): What the run was told; what is `None` is left out.
    """
    config = model.config
    if host is not None:
        for name, value in describe_host(host).items():
            if getattr(config, name) is None:
                setattr(config, name, value)
    config.host_revision = resolve_commit(config.host_name_or_path, config.host_revision)
    if tokenizer is not None:
        config.tokenizer_fingerprint = tokenizer_fingerprint(tokenizer)
    config.library_versions = library_versions()
    model.record_training_texts(text_numbers)
    given = {name: value for name, value in settings.items() if value is not None}
    config.training = {**texts, "settings": given}


def save_with_reference(
    model: ConceptModel,
    folder: Path,
    host: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    state_dict: dict[str, Any] | None = None,
) -> None:
    """Save a model with the codes of reference texts, by which it recognises its host, and the tokenizer."""
    model.save_pretrained(folder, state_dict=state_dict)
    if host is not None and tokenizer is not None:
        try:
            model.record_host(host, tokenizer).save(folder / REFERENCE_NAME)
        except Exception as error:  # whatever a host does: the weights are saved, and the run goes on
            logger.warning(f"The model is saved without reference texts: {type(error).__name__}: {error}")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


__all__ = ["record_run", "save_with_reference"]
