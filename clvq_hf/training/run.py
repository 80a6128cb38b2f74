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
from ..models.configuration_clvq import PAPER_CONFIG
from ..models.configuration_concepts import ConceptConfig, Preset
from ..models.modeling_clvq import CLVQModel
from ..models.modeling_concepts import ConceptModel
from ..models.registry import known_presets
from .checkpoints import newest_complete
from .estimate import estimate_run
from .fit import fit_texts
from .settings import check_settings, config_fields, fit_fields, training_fields
from .trainer import CLVQTrainer, check_output_dir
from .training_args import CLVQTrainingArguments

Say = Callable[[str], None]

# Texts of the concept table at the end of training, and steps of its integrated gradients: minutes, not hours.
MAX_TABLE_TEXTS = 1000
TABLE_STEPS = 16
# Defaults of the command that differ from those of the arguments.
RUN_DEFAULTS: dict[str, Any] = {
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "warmup_steps": 0.1,
    "report_to": "none",
}
# Arguments of training that the states of a method that is fitted depend on, too.
FOR_STATES = ("max_length", "per_device_train_batch_size", "seed", "use_cpu")


@dataclass(frozen=True)
class TrainingRun:
    """The arguments of `clvq-hf train`.

    Attributes:
        host (`str`): Folder or Hub id.
        source ([`TextSource`][clvq_hf.data.text_source.TextSource]): The texts.
        output_dir (`str`): Folder of the result.
        method (`str`): Name of a preset of a registered method.
        lower_layer (`int` or `None`): Layer whose states get a concept; see [`choose_layers`].
        upper_layer (`int` or `None`): Layer that is reconstructed.
        gguf_file (`str` or `None`): File of the host, if its weights are in that format.
        paper (`bool`): Whether the paper's settings are the defaults.
        resume (`bool`): Whether to continue from the newest checkpoint in the folder.
        settings (`Mapping[str, Any]`): Fields of the method's config, and of `CLVQTrainingArguments` or, of a method
            that is not trained by gradients, arguments of `fit`.
    """

    host: str
    source: TextSource
    output_dir: str
    method: str = "clvq"
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
    """Train or fit a concept model, save it with the concept table of held-out texts, and say what happens.

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
    method = _Method.of(run)
    load = {} if run.gguf_file is None else {"gguf_file": run.gguf_file}
    _texts(run.source, None)  # wrong columns are told before the host is loaded
    host = load_host(run.host, **load)
    question = host_question(host)
    source, train, held_out = _texts(run.source, question)
    tokenizer = load_tokenizer(run.host, **load)
    config = _config(run, method, host, say)
    args = _arguments(run, method, getattr(config, "is_causal", False))
    set_seed(args.seed)
    # Before hours of training, not after them.
    held_out = without_texts(held_out, train["text"])
    if question is None or not question.needs_centre:
        held_out = host_labels(held_out, host, readout=question)
    model = method.model_class(config)
    told = (
        f"Texts: {len(train):,} of {_named(source.split, source.part)} to train on, "
        f"{len(held_out):,} of {_named(source.eval_split, source.eval_part)} held out."
    )
    # One lock is enough for all processes of a run.
    with locked(Path(args.output_dir)) if args.process_index == 0 else nullcontext():
        if method.is_trained:
            trainer = CLVQTrainer(
                model=model,
                host=host,
                args=args,
                train_dataset=train,
                eval_dataset=held_out if len(held_out) else None,
                processing_class=tokenizer,
            )
            trainer.source = source
            say(told)
            _train(trainer, run.resume, say)
            model = trainer.model.eval()
        else:
            check_output_dir(args.output_dir, config)
            say(told)
            fit_texts(model, host, tokenizer, train, args, source, method.fit_settings, say)
        if args.process_index != 0:
            return model, None
        if not len(held_out):
            say("All held-out texts are training texts too, so there is no concept table.")
            return model, None
        shown = shuffle_rows(held_out, args.seed).select(range(min(len(held_out), MAX_TABLE_TEXTS)))
        return model, _table(model, host, tokenizer, Path(args.output_dir), shown, source, say)


def _train(trainer: CLVQTrainer, resume: bool, say: Say) -> None:
    say(f"Estimate: {estimate_run(trainer)} of training.")
    checkpoint = trainer.args.resume_from_checkpoint
    if resume and Path(trainer.args.output_dir).is_dir():
        checkpoint = newest_complete(trainer.args.output_dir)
    if resume:
        say(
            "There is no complete checkpoint: training starts anew."
            if checkpoint is None
            else f"Resuming {checkpoint}."
        )
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.eval_dataset is not None:
        trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()
    trainer.save_state()


@dataclass(frozen=True)
class _Method:
    """The method of a run, and the run's settings by what they are for."""

    model_class: Any
    preset: Preset
    config_settings: Mapping[str, Any]
    training_settings: Mapping[str, Any]
    fit_settings: Mapping[str, Any]

    @property
    def is_trained(self) -> bool:
        """Whether by gradients, not by `fit`."""
        return bool(self.model_class.loss_names)

    @classmethod
    def of(cls, run: TrainingRun) -> "_Method":
        presets = known_presets()
        if run.method not in presets:
            raise ValueError(f"There is no method {run.method!r}; there are {', '.join(presets)}.")
        model_class, preset = presets[run.method]
        is_trained = bool(model_class.loss_names)
        if run.paper and model_class is not CLVQModel:
            raise ValueError(f"The paper's settings are those of CLVQ-VAE, and the method is {run.method}.")
        of_config, of_training = config_fields(model_class.config_class), training_fields()
        of_fit = {} if is_trained else {name: kind for name, kind in fit_fields(model_class).items() if name != "seed"}
        if not is_trained:
            of_training = {name: of_training[name] for name in FOR_STATES}
            if others := sorted(set(run.settings) & (set(training_fields()) - {*FOR_STATES, *of_fit})):
                raise ValueError(f"The method {run.method} is not trained by gradients, so it has no {others[0]}=….")
        what = f"the fields of {model_class.config_class.__name__} and " + (
            "CLVQTrainingArguments" if is_trained else f"the arguments of {model_class.__name__}.fit"
        )
        settings = check_settings(run.settings, of_config | of_training | of_fit, what)
        return cls(
            model_class,
            preset,
            {**preset.config, **{name: settings[name] for name in settings if name in of_config}},
            {name: settings[name] for name in settings if name in of_training},
            {} if is_trained else {**preset.training, **{name: settings[name] for name in settings if name in of_fit}},
        )


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


