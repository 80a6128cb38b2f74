"""`PreTrainedConceptModel`: how concept models are saved, loaded, shared, and brought back to their host."""

import copy
import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..hosts import hooks
from ..hosts.host import load_host
from ..hub.provenance import is_hub_id, tokenizer_fingerprint
from ..hub.repositories import CONCEPTS_FOLDER, CONFIG_NAME, REFERENCE_NAME, Source, check_checkpoint
from ..hub.requests import HubError
from .verification import REFERENCE_TEXTS, Reference, Verification, make_reference, verify_host

if TYPE_CHECKING:
    from ..tables.concept_table import ConceptTable

logger = logging.get_logger(__name__)


class PreTrainedConceptModel(PreTrainedModel):
    """What a concept model shares with the world: weights, config, reference texts, concept table, host."""

    main_input_name = "hidden_states"
    base_model_prefix = ""
    # Beginnings of the names of tensors that no code depends on.
    _not_in_fingerprint: tuple[str, ...] = ()
    # Fields of the config that codes depend on, besides layers and weights.
    _in_fingerprint: tuple[str, ...] = ()
    # Where it was loaded from; None for a model that was made here.
    _source: Source | None = None
    _reference: Reference | None = None
    _concepts: Any = None

    # ------------------------------------------------------------------------------------------------ saving, loading

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a concept model from a folder or the Hub; the arguments are those of `PreTrainedModel`.

        `ConceptModel.from_pretrained` loads a model of any method, the method's own class models of that one alone.
        Among them `revision` (branch, tag or commit), `token`, `cache_dir`, `local_files_only`, `force_download`,
        `subfolder` and `dtype`. Only safetensors are read, and no code of the repository is run. A missing tensor is an
        error: transformers would fill it with fresh random numbers and warn, and the codes would be silently wrong.

        Raises:
            HubError: If the repository or revision does not exist or may not be read, or the Hub is out of reach.
            ValueError: If it holds no concept model, an incomplete one, a pickled one, or one of a newer major version.
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
        cls = _class_of(folder, name, cls)
        wants_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(
                folder, *args, **{**kwargs, "use_safetensors": True, "output_loading_info": True}
            )
        except SafetensorError as error:
            raise ValueError(f"The weights of {name} are damaged ({error}); get them again.") from error
        if info["missing_keys"]:
            raise ValueError(
                f"{name} lacks {sorted(info['missing_keys'])}. The checkpoint is incomplete or of another model; save "
                "it again with save_pretrained."
            )
        model.name_or_path = model.config.name_or_path = name
        model._source = source
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Save config, weights (safetensors) and reference texts, if there are any; see `PreTrainedModel`."""
        if kwargs.pop("push_to_hub", False):
            raise ValueError("Save it first, and then call model.push_to_hub(repo_id).")
        self.config.fingerprint = self.fingerprint()
        super().save_pretrained(save_directory, **kwargs)
        if not kwargs.get("is_main_process", True):
            return
        file = Path(save_directory) / REFERENCE_NAME
        try:
            reference = self.reference
        except (HubError, ValueError) as error:  # the weights are what matters
            reference = None
            logger.warning(f"The reference texts of this model could not be read, and are not saved: {error}")
        if reference is not None and reference.model_fingerprint == self.config.fingerprint:
            reference.save(file)
        else:
            file.unlink(missing_ok=True)  # of other weights

    def push_to_hub(
        self,
        repo_id: str,
        *,
        concepts: "ConceptTable | None" = None,
        concepts_repo: str | None = None,
        evaluation: str | Path | None = None,
        codebook_only: bool = False,
        license: str | None = None,
        mask_toxic: bool = True,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
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
            concepts ([`ConceptTable`][clvq_hf.ConceptTable], *optional*): Goes to `concepts/`, with its texts.
            concepts_repo (`str`, *optional*): Dataset repository for the concept table instead.
            evaluation (`str` or `Path`, *optional*): Folder that `clvq-hf evaluate` has written; its results go to
                `evaluation/` and into the card.
            codebook_only (`bool`): Leave the decoder out: codes, taps and ablations work without it.
            license (`str`, *optional*): Of this model; that of the host if not given and known.
            mask_toxic (`bool`): Whether texts with a toxic label are masked in the card.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str` or `bool`, *optional*): The one you are logged in with if not given.
            revision (`str`, *optional*): A branch, made if needed.
            create_pr (`bool`): Whether to open a pull request instead.
            max_shard_size (`int` or `str`): Largest file of weights.
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
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            return publish(
                Path(folder),
                repo_id,
                concepts=concepts,
                concepts_repo=concepts_repo,
                evaluation=evaluation,
                license=license,
                mask_toxic=mask_toxic,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                tags=tags,
                commit_message=commit_message,
                commit_description=commit_description,
            )

    def codebook_only(self) -> "PreTrainedConceptModel":
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
        return bare

    def fingerprint(self) -> str:
        """64 hexadecimal digits of what decides the codes: layers and weights, but not those of the decoder."""
        config = self.config
        decisive = [config.model_type, config.lower_layer, config.upper_layer, config.stack]
        # Of settings only what is not the default, so that a new one does not change the fingerprints of old models.
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        settings = {name: getattr(config, name) for name in self._in_fingerprint}
        decisive += [[name, value] for name, value in settings.items() if value != defaults[name]]
        digest = hashlib.sha256(json.dumps(decisive).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith(self._not_in_fingerprint):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().to(torch.float64).contiguous().numpy().tobytes())
        return digest.hexdigest()

    # ------------------------------------------------------------------------------------------------ host, concepts

    def load_host(self, **kwargs: Any) -> PreTrainedModel:
        """Load the very host that the concepts were learned from: its id, commit, class and dtype.

        Args:
            kwargs: For the host's `from_pretrained`: `token`, `cache_dir`, `device_map`, …

        Returns:
            `PreTrainedModel`: In evaluation mode.

        Raises:
            ValueError: If the config does not say which host, or names a folder of another machine.
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
        kwargs = {"revision": config.host_revision, **kwargs, "output_loading_info": True}
        host, info = load_host(name, config.host_architecture, **kwargs)
        if info["missing_keys"]:
            logger.warning(
                f"{name} lacks {sorted(info['missing_keys'])[:3]}, which are random now. If the host was fine-tuned "
                "after it was loaded, this is not it: model.verify(host) tells."
            )
        return host

    def load_tokenizer(self, **kwargs: Any) -> PreTrainedTokenizerBase:
        """Load the host's tokenizer, at the same commit.

        Args:
            kwargs: For `AutoTokenizer.from_pretrained`: `token`, `cache_dir`, …

        Raises:
            ValueError: If the config does not say which host, or the tokenizer has changed since.
            OSError: If it cannot be downloaded.
        """
        tokenizer = AutoTokenizer.from_pretrained(
            self._host_name(), **{"revision": self.config.host_revision, "trust_remote_code": False, **kwargs}
        )
        if self.config.tokenizer_fingerprint not in (None, tokenizer_fingerprint(tokenizer)):
            raise ValueError(
                f"The tokenizer of {self._host_name()} has another vocabulary than the one that was trained with."
            )
        return tokenizer

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
                    "share it with model.push_to_hub(…, concepts=table)."
                )
            table.check_model(self)
            self._concepts = table
        return self._concepts

    def record_host(
        self, host: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] = REFERENCE_TEXTS
    ) -> Reference:
        """Note the codes of reference texts, so that others can verify their host. The trainer does it by itself.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are.
            tokenizer (`PreTrainedTokenizerBase`): The host's.
            texts (`Sequence[str]`): They are saved and pushed with the model; ours are of nobody's data.

        Returns:
            [`Reference`][clvq_hf.models.verification.Reference]: What `save_pretrained` and `push_to_hub` will write.

        Raises:
            ValueError: If the host does not fit.
        """
        self._reference = make_reference(self, host, tokenizer, texts)
        if self.config.tokenizer_fingerprint is None:
            self.config.tokenizer_fingerprint = tokenizer_fingerprint(tokenizer)
        return self._reference

    @property
    def reference(self) -> Reference | None:
        """[`Reference`][clvq_hf.models.verification.Reference] or `None`: Texts and their codes, loaded at first use."""
        if self._reference is None and self._source is not None:
            file = self._source.fetch(REFERENCE_NAME) / REFERENCE_NAME
            self._reference = Reference.load(file) if file.is_file() else None
        return self._reference

    def verify(self, host: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> Verification:
        """Check that a host is the one that the concepts were learned from, by texts whose codes are known.

        A codebook gives codes for any states of its width, so a wrong host, layer or normalisation shows nowhere else.

        Args:
            host (`PreTrainedModel`): What is in question.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer, which is then looked at too.

        Returns:
            [`Verification`][clvq_hf.models.verification.Verification]: True if it is; print it to see why not.

        Raises:
            ValueError: If the model has no reference texts, or they are of other weights.
        """
        reference = self.reference
        if reference is None:
            raise ValueError(
                "This model has no reference texts to verify a host by. Who has the right host makes them with "
                "model.record_host(host, tokenizer)."
            )
        if reference.model_fingerprint != self.fingerprint():
            raise ValueError("The reference texts are of other weights than this model's; make them again.")
        return verify_host(self, reference, host, tokenizer)

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


def _class_of(folder: Path, name: str, cls: type[PreTrainedConceptModel]) -> type[PreTrainedConceptModel]:
    """The class of a checkpoint: `cls`, or whichever method it is of if `cls` is none in particular."""
    found = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")).get("model_type")
    wanted = getattr(cls.config_class, "model_type", None)
    if wanted is not None:
        if found == wanted:
            return cls
        raise ValueError(
            f"{name} is a model of the type {found!r}, and {cls.__name__} is of the type {wanted!r}: load it with "
            "ConceptModel.from_pretrained."
        )
    pending = cls.__subclasses__()
    while pending:  # the first one that was defined: ours before those of others
        kind = pending.pop(0)
        if kind.config_class is not None and kind.config_class.model_type == found:
            return kind
        pending += kind.__subclasses__()
    raise ValueError(f"{name} is a model of the type {found!r}, which is no concept method that this version knows.")


__all__ = ["PreTrainedConceptModel"]
