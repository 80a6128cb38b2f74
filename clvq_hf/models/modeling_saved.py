"""What every concept model has in common as a thing on disk and on the Hub: loading, saving, sharing, its host."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..checksums import read_tensors, write_tensors
from ..files import ScratchFolder, updated
from ..hosts.host import load_host
from ..hosts.loading import load_tokenizer
from ..hub.provenance import is_hub_id, tokenizer_fingerprint
from ..hub.repositories import (
    CONCEPTS_FOLDER,
    DISTANCES_NAME,
    REFERENCE_NAME,
    SIDE_FILES,
    TRAINING_TEXTS_NAME,
    WEIGHTS_OF_MODEL,
    Source,
)
from ..hub.requests import HubError
from .checkpoints import check_checkpoint, check_weights, class_of_checkpoint, weights_checksum
from .distances import DistanceQuantiles
from .modeling_base import BaseConceptModel
from .verification import REFERENCE_TEXTS, Reference, Verification, make_reference, verify_host

if TYPE_CHECKING:
    from ..tables.concept_table import ConceptTable

logger = logging.get_logger(__name__)

# Tokens whose codes and distances are computed at once.
TOKENS_AT_ONCE = 4096


class SavedConceptModel(BaseConceptModel):
    """A concept method with what is saved beside its weights, and the host that it was learned from.

    Beside config and weights lie the codes of reference texts, by which a host is recognised, the numbers of the texts
    that were trained on, the usual distances to the codes, and a concept table.
    """

    # Where it was loaded from; None for a model that was made here.
    _source: Source | None = None
    _reference: Reference | None = None
    _concepts: Any = None
    _training_texts: np.ndarray | None = None
    _distance_quantiles: DistanceQuantiles | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a concept model from a folder or the Hub; the arguments are those of `PreTrainedModel`.

        `ConceptModel.from_pretrained` loads a model of any method, the method's own class models of that one alone.
        Among them `revision` (branch, tag or commit), `token`, `cache_dir`, `local_files_only`, `force_download`,
        `subfolder` and `dtype`. Only safetensors are read, and no code of the repository is run. A missing tensor is an
        error: transformers would fill it with fresh random numbers and warn, and the codes would be silently wrong.

        Raises:
            HubError: If the repository or revision does not exist or may not be read, or the Hub is out of reach.
            ValueError: If it holds no concept model, an incomplete one, a damaged one (weights or layers have not the
                fingerprint that was recorded, or a weight is NaN), a pickled one, or one of a newer major version.
        """
        if pretrained_model_name_or_path is None:  # with a state_dict of the caller's own
            return super().from_pretrained(None, *args, **kwargs)
        places = ("subfolder", "revision", "cache_dir", "local_files_only", "force_download", "token")
        source = Source(
            pretrained_model_name_or_path,
            **{name: value for name in places if (value := kwargs.pop(name, None)) is not None},
        )
        name = source.name
        folder = check_checkpoint(source)
        cls = class_of_checkpoint(folder, name, cls)
        wants_info = kwargs.pop("output_loading_info", False)
        ours = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            model, info = super().from_pretrained(folder, *args, **{**kwargs, **ours})
        except SafetensorError as error:
            raise ValueError(f"The weights of {name} are damaged ({error}); get them again.") from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # of a config that nobody wrote
            raise ValueError(f"{name} cannot be loaded: {error}") from error
        if wrong := sorted({*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])}):
            raise ValueError(
                f"{name} lacks {wrong}, or has them in other shapes than its config says. The checkpoint is incomplete "
                "or of another model; save it again with save_pretrained."
            )
        check_weights(model, folder, name, kwargs.get("variant"))
        model.name_or_path = model.config.name_or_path = name
        model._source = source
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save config, weights (safetensors) and reference texts, if there are any; see `PreTrainedModel`."""
        if kwargs.pop("push_to_hub", False):
            raise ValueError("Save it first, and then call model.push_to_hub(repo_id).")
        tensors = kwargs.get("state_dict") or self.state_dict()
        self.config.fingerprint = self.fingerprint_of(self.config, tensors)
        self.config.weights_checksum = weights_checksum(tensors)
        if not kwargs.get("is_main_process", True):
            return
        # What is there of other weights goes; a variant lies beside them.
        weights = WEIGHTS_OF_MODEL if kwargs.get("variant") is None else ()
        with updated(save_directory, (*weights, *SIDE_FILES)) as folder:
            super().save_pretrained(folder, **kwargs)
            self._save_side_files(folder)

    def _save_side_files(self, folder: Path) -> None:
        """What is known of these codes besides config and weights, as far as there is anything."""
        try:
            reference = self.reference
        except (HubError, ValueError) as error:  # the weights are what matters
            reference = None
            logger.warning(f"The reference texts of this model could not be read, and are not saved: {error}")
        if self.training_texts is not None:
            write_tensors(folder / TRAINING_TEXTS_NAME, {"text_numbers": self.training_texts})
        self.save_distance_quantiles(folder)
        if reference is not None and reference.model_fingerprint == self.config.fingerprint:
            reference.save(folder / REFERENCE_NAME)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        codebook_only: bool = False,
        max_shard_size: int | str = "50GB",
        concepts: "ConceptTable | None" = None,
        concepts_repo: str | None = None,
        evaluation: str | Path | None = None,
        audit: str | Path | None = None,
        license: str | None = None,
        mask_toxic: bool = True,
        mask_label: Sequence[str] = (),
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: Sequence[str] = (),
        commit_message: str = "Upload concept model",
        commit_description: str | None = None,
    ) -> CommitInfo:
        """Upload the model with its card, and what is known of its concepts, in one commit.

        Files that this one replaces are deleted in the same commit; a concept table, results and reference texts that
        are there stay if the codes are the same. A call that failed can be repeated: what has arrived is not sent
        again.

        Args:
            repo_id (`str`): `"org/name"`; made if needed.
            codebook_only (`bool`): Leave the decoder out: codes, taps and ablations work without it.
            max_shard_size (`int` or `str`): Largest file of weights.
            concepts ([`ConceptTable`][clvq_hf.ConceptTable], *optional*): Goes to `concepts/`, with its texts.
            concepts_repo (`str`, *optional*): Dataset repository for the concept table instead.
            evaluation (`str` or `Path`, *optional*): Folder that `clvq-hf evaluate` has written; its results go to
                `evaluation/` and into the card.
            audit (`str` or `Path`, *optional*): Folder of an [`Audit`][clvq_hf.auditing.Audit]; its first suspects go
                to `audit/` and into the card. Default: that in `audit/` of the model's folder.
            license (`str`, *optional*): Of this model; that of the host if not given and known.
            mask_toxic (`bool`): Whether texts whose label is called toxic or the like are masked in the card; all texts
                if labels have only numbers, unless `mask_label` says which.
            mask_label (`Sequence[str]`): Labels whose texts are masked in the card, whatever they are called.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str` or `bool`, *optional*): The one you are logged in with if not given.
            revision (`str`, *optional*): A branch, made if needed.
            create_pr (`bool`): Whether to open a pull request instead.
            tags (`Sequence[str]`): More tags for the card.
            commit_message (`str`): First line of the commit's message.
            commit_description (`str`, *optional*): The others.

        Returns:
            `huggingface_hub.CommitInfo`: With `commit_url`, and `pr_url` of a pull request.

        Raises:
            HubError: If the Hub could not be reached, or refused.
            ValueError: If table or results are of another model, or the repository holds something else.
        """
        from .publishing import publish  # pulls pandas, scikit-learn and Jinja

        model = self.codebook_only() if codebook_only else self
        with ScratchFolder() as folder:
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            return publish(
                Path(folder),
                repo_id,
                concepts=concepts,
                concepts_repo=concepts_repo,
                evaluation=evaluation,
                audit=audit,
                license=license,
                mask_toxic=mask_toxic,
                mask_label=mask_label,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                tags=tags,
                commit_message=commit_message,
                commit_description=commit_description,
            )

    def codebook_only(self) -> Self:
        """A copy without its decoder: it encodes, attaches and ablates alike, with the same fingerprint.

        Training and splicing need the decoder; of a CLVQ model `d² + K·d` numbers are left. A model that has none is
        returned itself.
        """
        kept = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("decoder.")}
        if len(kept) == len(self.state_dict()):
            return self
        config = copy.deepcopy(self.config)
        config.has_decoder = False
        bare = type(self)(config).to(self.device)
        bare.load_state_dict(kept)
        bare.train(self.training)
        bare._source, bare._reference, bare._concepts = self._source, self._reference, self._concepts
        bare._training_texts, bare._distance_quantiles = self.training_texts, self._distance_quantiles
        return bare

    def load_host(self, **kwargs: Any) -> PreTrainedModel:
        """Load exactly the host that the concepts were learned from: the same id, commit, class and dtype.

        Args:
            kwargs: For the host's `from_pretrained`: `token`, `cache_dir`, `device_map`, …

        Returns:
            `PreTrainedModel`: In evaluation mode.

        Raises:
            ValueError: If the config does not say which host, names a folder of another machine, or what is there now
                is another host: it is verified as [`verify`][clvq_hf.ConceptModel.verify] does, if there are reference
                texts. In another dtype than the recorded one a warning says so.
            OSError: If it cannot be downloaded.
        """
        config = self.config
        name = self._host_name()
        if (config.host_architecture or "").startswith("Peft"):
            raise ValueError(
                f"The host was {name} inside a PEFT adapter ({config.host_architecture}), which its id does not name: "
                "load it yourself, and pass it where a host is asked for."
            )
        if config.host_dtype is not None:
            kwargs.setdefault("dtype", config.host_dtype)
        kwargs = {**self._host_place(), **kwargs, "output_loading_info": True}
        host, info = load_host(name, config.host_architecture, **kwargs)
        if info["missing_keys"]:
            logger.warning(
                f"{name} lacks {sorted(info['missing_keys'])[:3]}, which are random now. If the host was fine-tuned "
                "after it was loaded, this is another host."
            )
        self._check_loaded(host, strict=kwargs.get("dtype") in (config.host_dtype, None))
        return host

    def _check_loaded(
        self, host: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, strict: bool = True
    ) -> None:
        """Verify a host that was loaded; warn if it cannot be verified, or is wrong in a dtype that was asked for.

        Raises:
            ValueError: If it is another host.
        """
        try:
            found = self.verify(host, tokenizer)
        except (HubError, ValueError) as error:
            logger.warning(f"It cannot be checked whether this is the right host: {error}")
            return
        if strict:
            found.raise_if_wrong()
        elif not found:
            logger.warning(str(found))

    def load_tokenizer(self, **kwargs: Any) -> PreTrainedTokenizerBase:
        """Load the host's tokenizer, at the same commit.

        Args:
            kwargs: For `AutoTokenizer.from_pretrained`: `token`, `cache_dir`, …

        Raises:
            ValueError: If the config does not say which host, or the tokenizer has changed since.
            OSError: If it cannot be downloaded.
        """
        tokenizer = load_tokenizer(self._host_name(), **{**self._host_place(), **kwargs})
        if self.config.tokenizer_fingerprint not in (None, tokenizer_fingerprint(tokenizer)):
            raise ValueError(
                f"The tokenizer of {self._host_name()} has another vocabulary than the one that was trained with."
            )
        return tokenizer

    def _host_place(self) -> dict[str, str | None]:
        """Arguments of `from_pretrained` that say which commit and file of the host."""
        file = self.config.host_gguf_file
        return {"revision": self.config.host_revision, **({} if file is None else {"gguf_file": file})}

    def _host_name(self) -> str:
        name = self.config.host_name_or_path
        if not name:
            raise ValueError(
                "The config does not name the host: load it yourself, and pass it where one is asked for."
            )
        if not Path(name).exists() and not is_hub_id(name):
            raise ValueError(
                f"The host was loaded from the folder {name}, which this machine does not have. Load it yourself, and "
                "pass it where a host is asked for (--host)."
            )
        return name

    @property
    def concepts(self) -> "ConceptTable":
        """[`ConceptTable`][clvq_hf.ConceptTable]: The one that was pushed with the model, loaded at first use.

        Raises:
            ValueError: If there is none, or it is of another model.
            HubError: If it cannot be downloaded.
        """
        from ..tables.concept_table import ConceptTable  # pulls pandas and scikit-learn

        if self._concepts is None:
            table = None
            if self.config.concepts_repo is not None:
                source = self._source or Source("")
                table = ConceptTable.from_hub(
                    self.config.concepts_repo,
                    revision=self.config.concepts_revision,
                    token=source.token,
                    cache_dir=source.cache_dir,
                    local_files_only=source.local_files_only,
                )
            elif self._source is not None:
                folder = self._source.fetch(f"{CONCEPTS_FOLDER}/*") / CONCEPTS_FOLDER
                table = ConceptTable.load_from_disk(folder) if folder.is_dir() else None
            if table is None:
                where = "This model" if self._source is None else self._source.name
                raise ValueError(
                    f"{where} has no concept table. Make one with model.concept_table(host, tokenizer, texts), and "
                    f"save it with table.save_to_disk(<the model's folder>/{CONCEPTS_FOLDER}), or share it with "
                    "model.push_to_hub(…, concepts=table)."
                )
            table.check_model(self)
            self._concepts = table
        return self._concepts

    def find_concepts(self) -> "ConceptTable | None":
        """The table of [`concepts`][clvq_hf.ConceptModel.concepts], or `None`, with a warning, if there is none."""
        try:
            return self.concepts
        except (ValueError, OSError) as error:
            logger.warning_once(f"Concepts are shown without words of other texts: {error}")
            return None

    def record_host(
        self, host: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] = REFERENCE_TEXTS
    ) -> Reference:
        """Note the codes of reference texts, so that others can verify their host. The trainer does it by itself.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are.
            tokenizer (`PreTrainedTokenizerBase`): The host's.
            texts (`Sequence[str]`): They are saved and pushed with the model; ours are of nobody's data.

        Returns:
            [`Reference`][clvq_hf.models.Reference]: What `save_pretrained` and `push_to_hub` will write.

        Raises:
            ValueError: If the host does not fit.
        """
        self._reference = make_reference(self, host, tokenizer, texts)
        if self.config.tokenizer_fingerprint is None:
            self.config.tokenizer_fingerprint = tokenizer_fingerprint(tokenizer)
        return self._reference

    @property
    def reference(self) -> Reference | None:
        """[`Reference`][clvq_hf.models.Reference] or `None`: Texts and their codes, loaded at first use."""
        if self._reference is None and self._source is not None:
            file = self._source.fetch(REFERENCE_NAME) / REFERENCE_NAME
            self._reference = Reference.load(file) if file.is_file() else None
        return self._reference

    @property
    def training_texts(self) -> np.ndarray | None:
        """`np.ndarray` of int64 or `None`: The first 8 bytes of the hash of each text that was trained on, sorted.

        They are saved beside the weights, and not pushed; `None` where they are not known.
        """
        if self._training_texts is None and self._source is not None and self._source.is_local:
            file = self._source.fetch() / TRAINING_TEXTS_NAME
            if file.is_file():
                remedy = "Get it again, or remove it; then it is not known which texts were trained on."
                self._training_texts = read_tensors(file, ["text_numbers"], remedy)[0]["text_numbers"]
        return self._training_texts

    def record_training_texts(self, numbers: np.ndarray | None) -> None:
        """Note the texts that are trained on, as `text_numbers` gives them; `None` if they are not known."""
        self._training_texts = None if numbers is None else np.unique(numbers)

    def count_trained_on(self, texts: Iterable[str | None]) -> int | None:
        """How many of these texts were trained on; `None` if that is not known."""
        known = self.training_texts
        if known is None:
            return None
        from ..data.texts import text_numbers  # here, because importing the package does not load datasets

        return int(np.isin(text_numbers(texts), known).sum())

    @property
    def distance_quantiles(self) -> DistanceQuantiles | None:
        """[`DistanceQuantiles`][clvq_hf.models.DistanceQuantiles] or `None`: which distances to the codes are usual.

        They are recorded at the end of training or fitting, and saved beside the weights. `None` if they are not known,
        as for models of earlier versions, or if they belong to other codes than the model's;
        [`record_distances`][clvq_hf.ConceptModel.record_distances] computes them.

        Raises:
            HubError: If the file cannot be downloaded.
            ValueError: If it is damaged.
        """
        if self._distance_quantiles is None and self._source is not None:
            file = self._source.fetch(DISTANCES_NAME) / DISTANCES_NAME
            self._distance_quantiles = DistanceQuantiles.load(file) if file.is_file() else None
        found = self._distance_quantiles
        return found if found is not None and found.fingerprint == self.fingerprint() else None

    @torch.no_grad()
    def record_distances(self, hidden_states: torch.Tensor) -> DistanceQuantiles | None:
        """Note which distances to the codes are usual, from a sample of training tokens. Trainer and `fit` do it.

        Args:
            hidden_states (`torch.Tensor` of shape `(N, d)`): Host states at `lower_layer` of training tokens, such as
                `cache.counted("hidden_states")` of an [`ActivationCache`][clvq_hf.ActivationCache].

        Returns:
            [`DistanceQuantiles`][clvq_hf.models.DistanceQuantiles] or `None`: What `save_pretrained` and `push_to_hub`
            will write; `None` if the method has no [`distances`][clvq_hf.ConceptModel.distances].
        """
        codes, distances = [], []
        for part in hidden_states.split(TOKENS_AT_ONCE):
            part = part[None].to(self.device)
            codes.append(self.encode(part)[0].cpu())
            found = self.distances(part, codes=codes[-1][None].to(self.device))
            if found is None:
                return None
            distances.append(found[0].cpu())
        self._distance_quantiles = DistanceQuantiles.of(
            torch.cat(distances).numpy(), torch.cat(codes).numpy(), self.config.codebook_size, self.fingerprint()
        )
        return self._distance_quantiles

    def save_distance_quantiles(self, folder: str | Path) -> None:
        """Write the file of `distance_quantiles` into a folder with this model; remove one of other codes there."""
        try:
            quantiles = self.distance_quantiles
        except (HubError, ValueError) as error:  # the weights are what matters
            quantiles = None
            logger.warning(f"The quantiles of distances could not be read, and are not saved: {error}")
        file = Path(folder) / DISTANCES_NAME
        if quantiles is None:
            file.unlink(missing_ok=True)
        else:
            quantiles.save(file)

    def verify(self, host: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> Verification:
        """Check that a host is the one that the concepts were learned from, by texts whose codes are known.

        A codebook gives codes for any states of its width, so nothing else reveals a wrong host, layer or
        normalisation.

        Args:
            host (`PreTrainedModel`): What is in question.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer, which is then looked at too.

        Returns:
            [`Verification`][clvq_hf.models.Verification]: True if it is; print it to see why not.

        Raises:
            ValueError: If the model has no reference texts, or they belong to other weights.
        """
        reference = self.reference
        if reference is None:
            raise ValueError(
                "This model has no reference texts with which a host can be verified. If you have the right host, "
                "record them with model.record_host(host, tokenizer)."
            )
        if reference.model_fingerprint != self.fingerprint():
            raise ValueError("The reference texts belong to other weights than this model's; record them again.")
        return verify_host(self, reference, host, tokenizer)


__all__ = ["SavedConceptModel"]
