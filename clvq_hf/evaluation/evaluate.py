"""Everything that is measured about a concept model on a set of texts, step by step; each result is kept on disk."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..checksums import read_rows, write_metadata, write_rows
from ..data.labels import host_labels
from ..data.readouts import host_question, text_readout
from ..data.texts import texts_fingerprint, without_texts
from ..files import locked, remove_folder
from ..hosts.identity import check_identity, host_identity, tokenizer_fingerprint
from ..hosts.readout import Readout
from ..hub.provenance import name_beside, public_name
from ..hub.repositories import RESULTS_NAME, read_results
from ..metrics.ablation_drop.numerics import ablation_drop
from ..metrics.codebook_overlap.numerics import codebook_overlap
from ..metrics.codebook_similarity.numerics import codebook_similarity
from ..metrics.codebook_usage.numerics import codebook_usage
from ..metrics.label_purity.numerics import label_purity
from ..metrics.label_purity.token_table import read_token_table
from ..metrics.routing_divergence.numerics import routing_divergence
from ..metrics.routing_divergence.token_table import read_token_table as read_word_table
from ..models.interventions import HOW
from ..models.modeling_concepts import ConceptModel
from ..tables.attribution import METHODS, SIGNS, read_description
from ..tables.concept_table import ConceptTable
from ..version import __version__
from .ablation.ablate import ablate_texts
from .ablation.conditions import CONDITIONS, WORD_CONDITIONS, check_conditions
from .ablation.outcomes import excluded_shares
from .ablation.references import AblationReferences, fit_references, training_labels
from .ablation.words import fit_words
from .bag_of_codes import mean_states, probe_bags
from .bottleneck import bottleneck_figures, splice_texts
from .fidelity import fidelity_figures, fidelity_texts
from .senses import exchange_senses, sense_figures

logger = logging.get_logger(__name__)

PROTOCOLS = ("code", "all", "probe")
# Folders with rows, each complete or absent. Those that are described say themselves what they are of.
DESCRIBED = ("concept_table", "salience")
OUTCOMES = (*DESCRIBED, "fidelity", "splice", "senses", *(f"ablation-{protocol}" for protocol in PROTOCOLS))


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation depends on, besides the model, the host and the texts.

    Attributes:
        protocols (`tuple[str, ...]`): Of `"code"` and `"all"` (in the model, at these positions) and `"probe"`.
        how (`str`): `"project"` or `"swap"`.
        k (`int`): Directions that are removed.
        num_draws (`int`): Maximum number of draws per text, for conditions that are drawn.
        attribution (`str`): Method of [`salient_tokens`][clvq_hf.salient_tokens].
        n_steps (`int`): Initial number of steps of integrated gradients.
        max_steps (`int`): Maximum number of steps.
        sign (`str`): `"positive"` (evidence for the prediction) or `"abs"` (the paper's).
        max_length (`int` or `None`): In tokens; if `None`, that of the model's training, else the host's limit.
        batch_size (`int`): Texts per host forward.
        conditions (`tuple[str, ...]`): What is removed in the model, see
            [`ablate_texts`][clvq_hf.ablate_texts].
        num_bootstrap (`int`): Draws of texts for the intervals.
        seed (`int`): Random seed.
    """

    protocols: tuple[str, ...] = PROTOCOLS
    how: str = "project"
    k: int = 1
    num_draws: int = 5
    attribution: str = "integrated_gradients"
    n_steps: int = 32
    max_steps: int = 500
    sign: str = "positive"
    max_length: int | None = None
    batch_size: int = 32
    conditions: tuple[str, ...] = tuple(CONDITIONS)
    num_bootstrap: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise ValueError(f"how must be one of {HOW}, got {self.how!r}.")
        for name in ("k", "num_draws", "n_steps", "max_steps", "batch_size", "num_bootstrap", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name, allowed in (("attribution", METHODS), ("sign", SIGNS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}.")
        # The probe has conditions of its own; the others are compared with the salient concept.
        in_model = set(self.protocols) - {"probe"}
        check_conditions(self.conditions if in_model else {*self.conditions, "salient"})
        if unknown := sorted(set(self.protocols) - set(PROTOCOLS)):
            raise ValueError(f"There is no protocol {unknown[0]!r}; there are {', '.join(PROTOCOLS)}.")

    @property
    def needs_words(self) -> bool:
        """Whether something is measured that needs mean states of words."""
        return bool(set(self.protocols) - {"probe"} and WORD_CONDITIONS & set(self.conditions))


@dataclass
class Evaluation:
    """An evaluation in progress, in its own folder: results that exist are not computed again.

    Attributes:
        output_dir (`Path`): Holds `results.json`, `concept_table/` and the outcomes of each protocol.
        settings ([`EvaluationSettings`]): Must be those with which the folder was started.
        results (`dict`): The results so far.
    """

    output_dir: Path
    settings: EvaluationSettings
    results: dict[str, Any] = field(default_factory=dict)

    def begin(
        self,
        model: ConceptModel,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        texts: Dataset,
        train: Dataset | None,
        word_texts: Dataset | None,
        overwrite: bool = False,
        readout: Readout | None = None,
    ) -> None:
        """Open the folder, or resume in it; with `overwrite` remove what an evaluation has left there.

        Raises:
            ValueError: If it holds an evaluation of something else; the message names what differs.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        folders = [self.output_dir / name for name in OUTCOMES]
        file = self.output_dir / RESULTS_NAME
        if overwrite:
            # The file that says what the outcomes are of goes last: nobody may take them for those of something else.
            for folder in folders:
                remove_folder(folder)
            for each in (self.output_dir / "results.md", file):
                each.unlink(missing_ok=True)
        given = {
            "clvq_version": __version__,
            "model_fingerprint": model.fingerprint(),
            "host": (identity := host_identity(host)) | {"name": public_name(identity.get("name"))},
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "texts_sha256": texts_fingerprint(texts),
            "training_texts_sha256": None if train is None else texts_fingerprint(train),
            "word_texts_sha256": None if word_texts is None else texts_fingerprint(word_texts, ["text"]),
            "settings": json.loads(json.dumps(asdict(self.settings))),
            "readout": None if readout is None else readout.to_dict(),
        }
        remedy = "Choose another folder, or start anew with overwrite=True (--overwrite)."
        if not file.is_file():
            if strangers := [folder for folder in folders if folder.is_dir() and folder.name not in DESCRIBED]:
                raise ValueError(f"{strangers[0]} is of an evaluation whose {RESULTS_NAME} is missing. {remedy}")
            self.results = given
            self.save()  # before anything is computed: whoever goes on here must know with what it began
            return
        self.results = read_results(file)
        check_identity(self.results, given, f"The evaluation in {self.output_dir}", remedy)

    def step(self, section: str, name: str, compute: Callable[[], dict[str, Any]]) -> None:
        """Compute a part of the results, unless it exists, and write them all."""
        figures = self.results.setdefault(section, {})
        if name not in figures:
            figures[name] = compute()
            self.save()

    def outcome(self, name: str, compute: Callable[[], Dataset]) -> Dataset:
        """Rows from an earlier run, or computed now and saved."""
        folder = self.output_dir / name
        if not folder.is_dir():
            found = compute()
            if len(found) == 0:  # datasets cannot load one without rows
                return found
            write_rows(found, folder)
        return read_rows(folder, f"Remove {folder}, and run the same command again.")

    def save(self) -> None:
        """Write `results.json`; if it crashes, the previous file remains."""
        write_metadata(self.output_dir / RESULTS_NAME, self.results)


def evaluate_concepts(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    output_dir: str | Path,
    *,
    train: Dataset | None = None,
    word_texts: Dataset | None = None,
    split: str = "test",
    dataset_name: str = "",
    settings: EvaluationSettings | None = None,
    salience: Dataset | None = None,
    references: AblationReferences | None = None,
    num_left_out: int = 0,
    readout: Readout | None = None,
    target: str | int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure a concept model: salience, concept table, purity, routing, overlap, usage, ablations, bottleneck.

    A folder that holds part of the same evaluation is completed, so an interrupted run resumes where it stopped: of
    the same model, host, tokenizer, texts and settings, compared by content.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are, with a head.
        tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
        texts (`datasets.Dataset`): `text` and, for most figures, `label` (see
            [`host_labels`][clvq_hf.data.host_labels]). No model may have been trained on them.
        output_dir (`str` or `Path`): Where `results.json`, the table and the outcomes go.
        train (`datasets.Dataset`, *optional*): Training texts, for the class directions and mean states. Texts that
            occur among them, or that the model was trained on, are removed from `texts`, and counted. Without `train`,
            the references that need it and the bottleneck are left out; of a codebook without its decoder the latter
            always is.
        word_texts (`datasets.Dataset`, *optional*): All texts that there are, for the mean states of words, which
            need many: `train` if not given. Those of `texts` are left out; of more than 20,000 as many are drawn.
        split (`str`): Name of the split of `texts`.
        dataset_name (`str`): For the record.
        settings ([`EvaluationSettings`][clvq_hf.evaluation.EvaluationSettings], *optional*): How.
        salience (`datasets.Dataset`, *optional*): Of these texts, computed before: it depends only on the host.
        references ([`AblationReferences`][clvq_hf.evaluation.AblationReferences], *optional*): Of `train`, made before.
        num_left_out (`int`): Texts that were left out before because they were trained on, for the record.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): What the host is asked about each text; if not
            given, what the salience is of, or what the head answers.
        target (`str` or `int`, *optional*): The label of a multi-label head, or the output of a regression with
            several; the first if not given.
        overwrite (`bool`): Whether to remove an evaluation that is in the folder, and start anew.

    Returns:
        `dict[str, Any]`: What `results.json` holds: `texts`, `table` (one entry per metric), `ablation` (one per
        protocol), `bottleneck`, `words` (`senses`), and what they were made with.

    Raises:
        ValueError: If the host, the texts or the folder do not fit.
    """
    settings = EvaluationSettings() if settings is None else settings
    if settings.max_length is None:
        made_with = None if salience is None else read_description(salience)[1]
        limit = model.config.longest_text if made_with is None else made_with["max_length"]
        settings = replace(settings, max_length=limit)
    evaluation = Evaluation(Path(output_dir), settings)
    model.check_host(host)
    if readout is None and target is None and salience is not None:
        readout = Readout.from_dict((read_description(salience)[1] or {}).get("readout"))
    readout = readout or host_question(host, target)
    if readout is not None:
        sizes = {"max_length": settings.max_length, "batch_size": settings.batch_size, "stack": model.config.stack}
        readout = text_readout(host, tokenizer, texts, readout, target=target, **sizes)
    texts = host_labels(texts, host, readout=readout)
    train = None if train is None else host_labels(train, host, readout=readout)
    if train is not None and references is None:
        training_labels(train)  # before hours of measuring
    kept = without_texts(texts, [] if train is None else train["text"], numbers=model.training_texts)
    if len(kept) == 0:
        raise ValueError(
            "All of these texts are among the training texts, so there is nothing to measure on. Name texts that "
            "nothing was trained on: another split, or a part that was held out (--part select)."
        )
    with locked(evaluation.output_dir):
        evaluation.begin(model, host, tokenizer, texts, train, word_texts, overwrite, readout)
        evaluation.results["texts"] = {
            "dataset": public_name(dataset_name),
            "split": split,
            "num_texts": len(kept),
            "num_left_out": num_left_out + len(texts) - len(kept),
        }
        if salience is not None:
            evaluation.outcome("salience", lambda: salience)
        table = _table(evaluation, model, host, tokenizer, kept, split, dataset_name, readout)
        evaluation.results["model"] = name_beside(model.config.name_or_path, evaluation.output_dir)
        evaluation.results["host_name_or_path"] = public_name(model.config.host_name_or_path)
        evaluation.results["layers"] = [model.config.lower_layer, model.config.upper_layer]
        error = np.asarray([value for value in table.texts["salience_error"] if value is not None])
        evaluation.results["texts"]["label_names"] = table.label_names
        evaluation.results["texts"]["median_salience_error"] = float(np.median(error)) if len(error) else None
        wanted = [name for name in settings.protocols if name != "probe"]
        measured = {"fidelity", *(["bottleneck"] if model.config.has_decoder else [])} <= set(evaluation.results)
        if references is None and train is not None and (wanted or not measured):
            sizes = {"max_length": settings.max_length, "batch_size": settings.batch_size}
            words, config = None, model.config
            if word_texts is not None and settings.needs_words:
                others = without_texts(word_texts, kept["text"])
                words = fit_words(host, tokenizer, others, config.lower_layer, stack=config.stack, **sizes)
            references = fit_references(model, host, tokenizer, train, words=words, readout=readout, **sizes)
        _measure_table(evaluation, model, table)
        evaluation.step(
            "table",
            "bag_of_codes",
            lambda: probe_bags(
                table, mean_states(model, host, tokenizer, table, settings.batch_size), seed=settings.seed
            ),
        )
        _measure_ablation(evaluation, model, host, tokenizer, table, references)
        if references is not None:
            coded = evaluation.outcome(
                "fidelity",
                lambda: fidelity_texts(
                    model,
                    host,
                    tokenizer,
                    table,
                    references.statistics,
                    readout=readout,
                    batch_size=settings.batch_size,
                ),
            )
            evaluation.step("fidelity", "codes", lambda: fidelity_figures(coded))
            if model.config.has_decoder:
                outcome = evaluation.outcome(
                    "splice",
                    lambda: splice_texts(
                        model,
                        host,
                        tokenizer,
                        table,
                        upper_mean=references.upper_mean,
                        batch_size=settings.batch_size,
                        seed=settings.seed,
                    ),
                )
                evaluation.step("bottleneck", "splice", lambda: bottleneck_figures(outcome))
            _measure_senses(evaluation, model, host, tokenizer, table, references)
        evaluation.save()
        return evaluation.results


def _table(
    evaluation: Evaluation,
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    split: str,
    dataset_name: str,
    readout: Readout | None,
) -> ConceptTable:
    folder, settings = evaluation.output_dir / "concept_table", evaluation.settings
    if folder.exists():
        table = ConceptTable.load_from_disk(folder)
        table.check_model(model)
        table.check_host(host, tokenizer)
        if not table.is_of(texts["text"][:]):
            raise ValueError(
                f"{folder} is of other texts than those that are measured. Choose another folder, or start anew with "
                "overwrite=True (--overwrite)."
            )
        return table
    salience = evaluation.outcome(
        "salience",
        lambda: model.salient_tokens(
            host,
            tokenizer,
            texts,
            method=settings.attribution,
            n_steps=settings.n_steps,
            max_steps=settings.max_steps,
            sign=settings.sign,
            max_length=settings.max_length,
            batch_size=settings.batch_size,
            readout=readout,
        ),
    )
    return model.concept_table(
        host,
        tokenizer,
        texts,
        split=split,
        dataset_name=dataset_name,
        salience=salience,
        readout=readout,
        max_length=settings.max_length,
        batch_size=settings.batch_size,
        output_dir=folder,
    )


def _measure_table(evaluation: Evaluation, model: ConceptModel, table: ConceptTable) -> None:
    """The metrics that read only the concept table."""
    settings = evaluation.settings
    random = {"num_bootstrap": settings.num_bootstrap, "seed": settings.seed}
    tokens, with_special = table.metric_inputs(), table.metric_inputs(special_tokens=True)
    counts = np.bincount(np.concatenate([*map(np.asarray, tokens["codes"])]), minlength=table.codebook_size)
    evaluation.step(
        "table", "codebook_usage", lambda: codebook_usage(codes=tokens["codes"], codebook_size=table.codebook_size)
    )
    codebook = model.codebook.detach().cpu().numpy()
    evaluation.step("table", "codebook_similarity", lambda: codebook_similarity(vectors=codebook, counts=counts))
    if len({label for label in tokens["labels"] if label >= 0}) < 2:
        logger.warning("The texts have fewer than two labels: purity, routing and overlap are left out.")
        return
    content = table.metric_inputs(words=True, stop_words=False)
    evaluation.step(
        "table", "label_purity", lambda: label_purity(read_token_table(**tokens), seed=settings.seed, details=True)
    )
    evaluation.step(
        "table",
        "label_purity_with_special_tokens",
        lambda: label_purity(read_token_table(**with_special), seed=settings.seed),
    )
    evaluation.step(
        "table", "routing_divergence", lambda: routing_divergence(read_word_table(**content), details=True, **random)
    )
    evaluation.step("table", "codebook_overlap", lambda: codebook_overlap(**tokens, **random))


def _measure_ablation(
    evaluation: Evaluation,
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    references: AblationReferences | None,
) -> None:
    settings = evaluation.settings
    for name in settings.protocols:
        if name == "probe" and len({label for label in table.texts["label"] if label >= 0}) < 2:
            logger.warning("The texts have fewer than two labels: the probe protocol is left out.")
            continue
        where = {"protocol": "probe"} if name == "probe" else {"positions": name, "how": settings.how}
        outcome = evaluation.outcome(
            f"ablation-{name}",
            lambda where=where: ablate_texts(
                model,
                host,
                tokenizer,
                table,
                references=references,
                conditions=settings.conditions,
                k=settings.k,
                num_draws=settings.num_draws,
                batch_size=settings.batch_size,
                seed=settings.seed,
                **where,
            ),
        )
        evaluation.step(
            "ablation", name, lambda outcome=outcome, name=name: _ablation_figures(outcome, name, settings)
        )


def _measure_senses(
    evaluation: Evaluation,
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    references: AblationReferences,
) -> None:
    sizes = {"batch_size": evaluation.settings.batch_size, "seed": evaluation.settings.seed}
    outcome = evaluation.outcome(
        "senses", lambda: exchange_senses(model, host, tokenizer, table, references.occurrences, **sizes)
    )
    evaluation.step("words", "senses", lambda: sense_figures(outcome))


def _ablation_figures(outcome: Dataset, name: str, settings: EvaluationSettings) -> dict[str, Any]:
    figures = ablation_drop(outcome.to_dict(), num_bootstrap=settings.num_bootstrap, seed=settings.seed, details=True)
    # Rows per text are in the outcomes, not in the results.
    del figures["differences"]
    if name == "probe":
        # Nothing is matched there.
        figures = {figure: value for figure, value in figures.items() if "_matched" not in figure}
    present = set(outcome["condition"])
    return figures | {
        figure: share
        for figure, share in excluded_shares(outcome).items()
        if figure.removesuffix("_excluded_share") in present
    }


__all__ = ["Evaluation", "EvaluationSettings", "evaluate_concepts"]
