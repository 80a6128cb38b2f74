"""A whole training run from names: host, texts, layers, estimate, training, and the table of the concepts."""

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..data.labels import host_labels
from ..data.readouts import host_question, text_readout
from ..data.text_source import REST, TextSource, select_part
from ..data.texts import without_texts
from ..data.transforms import shuffle_rows
from ..files import locked
from ..hosts import hooks
from ..hosts.host import load_host
from ..hosts.loading import load_tokenizer
from ..hosts.readout import Readout
from ..hub.provenance import recorded_name
from ..hub.repositories import CONCEPTS_FOLDER
from ..models.configuration_clvq import PAPER_CONFIG, CLVQConfig
from ..models.modeling_clvq import CLVQModel
from ..models.modeling_concepts import ConceptModel
from .checkpoints import newest_complete
from .estimate import estimate_run
from .settings import check_settings, config_fields, training_fields
from .trainer import CLVQTrainer
from .training_args import CLVQTrainingArguments

Say = Callable[[str], None]

# Texts of the concept table at the end of training, and steps of its integrated gradients: minutes, not hours.
MAX_TABLE_TEXTS = 1000
TABLE_STEPS = 16
# Defaults of the command that differ from those of the arguments.
RUN_DEFAULTS = {"save_strategy": "epoch", "save_total_limit": 1, "warmup_steps": 0.1, "report_to": "none"}