def _config(run: TrainingRun, method: _Method, host: PreTrainedModel, say: Say) -> ConceptConfig:
    config_class, settings = method.model_class.config_class, method.config_settings
    stack = settings.get("stack")
    stream = hooks.residual_stream(host, stack)
    lower, upper = choose_layers(stream.num_blocks, run.lower_layer, run.upper_layer)
    reason = " You chose these layers."
    if run.lower_layer is None:
        reason = (
            " The middle layer is the default: above it, concepts increasingly describe the predicted class, and "
            "below it the words (--lower-layer, --upper-layer)."
        )
    if method.preset.single_layer:
        if run.upper_layer not in (None, lower):
            raise ValueError(f"The method {run.method} has one layer: leave out upper_layer=….")
        upper = lower
    say(
        f"Layers: concepts at layer {lower} of {stream.num_blocks}, from which layer {upper} is reconstructed.{reason}"
    )
    fields = {**(PAPER_CONFIG if run.paper else {}), **settings}
    if "num_attention_heads" in config_fields(config_class):
        width = stream.hidden_sizes[lower] if 0 <= lower <= stream.num_blocks else 8
        fields = {"num_attention_heads": next(heads for heads in range(8, 0, -1) if width % heads == 0), **fields}
    return config_class.from_host(host, lower, upper, **fields)


def _arguments(run: TrainingRun, method: _Method, is_causal: bool) -> CLVQTrainingArguments:
    make, settings, preset = CLVQTrainingArguments, method.training_settings, method.preset
    defaults = dict(RUN_DEFAULTS)
    if method.is_trained:
        defaults |= {**preset.training, **(preset.causal_training if is_causal else {})}
    if run.paper:
        make = CLVQTrainingArguments.paper_decoder if is_causal else CLVQTrainingArguments.paper_encoder
        del defaults["warmup_steps"]
    if settings.get("save_strategy", "epoch") == "no":
        del defaults["save_total_limit"]
    args = make(
        run.output_dir,
        **{
            **defaults,
            "use_cpu": not torch.accelerator.is_available(),
            "dataset_name": run.source.dataset,
            **settings,
        },
    )
    if not method.is_trained and args.world_size > 1:
        raise ValueError(f"The method {run.method} is fitted by one process: start it without accelerate launch.")
    return args


def _table(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: Path,
    texts: Dataset,
    source: TextSource,
    say: Say,
) -> Any:
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
        output_dir=output_dir / CONCEPTS_FOLDER,
    )


def _named(split: str | None, part: str | None) -> str:
    return f"the split {split}" + (f", part {part}" if part else "")


__all__ = ["TrainingRun", "choose_layers", "salience_of", "train_concepts"]
