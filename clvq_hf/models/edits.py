"""`ConceptEdit`: concepts that a host must do without, live or as a model of its own, with a test of what it costs."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checksums import read_metadata, write_metadata
from ..hosts import hooks
from ..hosts.identity import check_identity, host_identity
from ..hub.provenance import public_name
from ..hub.repositories import EDITS_NAME
from ..typed import check_value
from ..version import __version__
from .interventions import check_how, find_sinks
from .modeling_base import BaseConceptModel
from .projections import orthonormal_rows, project

if TYPE_CHECKING:
    from datasets import Dataset

    from ..auditing.retest import Retest, Slices
    from .folding import Folded

HOW = ("mean", "project", "interchange")
POSITIONS = ("code", "all")


class ConceptEdit(AbstractContextManager):
    """Concepts that a host does without; see [`ConceptModel.edit`][clvq_hf.ConceptModel.edit].

    It holds from its creation until `remove`, or the end of a `with` block. A `with` block applies it again.

    Attributes:
        model (`ConceptModel`): The concepts.
        host (`PreTrainedModel`): The host.
        forbid (`tuple[int, ...]`): The concepts that are removed.
        how, positions (`str`): How, and at which tokens.
        with_codes (`tuple[int, ...]`): With `"interchange"`, the concept that takes the place of each.
    """

    def __init__(
        self,
        model: Any,
        host: nn.Module,
        forbid: int | Sequence[int],
        how: str | None = None,
        positions: str = "code",
        with_codes: int | Sequence[int] | None = None,
    ) -> None:
        model.check_host(host)
        knows_means = model.codes_are_states and model.member_means is not None
        how = how or ("mean" if knows_means else "project")
        check_how(model, how, HOW)
        if positions not in POSITIONS or (positions == "all" and how != "project"):
            raise ValueError(
                f"positions must be 'code', or 'all' with how='project'; got {positions!r} with how={how!r}."
            )
        if how != "project" and not knows_means:
            raise ValueError(
                f"how={how!r} needs the mean states of the concepts' tokens, which this {type(model).__name__} "
                "does not know, because it was trained before they were tracked. Use how='project'."
            )
        self.model, self.host, self.how, self.positions = model, host, how, positions
        self.forbid = check_codes(model.config.codebook_size, forbid, "forbid")
        self.with_codes = self._replacements(with_codes)
        self._prepare()
        self._edit: hooks.Edit | None = None
        self._apply()

    def _replacements(self, with_codes: int | Sequence[int] | None) -> tuple[int, ...]:
        if self.how != "interchange":
            if with_codes is not None:
                raise ValueError("with_codes names what takes the place of concepts: give it with how='interchange'.")
            return ()
        if with_codes is not None:
            size = self.model.config.codebook_size
            chosen = check_codes(size, with_codes, "with_codes", distinct=False)
            chosen *= len(self.forbid) if len(chosen) == 1 else 1
            if len(chosen) != len(self.forbid) or set(chosen) & set(self.forbid):
                raise ValueError("with_codes must name one concept that is not forbidden, or one for each of forbid.")
            return chosen
        means = self.model.member_means
        distances = torch.cdist(means[list(self.forbid)], means)
        distances[:, list(self.forbid)] = torch.inf
        if not distances.isfinite().any():
            raise ValueError("All concepts are forbidden, so none can take a place. Use how='mean' or how='project'.")
        return tuple(distances.argmin(-1).tolist())

    def _prepare(self) -> None:
        model, codes = self.model, torch.tensor(self.forbid, device=self.model.device)
        self._is_forbidden = torch.zeros(model.config.codebook_size, dtype=torch.bool, device=model.device)
        self._is_forbidden[codes] = True
        if self.how == "project":
            self.basis = orthonormal_rows(model.directions(codes).detach().flatten(0, 1))
            self.centre = model.projection_centre.detach()
            return
        means = model.member_means.detach().float()
        # By code: what tokens get in addition, nothing for those that are allowed.
        self._shift = torch.zeros_like(means)
        new = means[list(self.with_codes)] if self.how == "interchange" else model.mean_state.detach()
        self._shift[codes] = new - means[codes]

    @property
    def is_applied(self) -> bool:
        """`bool`: Whether the host does without the concepts now."""
        return self._edit is not None

    def _apply(self) -> None:
        config = self.model.config
        self._edit = hooks.edit(self.host, config.lower_layer, self._change, stack=config.stack, with_mask=True)

    def remove(self) -> None:
        """Let the host have its concepts again. May be called twice."""
        if self._edit is not None:
            self._edit.remove()
            self._edit = None

    def __enter__(self) -> Self:
        if self._edit is None:
            self._apply()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.remove()

    def _change(self, states: torch.Tensor, mask: torch.Tensor, past_length: int | None) -> torch.Tensor:
        return self.changed(states, mask)[0]

    def changed(self, states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States without the concepts, and where they differ.

        Args:
            states (`torch.Tensor` of shape `(B, S, d)`): Host states at `lower_layer`.
            mask (`torch.Tensor` of shape `(B, S)`, bool): Real tokens.

        Returns:
            `tuple` of a `torch.Tensor` of shape `(B, S, d)`, float32, and one of shape `(B, S)`, bool.
        """
        codes = self.codes(states, mask)
        where = codes >= 0
        if self.positions == "code":
            where = where & self._is_forbidden.to(codes.device)[codes.clamp(min=0)]
        states = states.float()
        if self.how == "project":
            return project(states, self.basis, where, self.centre), where
        return torch.where(where[..., None], states + self._shift.to(states)[codes.clamp(min=0)], states), where

    def codes(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The concepts `(B, S)` of the tokens that can be changed, int64; -1 on padding and attention sinks."""
        model, config = self.model, self.model.config
        sinks = find_sinks(self.host, config.stack, config.lower_layer, states, mask)
        codes = model.encode(states.to(model.device), mask.to(model.device)).to(states.device)
        return codes.masked_fill(sinks, -1)

    # ------------------------------------------------------------------------------------------------ what comes of it

    def facts(self) -> dict[str, Any]:
        """What was edited, as plain data for JSON: concept model, host, codes, and how."""
        config, identity = self.model.config, host_identity(self.host)
        return {
            "concept_model": public_name(config._name_or_path or None),
            "fingerprint": self.model.fingerprint(),
            # Without folders of this machine, because folded models are published.
            "host": {**identity, "name": public_name(identity["name"])},
            "layer": config.lower_layer,
            "stack": config.stack,
            "forbid": list(self.forbid),
            "how": self.how,
            "positions": self.positions,
            "with_codes": list(self.with_codes),
            "clvq_hf": __version__,
        }

    def retest(
        self,
        dataset: "Dataset",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        slices: "Slices | None" = None,
        target: str | int | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        folded: "Folded | None" = None,
    ) -> "Retest":
        """Measure what the edit repairs and what it costs, on texts on which nothing was trained.

        Accuracy, margins and calibration before and after, of all texts, of those with and without the concept, of
        those with the concept whose label is the one that it favours and whose label is another one (there a shortcut
        is broken), and of each slice; beside three controls: another concept that occurs in about as many texts, a
        random direction of the same length at the same tokens, and the words of the concept deleted from the text.

        Args:
            dataset (`datasets.Dataset`): The texts, with labels, see [`host_labels`][clvq_hf.data.host_labels]. Without
                labels only changes of predictions are measured.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): The host's, a fast one. Default: the one that the concept
                model names.
            slices (`str`, `Sequence[str]` or `Mapping`, *optional*): Columns, each of whose values is a slice; or for
                each name a function from a row to `bool`, or one `bool` for each text.
            target (`str` or `int`, *optional*): The label of a multi-label head, or the output of a regression.
            text_column (`str`, *optional*): Default: that of training, else `"text"`.
            label_column (`str`, *optional*): Default: that of training, else `"label"`; there may be none.
            max_length (`int`, *optional*): In tokens; default: that of training, else the host's limit.
            batch_size (`int`): Texts per forward pass of the host.
            seed (`int`): Of the random direction.
            folded ([`Folded`][clvq_hf.models.folding.Folded], *optional*): What `fold` returned: it is measured, too.

        Returns:
            [`Retest`][clvq_hf.auditing.Retest]: With `verdict`, `figures`, `to_pandas()` and `save(folder)`.

        Raises:
            ValueError: If texts, labels or slices cannot be used, or the host predicts no labels.
        """
        from ..auditing.retest import retest  # pulls datasets and scipy

        config = self.model.config
        with self._suspended():
            return retest(
                self,
                self.model.load_tokenizer() if tokenizer is None else tokenizer,
                dataset,
                slices=slices,
                target=target,
                text_column=text_column or config.column_of("text", dataset.column_names),
                label_column=label_column or config.column_of("label", dataset.column_names),
                max_length=max_length or config.longest_text,
                batch_size=batch_size,
                seed=seed,
                folded=None if folded is None else folded.host,
            )

    def fold(
        self,
        texts: "Dataset",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        text_column: str | None = None,
        max_length: int | None = None,
        max_steps: int = 150,
        learning_rate: float = 5e-5,
        batch_size: int = 16,
        seed: int = 0,
    ) -> "Folded":
        """Make a plain model of transformers that does without the concepts, and measure how far it is from the hook.

        Exactly in the weights where that is possible: a projection at all tokens, where only linear modules read the
        layer (mostly the last one of hosts without a final norm); any edit of layer 0, where it holds nothing but token
        embeddings (Llama). Whether it was exact is measured. Otherwise a copy of the host is trained to give the logits
        that the host gives with the hook. Seven tenths of the texts are trained on, one tenth decides when to stop, and
        on two tenths the difference is measured; they are cut by text hash.

        Args:
            texts (`datasets.Dataset`): Texts of the kind that the host reads, of which some have the concepts; labels
                are not needed.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): The host's. Default: the one that the concept model
                names.
            text_column (`str`, *optional*): Default: that of training, else `"text"`.
            max_length (`int`, *optional*): In tokens; default: that of training, else the host's limit.
            max_steps (`int`): At most so many steps of training.
            learning_rate (`float`): The largest; it rises for a tenth of the steps, and falls to 0.
            batch_size (`int`): Texts per step; every other one has the concepts.
            seed (`int`): Of the order of the texts.

        Returns:
            [`Folded`][clvq_hf.models.folding.Folded]: With `host`, `differences` and `save(folder)`.

        Raises:
            ValueError: If there are too few texts, the host has no head, or training fails.
        """
        from .folding import fold  # pulls datasets

        config = self.model.config
        with self._suspended():
            return fold(
                self,
                self.model.load_tokenizer() if tokenizer is None else tokenizer,
                texts,
                text_column=text_column or config.column_of("text", texts.column_names),
                max_length=max_length or config.longest_text,
                max_steps=max_steps,
                learning_rate=learning_rate,
                batch_size=batch_size,
                seed=seed,
            )

    @contextmanager
    def _suspended(self) -> Generator[None]:
        """Let the host have its concepts for a moment."""
        was_applied = self.is_applied
        self.remove()
        try:
            yield
        finally:
            if was_applied:
                self._apply()

    def save(self, folder: str | Path) -> Path:
        """Write `edits.json` into a folder, which is made.

        [`ConceptModel.load_edit`][clvq_hf.ConceptModel.load_edit] reads it.

        Returns:
            `Path`: The file.
        """
        file = Path(folder) / EDITS_NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        write_metadata(file, self.facts())
        return file

    @classmethod
    def load(cls, model: BaseConceptModel, host: PreTrainedModel, file: str | Path) -> Self:
        """See [`ConceptModel.load_edit`][clvq_hf.ConceptModel.load_edit]."""
        file = Path(file)
        file = file / EDITS_NAME if file.is_dir() else file
        if not file.is_file():
            raise ValueError(f"There is no file {file}. Write one with edit.save(folder), or clvq-hf edit.")
        remedy = "Make the edit again with model.edit(…) or clvq-hf edit."
        noted = read_metadata(file, remedy)[0]
        given = {"fingerprint": model.fingerprint(), "host": host_identity(host)}
        check_identity(noted, given, str(file), remedy)
        return cls(model, host, **_arguments(noted, file, remedy))


def check_codes(size: int, codes: int | Sequence[int], name: str, distinct: bool = True) -> tuple[int, ...]:
    """Numbers of concepts that exist, in a codebook of `size`.

    Raises:
        ValueError: If there is none, or one does not exist.
    """
    listed = torch.as_tensor(codes).flatten().tolist() if not isinstance(codes, str) else [codes]
    if not listed or any(isinstance(code, bool) or not isinstance(code, int) for code in listed):
        raise ValueError(f"{name} must be the number of a concept, or a list of numbers, got {codes!r}.")
    if wrong := [code for code in listed if not 0 <= code < size]:
        raise ValueError(
            f"Codes run from 0 to {size - 1}; {name}=… has {wrong[:5]}. An audit names codes, and so does "
            "`clvq-hf concepts find`."
        )
    return tuple(dict.fromkeys(listed)) if distinct else tuple(listed)


def _arguments(noted: Mapping[str, Any], file: Path, remedy: str) -> dict[str, Any]:
    """Arguments of an edit that a file notes."""
    kinds = {"forbid": list[int], "how": str, "positions": str, "with_codes": list[int]}
    try:
        found = {name: check_value(noted.get(name), kind, name) for name, kind in kinds.items()}
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error} {remedy}") from error
    return {**found, "with_codes": found["with_codes"] or None}


__all__ = ["ConceptEdit", "check_codes"]
