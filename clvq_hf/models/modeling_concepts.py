"""`ConceptModel`: what one does with a concept method: attach it to a host, ask for its concepts, intervene."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..hosts import hooks
from ..hosts.host import load_host
from ..hosts.loading import load_tokenizer
from ..hosts.readout import Readout
from ..rendering.pages import render_summary
from .edits import ConceptEdit
from .interventions import Splice, ablate, steer
from .modeling_saved import SavedConceptModel
from .tap import Tap

if TYPE_CHECKING:
    from datasets import Dataset

    from ..auditing import Audit
    from ..explanations import Explanation, Explanations
    from ..tables.concept_table import ConceptTable

logger = logging.get_logger(__name__)


class ConceptModel(SavedConceptModel):
    """Base of all concept methods: one concept (code) per token, and everything that one does with it.

    What a method implements is told in `BaseConceptModel`. Everything else comes with this class: attaching to a host,
    intervening in it, tables, explanations and audits; and from `SavedConceptModel` saving, loading and sharing,
    and checking that a host fits.
    """

    def _repr_html_(self) -> str:
        return render_summary(type(self).__name__, self.facts())

    def attach(self, host: Any, keep_states: bool = True) -> Tap:
        """Watch `host`: after every call its concepts lie on the returned tap.

        The tap is active from this call until [`Tap.remove`][clvq_hf.models.Tap.remove], or the end of a `with` block.
        In `generate()` the codes of each step are appended to those of the prompt.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are; it may be wrapped in PEFT or DDP.
            keep_states (`bool`): Whether the tap also keeps the (detached) states of both layers. Turn it off for
                long generations.

        Returns:
            [`Tap`][clvq_hf.models.Tap]: with `.codes`, `.hidden_states` and `.target_hidden_states`.

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
        readout: Readout | None = None,
        target: str | int | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        output_dir: str | Path | None = None,
    ) -> "ConceptTable":
        """The concept of every token of some texts, with labels and predictions: one pass over `host`.

        Memory stays bounded: rows are written to Arrow files as they come, and mapped.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are. Its predictions are in the table if it has a
                head (`AutoModelForSequenceClassification`, `AutoModelForTokenClassification`,
                `AutoModelForCausalLM`); else it is stopped early.
            tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
            dataset (`datasets.Dataset`): The texts; row numbers become `text_id`. Empty ones are left out and counted.
            split (`str`): Which part of the data these texts are: `"test"`, `"select"`, `"codebook_train"`, ….
                Metrics warn when they read what was trained on.
            dataset_name (`str`): For the record.
            salience (`datasets.Dataset`, *optional*): What
                [`salient_tokens`][clvq_hf.ConceptModel.salient_tokens] returned for the same texts.
            readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): What the host is asked about each text; if
                not given, what the salience is of, or what the head answers.
            target (`str` or `int`, *optional*): The label of a multi-label head, or the output of a regression with
                several; the first if not given.
            text_column (`str`, *optional*): Column of the texts; if not given, that of training, or `"text"`.
            label_column (`str`, *optional*): Column of the labels, see [`host_labels`][clvq_hf.data.host_labels]; if
                not given, that of training, or `"label"`. There may be none.
            max_length (`int`, *optional*): In tokens; if not given, that of training, or the host's limit.
            batch_size (`int`): Texts a host forward.
            output_dir (`str` or `Path`, *optional*): Where the table is saved; a temporary folder if not given.

        Returns:
            [`ConceptTable`][clvq_hf.ConceptTable]: With one row per real token.

        Raises:
            ValueError: If the host does not fit, the tokenizer is a slow one, the texts or their labels are unusable,
                or the salience is of another host, tokenizer, layer, question or `max_length`, or of other texts; the
                message names it.
        """
        from ..tables.builder import build_table  # pulls pandas and scikit-learn

        self.check_host(host)
        if not self.is_initialized:
            raise ValueError("The concepts of this model were never fitted to data; train it first.")
        text_column = text_column or self.config.column_of("text", dataset.column_names)
        num_trained_on = self.count_trained_on(dataset[text_column]) if text_column in dataset.column_names else None
        if num_trained_on:
            logger.warning(
                f"{num_trained_on} of these {len(dataset)} texts were trained on: figures of them will be too good."
            )
        return build_table(
            self,
            host,
            tokenizer,
            dataset,
            num_trained_on=num_trained_on,
            split=split,
            dataset_name=dataset_name,
            salience=salience,
            readout=readout,
            target=target,
            text_column=text_column,
            label_column=label_column or self.config.column_of("label", dataset.column_names),
            max_length=max_length or self.config.longest_text,
            batch_size=batch_size,
            output_dir=output_dir,
        )

    def salient_tokens(
        self, host: Any, tokenizer: PreTrainedTokenizerBase, dataset: "Dataset", **options: Any
    ) -> "Dataset":
        """Attribute the host's predictions to its tokens at `lower_layer`, for a table with salience.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are: a classifier or a causal language model.
            tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
            dataset (`datasets.Dataset`): The texts.
            **options: Those of [`salient_tokens`][clvq_hf.salient_tokens], but for layer and stack. `text_column` and
                `max_length` are those of training if not given.

        Returns:
            `datasets.Dataset`: See [`salient_tokens`][clvq_hf.salient_tokens].

        Raises:
            ValueError: If the host does not fit, or an option is out of range.
        """
        from ..tables.attribution import salient_tokens  # pulls pandas and scikit-learn

        self.check_host(host)
        options["max_length"] = options.get("max_length") or self.config.longest_text
        options.setdefault("text_column", self.config.column_of("text", dataset.column_names))
        return salient_tokens(host, tokenizer, dataset, self.config.lower_layer, stack=self.config.stack, **options)

    def explain(
        self,
        host: Any,
        tokenizer: PreTrainedTokenizerBase,
        texts: str | Sequence[str],
        target: int | str | None = None,
        *,
        table: "ConceptTable | None" = None,
        **options: Any,
    ) -> "Explanation | Explanations":
        """Explain predictions: which concepts made the host decide, and would it still decide so without them?

        Args:
            host (`PreTrainedModel`): The model whose concepts these are, with a head.
            tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
            texts (`str` or `Sequence[str]`): One text or several. Texts that are longer than the host can read are cut
                into windows that share a quarter of their tokens; the windows' outputs are averaged, weighted by the
                tokens that each adds. Of a causal language model only the end of a long text is read.
            target (`int` or `str`, *optional*): The answer that is explained, by name or number; `"all"` for each of
                them. Default: the one that the host predicts. Of a multi-label head it is a label (default: the one
                with the largest logit), of a regression an output (default: the first one). Of a token classifier
                words of this class are explained (default: of all but the outside class, `O`). Of a causal language
                model it is a text that may follow (default: the next token).
            table ([`ConceptTable`][clvq_hf.ConceptTable], *optional*): Where the concepts' words and labels come from.
                Default: the one that was saved with the model, if there is one.
            **options: Those of [`Explainer`][clvq_hf.explanations.Explainer]: `method`, `n_steps`, `max_error`,
                `max_length`, `long_texts`, `batch_size`.

        Returns:
            [`Explanation`][clvq_hf.explanations.Explanation]: Of a single text. A list of several texts, with
            `"all"`, and of a token classifier: one per text, class and word, in order. Texts without a token are left
            out, with a warning.

        Raises:
            ValueError: If the host or an argument does not fit, or no text has a token.

        Example:
            ```python
            explanation = model.explain(host, tokenizer, "a wonderful film")
            print(explanation)
            explanation.salient.flips  # would the host decide otherwise without the strongest concept?
            ```
        """
        from ..explanations import Explainer, Explanations  # pulls pandas and scikit-learn

        explainer = Explainer(self, host, tokenizer, self.find_concepts() if table is None else table, **options)
        explanations = Explanations(explainer.explain([texts] if isinstance(texts, str) else texts, target))
        return explanations[0] if isinstance(texts, str) and explainer.is_single(target) else explanations

    def audit(
        self,
        host: Any,
        tokenizer: PreTrainedTokenizerBase,
        table: "ConceptTable",
        *,
        references: Any = None,
        how: str | None = None,
        phrases: bool = True,
        slices: Mapping[str, Sequence[Any]] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        max_texts_per_concept: int | None = 100,
        batch_size: int = 32,
        output_dir: str | Path | None = None,
        overwrite: bool = False,
    ) -> "Audit":
        """Audit a classifier: the effect of every concept on every class, and which concepts are suspect.

        Every concept is removed from every text that has it, so this takes as long as reading the texts a few dozen
        times; [`Auditor`][clvq_hf.auditing.Auditor] says how often before it begins.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are, with a head that chooses classes.
            tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
            table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the texts that are audited, which nothing was trained on.
            references ([`AblationReferences`][clvq_hf.evaluation.AblationReferences], *optional*): Mean states of
                codes and words. Default: those of the table's texts.
            how (`str`, *optional*): `"mean"`: the mean state of a concept's tokens makes way for that of all tokens.
                `"project"`: the component along its direction is removed. Default: the former, if codes are states.
            phrases (`bool`): Whether concepts that come together in the texts, such as those of the words of a source
                line or of opening and closing quotation marks, are audited as one.
            slices (`Mapping[str, Sequence]`, *optional*): Columns of the dataset that the table was made from, such
                as the source of each text: by name, one value per row.
            groups (`Mapping[str, Sequence[str]]`, *optional*): Word lists, such as names of groups of people.
            max_texts_per_concept (`int`, *optional*): From so many texts each concept is removed, drawn by hash; from
                all with `None`.
            batch_size (`int`): Texts per forward pass of the host.
            output_dir (`str` or `Path`, *optional*): Where the audit is saved. If it is interrupted, the same call
                goes on where it stopped.
            overwrite (`bool`): Whether an audit of other texts, or by another concept model, that is there is replaced.

        Returns:
            [`Audit`][clvq_hf.auditing.Audit]: Effects, suspects, and the rows behind them.

        Raises:
            ValueError: If host, table, references or an argument do not fit, or the host predicts one of too many
                tokens.

        Example:
            ```python
            audit = model.audit(host, tokenizer, table)
            print(audit)  # the first suspects
            effects, concepts = audit.to_pandas()
            ```
        """
        from ..auditing import Auditor  # pulls pandas and scikit-learn

        auditor = Auditor(
            self,
            host,
            tokenizer,
            table,
            references=references,
            how=how,
            phrases=phrases,
            slices=slices,
            groups=groups,
            max_texts_per_concept=max_texts_per_concept,
            batch_size=batch_size,
        )
        return auditor.run(output_dir, overwrite)

    def promoted_tokens(
        self,
        host: Any,
        tokenizer: PreTrainedTokenizerBase,
        dataset: "Dataset",
        codes: int | Iterable[int],
        k: int = 10,
        *,
        text_column: str | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
    ) -> dict[int, list[tuple[str, float]]]:
        """The tokens that a causal language model predicts more strongly after tokens of a concept: one pass over it.

        The mean state of the concept's tokens at the last layer goes through the host's final norm and unembedding, as
        in the logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens"). The 100 tokens with the highest
        logits are ranked by how far these exceed the logits of the mean state of all tokens: by the logits alone, all
        concepts would promote the same frequent tokens, and by the differences alone, tokens that never occur.

        Args:
            host (`PreTrainedModel`): The causal language model whose concepts these are.
            tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
            dataset (`datasets.Dataset`): Texts in which the concepts occur, such as `table.texts`.
            codes (`int` or iterable of `int`): The concepts.
            k (`int`): Number of tokens.
            text_column (`str`, *optional*): Column of the texts; if not given, that of training, or `"text"`.
            max_length (`int`, *optional*): In tokens; if not given, that of training, or the host's limit.
            batch_size (`int`): Number of texts per host forward.

        Returns:
            `dict[int, list[tuple[str, float]]]`: For each code its tokens, most strongly promoted first, with the
            difference of the logits; an empty list if no token of the texts has the code. Special tokens and attention
            sinks do not count.

        Raises:
            ValueError: If the host does not fit or predicts no tokens, a code does not exist, or the texts are
                unusable.
        """
        from .promoted_tokens import promoted_tokens  # pulls datasets

        self.check_host(host)
        return promoted_tokens(
            self,
            host,
            tokenizer,
            dataset,
            [int(codes)] if isinstance(codes, int | np.integer) else [int(code) for code in codes],
            k=k,
            text_column=text_column or self.config.column_of("text", dataset.column_names),
            max_length=max_length or self.config.longest_text,
            batch_size=batch_size,
        )

    def ablate(
        self,
        host: Any,
        codes: int | Sequence[int] | torch.Tensor,
        positions: str | torch.Tensor = "code",
        how: str = "project",
        mean: torch.Tensor | None = None,
        member_mean: torch.Tensor | None = None,
        with_code: int | torch.Tensor | None = None,
    ) -> hooks.Edit:
        """Remove concepts from `host` at `lower_layer`, until the returned handle is removed or its `with` block ends.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are.
            codes (`int`, sequence of `int`, or `torch.Tensor` of shape `(B,)` or `(B, k)`): One concept or several, for
                all texts; a tensor names those of each text.
            positions (`str` or `torch.Tensor`): `"code"`: where these codes occur. `"all"`: at all real tokens.
                `"cls"`: the first real token. `"last"`: the last one; in `generate()` also each new token. A bool mask
                `(B, S)` or `(S,)`: there; in `generate()` these are positions of the prompt. Attention sinks stay as
                they are, unless a mask names them.
            how (`str`): `"project"`: off the span of the concepts' vectors, `x ← x - QᵀQ(x - c)`, where `c` is the
                [`projection_centre`][clvq_hf.ConceptModel.projection_centre], zero for most methods. `"swap"`: the
                mean state of the concept's tokens makes way for that of all tokens, `x ← x - e + μ`; for one code and
                methods with a codebook. `"interchange"`: it makes way for that of the tokens of `with_code`.
            mean (`torch.Tensor` of shape `(d,)`, *optional*): `μ`;
                [`mean_state`][clvq_hf.ConceptModel.mean_state] if not given.
            member_mean (`torch.Tensor` of shape `(d,)` or `(B, d)`, *optional*): `e`, of all texts or of each, as in
                [`MemberMeans`][clvq_hf.evaluation.MemberMeans]; `member_means` if not given. Models of before 0.2 that
                have an encoder do not know them: give both.
            with_code (`int` or `torch.Tensor` of shape `(B,)`, *optional*): For `"interchange"`.

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
        return ablate(self, host, codes, positions, how, mean, member_mean, with_code)

    def edit(
        self,
        host: Any,
        forbid: int | Sequence[int],
        how: str | None = None,
        positions: str = "code",
        with_codes: int | Sequence[int] | None = None,
    ) -> ConceptEdit:
        """Let `host` do without concepts, until the returned handle is removed or its `with` block ends.

        The handle can also make it permanent, as a plain model of transformers
        ([`fold`][clvq_hf.models.ConceptEdit.fold]), and measure what it repairs and costs
        ([`retest`][clvq_hf.models.ConceptEdit.retest]). [`ablate`][clvq_hf.ConceptModel.ablate] is for measurements
        instead: it can remove another concept from each text.

        Args:
            host (`PreTrainedModel`): The model whose concepts these are.
            forbid (`int` or `Sequence[int]`): The concepts.
            how (`str`, *optional*): `"mean"`: at each of their tokens the mean state of the concept's tokens makes way
                for that of all tokens, `x ← x - e + μ`. `"project"`: off the span of the concepts' directions.
                `"interchange"`: the concept's mean state makes way for that of another concept. Default: `"mean"`;
                `"project"` for methods whose concepts are directions.
            positions (`str`): `"code"`: the tokens that have these concepts. `"all"`: all tokens, with `"project"`.
                Padding and attention sinks stay as they are.
            with_codes (`int` or `Sequence[int]`, *optional*): With `"interchange"`, the concept that takes the place of
                all, or of each. Default: of each the allowed one whose mean state is nearest.

        Returns:
            [`ConceptEdit`][clvq_hf.models.ConceptEdit]: A context manager with `remove()`.

        Raises:
            ValueError: If the host does not fit, a concept does not exist, or an argument is unknown.

        Example:
            ```python
            with model.edit(host, forbid=[31, 207]):
                host(**inputs).logits
            ```
        """
        return ConceptEdit(self, host, forbid, how, positions, with_codes)

    def load_edit(self, host: Any, file: str | Path) -> ConceptEdit:
        """Apply an edit that [`ConceptEdit.save`][clvq_hf.models.ConceptEdit.save] or `clvq-hf edit` has written.

        Args:
            host (`PreTrainedModel`): The host that was edited.
            file (`str` or `Path`): `edits.json`, or its folder.

        Raises:
            ValueError: If it is missing or damaged, or of another concept model or host.
        """
        return ConceptEdit.load(self, host, file)

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
            [`Splice`][clvq_hf.models.Splice]: A context manager with `remove()`.

        Raises:
            ValueError: If the host does not fit.
        """
        return Splice(self, host)


def load_with_host(
    name: str, host: str | None = None, gguf_file: str | None = None
) -> tuple[ConceptModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a concept model with its host and tokenizer: those that the model names, or the same ones from elsewhere.

    Args:
        name (`str`): Folder or Hub id of the concept model.
        host (`str`, *optional*): Folder or Hub id of the host, if the one that the model names is not to be loaded.
        gguf_file (`str`, *optional*): File of the host, if its weights are in that format, and it is another one than
            the model names.

    Raises:
        ValueError: If the model has reference texts, and this is another host or tokenizer; the message says why.
    """
    model = ConceptModel.from_pretrained(name)
    place = {} if gguf_file is None else {"gguf_file": gguf_file}
    if host is None:
        return model, model.load_host(**place), model.load_tokenizer(**place)
    found, tokenizer = load_host(host, **place), load_tokenizer(host, **place)
    model._check_loaded(found, tokenizer)
    return model, found, tokenizer


__all__ = ["ConceptModel", "load_with_host"]