@dataclass(frozen=True)
class TrainingRun:
    """The arguments of `clvq-hf train`.

    Attributes:
        host (`str`): Folder or Hub id.
        source ([`TextSource`][clvq_hf.data.text_source.TextSource]): The texts.
        output_dir (`str`): Folder of the result.
        lower_layer (`int` or `None`): Layer whose states get a concept; see [`choose_layers`].
        upper_layer (`int` or `None`): Layer that is reconstructed.
        gguf_file (`str` or `None`): File of the host, if its weights are in that format.
        paper (`bool`): Whether the paper's settings are the defaults.
        resume (`bool`): Whether to continue from the newest checkpoint in the folder.
        settings (`Mapping[str, Any]`): Fields of `CLVQConfig` and `CLVQTrainingArguments`.
    """

    host: str
    source: TextSource
    output_dir: str
    lower_layer: int | None = None
    upper_layer: int | None = None
    gguf_file: str | None = None
    paper: bool = False
    resume: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def choose_layers(num_blocks: int, lower_layer: int | None = None, upper_layer: int | None = None) -> tuple[int, int]:
    """The layers of a run: those that are given, else the middle one and the last one.

    The codes of the last layers are mostly those of the predicted class, which by then is in every token; below the
    middle, they are mostly those of the word. See the studies on the results page of the docs.
    """
    upper = num_blocks if upper_layer is None else upper_layer
    return (min(num_blocks // 2, upper) if lower_layer is None else lower_layer), upper


def train_concepts(run: TrainingRun, say: Say) -> tuple[ConceptModel, Any]:
    """Train a CLVQ model, save it with the concept table of held-out texts, and say what happens.

    Every process of a distributed run must call this; the first one makes the table.

    Args:
        run ([`TrainingRun`]): The arguments.
        say (`Callable[[str], None]`): Gets a line of text for people.

    Returns:
        `tuple[ConceptModel, ConceptTable]`: The model, and the table on the first process, if texts were held out; else
            `None`.

    Raises:
        ValueError: If anything does not fit, before time is spent where that is possible.
    """
    settings = check_settings(run.settings, config_fields() | training_fields())
    config_settings = {name: settings[name] for name in settings if name in config_fields()}
    training_settings = {name: settings[name] for name in settings if name in training_fields()}
    load = {} if run.gguf_file is None else {"gguf_file": run.gguf_file}
    _texts(run.source, None)  # wrong columns are told before the host is loaded
    host = load_host(run.host, **load)
    question = host_question(host)
    source, train, held_out = _texts(run.source, question)
    tokenizer = load_tokenizer(run.host, **load)
    config = _config(run, host, config_settings, say)
    args = _arguments(run, config.is_causal, training_settings)
    set_seed(args.seed)
    # Before hours of training, not after them.
    held_out = without_texts(held_out, train["text"])
    if question is None or not question.needs_centre:
        held_out = host_labels(held_out, host, readout=question)
    # One lock is enough for all processes of a run.
    with locked(Path(args.output_dir)) if args.process_index == 0 else nullcontext():
        trainer = CLVQTrainer(
            model=CLVQModel(config),
            host=host,
            args=args,
            train_dataset=train,
            eval_dataset=held_out if len(held_out) else None,
            processing_class=tokenizer,
        )
        trainer.source = source
        say(
            f"Texts: {len(train):,} of {_named(source.split, source.part)} to train on, "
            f"{len(held_out):,} of {_named(source.eval_split, source.eval_part)} held out."
        )
        say(f"Estimate: {estimate_run(trainer)} of training.")
        checkpoint = args.resume_from_checkpoint
        if run.resume and Path(args.output_dir).is_dir():
            checkpoint = newest_complete(args.output_dir)
        if run.resume:
            say(
                "There is no complete checkpoint: training starts anew."
                if checkpoint is None
                else f"Resuming {checkpoint}."
            )
        trainer.train(resume_from_checkpoint=checkpoint)
        if len(held_out):
            figures = trainer.evaluate()
            trainer.log_metrics("eval", figures)
        trainer.save_model()
        trainer.save_state()
        if not trainer.is_world_process_zero():
            return trainer.model, None
        if not len(held_out):
            say("All held-out texts are training texts too, so there is no concept table.")
            return trainer.model, None
        shown = shuffle_rows(held_out, args.seed).select(range(min(len(held_out), MAX_TABLE_TEXTS)))
        return trainer.model, _table(trainer, shown, source, say)


def salience_of(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    say: Say,
    **options: Any,
) -> Dataset | None:
    """Salient tokens of texts by the best method that is installed; `None`, and a line, if the host predicts nothing.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The model whose layer is read.
        host (`PreTrainedModel`): Its host.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        texts (`datasets.Dataset`): The texts.
        say (`Callable[[str], None]`): Gets a line that names the method.
        **options: For [`ConceptModel.salient_tokens`][clvq_hf.ConceptModel.salient_tokens].
    """
    if hooks.residual_stream(host, model.config.stack).is_causal:
        # Decoders that normalise each block's input jump at a state of zero.
        options.setdefault("baseline", "mean")
    if host_question(host) is None:
        say(f"No salience: a {type(host).__name__} has no head that makes predictions.")
        return None
    if importlib.util.find_spec("captum") is None:
        say('Salience by gradient × input; pip install "clvq-hf[evaluation]" adds integrated gradients.')
        options["method"] = "gradient_x_input"
    else:
        say("Salience by integrated gradients.")
    return model.salient_tokens(host, tokenizer, texts, **options)


def _texts(source: TextSource, question: Readout | None) -> tuple[TextSource, Dataset, Dataset]:
    """The source with everything that was left open, and its texts: to train on, and held out."""
    held_out, eval_split, eval_part = source.load_held_out(question)
    if source.part is None and eval_part is not None:
        source = replace(source, part=REST)
    source = replace(source, eval_split=eval_split, eval_part=eval_part)
    train = select_part(source.load(source.split, question), source.part)
    if len(train) == 0:
        raise ValueError(f"There are no texts in {_named(source.split, source.part)} of {source.dataset}.")
    return replace(source, dataset=recorded_name(source.dataset) or source.dataset), train, held_out


def _config(run: TrainingRun, host: PreTrainedModel, settings: Mapping[str, Any], say: Say) -> CLVQConfig:
    stack = settings.get("stack")
    stream = hooks.residual_stream(host, stack)
    lower, upper = choose_layers(stream.num_blocks, run.lower_layer, run.upper_layer)
    reason = " You chose these layers."
    if run.lower_layer is None:
        reason = (
            " The middle layer is the default: above it, concepts increasingly describe the predicted class, and "
            "below it the words (--lower-layer, --upper-layer)."
        )
    say(
        f"Layers: concepts at layer {lower} of {stream.num_blocks}, from which layer {upper} is reconstructed.{reason}"
    )
    width = stream.hidden_sizes[lower] if 0 <= lower <= stream.num_blocks else 8
    heads = next(number for number in range(8, 0, -1) if width % number == 0)
    fields = {"num_attention_heads": heads, **(PAPER_CONFIG if run.paper else {}), **settings}
    return CLVQConfig.from_host(host, lower, upper, **fields)


def _arguments(run: TrainingRun, is_causal: bool, settings: Mapping[str, Any]) -> CLVQTrainingArguments:
    make = CLVQTrainingArguments
    defaults = dict(RUN_DEFAULTS)
    if run.paper:
        make = CLVQTrainingArguments.paper_decoder if is_causal else CLVQTrainingArguments.paper_encoder
        del defaults["warmup_steps"]
    if settings.get("save_strategy", "epoch") == "no":
        del defaults["save_total_limit"]
    return make(
        run.output_dir,
        **{
            **defaults,
            "use_cpu": not torch.accelerator.is_available(),
            "dataset_name": run.source.dataset,
            **settings,
        },
    )


def _table(trainer: CLVQTrainer, texts: Dataset, source: TextSource, say: Say) -> Any:
    model, host, tokenizer = trainer.model.eval(), trainer.host, trainer.tokenizer
    folder = Path(trainer.args.output_dir) / CONCEPTS_FOLDER
    say(f"Concept table of {len(texts):,} held-out texts.")
    steps: dict[str, Any] = {"n_steps": TABLE_STEPS, "max_steps": TABLE_STEPS}
    readout = host_question(host)
    if readout is not None:
        readout = text_readout(host, tokenizer, texts, readout, stack=model.config.stack)
        steps["readout"] = readout
    salience = salience_of(model, host, tokenizer, texts, say, **steps)
    return model.concept_table(
        host,
        tokenizer,
        texts,
        salience=salience,
        readout=readout,
        split=source.eval_part or source.eval_split or "test",
        dataset_name=source.dataset,
        output_dir=folder,
    )


def _named(split: str | None, part: str | None) -> str:
    return f"the split {split}" + (f", part {part}" if part else "")


__all__ = ["TrainingRun", "choose_layers", "salience_of", "train_concepts"]
