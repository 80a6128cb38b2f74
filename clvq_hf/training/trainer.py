"""`CLVQTrainer`: the Trainer of transformers for concept models, on the states of a frozen host."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast, broadcast_object_list
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, rotate_checkpoints
from transformers.utils import logging

from ..data.activation_cache import ActivationCache, StateCollator
from ..data.batching import split_batch
from ..data.extraction import MODEL_INPUTS, HiddenStateExtractor, check_states
from ..data.labels import host_labels
from ..data.sensitivity import upper_sensitivity
from ..data.text_source import TextSource
from ..data.texts import text_numbers
from ..data.tokenization import (
    TextCollator,
    check_texts,
    ensure_pad_token,
    filter_by_occurrence,
    tokenize_texts,
)
from ..data.transforms import take_rows
from ..files import write_whole
from ..hosts import hooks
from ..hosts.host import move_host
from ..hosts.readout import class_names
from ..hub.provenance import recorded_name
from ..hub.repositories import CONFIG_NAME, UNFINISHED_NAME
from ..models.configuration_concepts import ConceptConfig
from ..models.modeling_concepts import ConceptModel
from ..reading import read_json
from .checkpoints import begin_checkpoint, check_complete, checkpoint_folder, finish_checkpoint, newest_complete
from .hub_trainer import HubTrainer
from .records import record_run, save_with_reference
from .running_statistics import RunningStatistics
from .sampling import EpochLengthSampler
from .training_args import CLVQTrainingArguments

logger = logging.get_logger(__name__)

HOST_FIELD = "host_name_or_path"
# Columns of a dataset that is tokenized already.
TOKENIZED = {"input_ids", "token_mask", "length", "num_counted", "text_index"}


class CLVQTrainer(HubTrainer):
    """Trains a [`CLVQModel`] on texts, through a frozen host, or on states that were extracted before.

    Other concept models that have gradients, such as a [`SparseDictionary`][clvq_hf.SparseDictionary], are trained by
    it too, on the same states in the same order.

    It is a [`~transformers.Trainer`], so Accelerate, mixed precision, logging, callbacks, checkpoints and resuming work
    as there. What it adds: the host runs on the way from the batch to the model; batches are grouped by length; the
    loss is normalised by the tokens of the whole optimizer step; the codebook is initialised before the first step and
    moved once an optimizer step; figures are sums over all tokens and processes before they become ratios.

    Args:
        model ([`ConceptModel`]): The model to train.
        host (`PreTrainedModel`, *optional*): Where the states come from; not needed with an [`ActivationCache`].
        args ([`CLVQTrainingArguments`]): Training arguments.
        train_dataset (`datasets.Dataset`, `datasets.IterableDataset` or [`ActivationCache`], *optional*): Texts, or
            their states. Of a stream as many texts are read as `max_steps` need.
        eval_dataset (the same, or a `dict` of them, *optional*): Texts or states to evaluate on.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The host's tokenizer; needed with texts.
        callbacks (`list`, *optional*): Callbacks besides ours.
        optimizers (`tuple`, *optional*): Optimizer and scheduler, instead of those that `args` name.

    Raises:
        ValueError: For bad input, before time is spent: see the messages.
    """

    def __init__(
        self,
        model: ConceptModel,
        host: Any = None,
        args: CLVQTrainingArguments | None = None,
        train_dataset: Dataset | IterableDataset | ActivationCache | None = None,
        eval_dataset: Dataset | ActivationCache | dict[str, Dataset | ActivationCache] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list | None = None,
        optimizers: tuple = (None, None),
    ) -> None:
        args = CLVQTrainingArguments("clvq-output") if args is None else args
        if not isinstance(args, CLVQTrainingArguments):
            raise ValueError(f"args must be CLVQTrainingArguments, got {type(args).__name__}.")
        if not isinstance(model, ConceptModel):
            raise ValueError(f"model must be a concept model, got {type(model).__name__}.")
        if not model.loss_names:
            raise ValueError(f"A {type(model).__name__} cannot be trained by gradients: call its method fit instead.")
        if not model.config.has_decoder:
            raise ValueError("This is a codebook without its decoder, which training needs: load the whole model.")
        _check_launch(args)
        check_output_dir(args.output_dir, model.config)
        self.args = args
        self.model = model
        self.host = host
        # Not handed to Trainer, which would write the tokenizer's special tokens into the concept model's config.
        self.tokenizer = processing_class
        # Where the texts came from, if the caller knows: for the config, in which other commands find it.
        self.source: TextSource | None = None
        self._extractor = None
        self._text_numbers: np.ndarray | None = None
        if host is not None:
            model.check_host(host)
            move_host(host, args.device)
            config = model.config
            self._extractor = HiddenStateExtractor(host, config.lower_layer, config.upper_layer, config.stack)
        with args.main_process_first(desc="tokenizing"):
            train_dataset = self._prepare_dataset(train_dataset, training=True)
            if isinstance(eval_dataset, dict):
                eval_dataset = {name: self._prepare_dataset(part) for name, part in eval_dataset.items()}
            else:
                eval_dataset = self._prepare_dataset(eval_dataset)
        for part in eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]:
            if isinstance(part, ActivationCache) and isinstance(train_dataset, ActivationCache):
                part.check_same_source(train_dataset)
        self._sampler: EpochLengthSampler | None = None
        self._revived = 0
        super().__init__(
            model=model,
            args=args,
            data_collator=self._collator(train_dataset),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[CodebookCallback(self), *(callbacks or [])],
            optimizers=optimizers,
        )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(_SHARDING_REFUSED)
        self._statistics = self._new_statistics()

    # ---- Data -------------------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Dataset | IterableDataset | ActivationCache | None, training: bool = False):
        if dataset is None:
            return None
        if isinstance(dataset, ActivationCache):
            dataset.check_layers(self.model.config)
            if self.host is not None:
                dataset.check_source(self.host, self.tokenizer)
            if self.args.train_special_tokens:
                dataset = dataset.with_special_tokens()
            if training:
                self._text_numbers = dataset.text_numbers
                dataset = dataset.filter_by_occurrence(
                    self.args.min_token_occurrences, self.args.max_token_occurrences
                )
        else:
            if isinstance(dataset, IterableDataset):
                dataset = self._read_stream(dataset, training)
            if not isinstance(dataset, Dataset) or not set(dataset.column_names) >= TOKENIZED:
                dataset = self._tokenize(dataset, training)
        if training and (tokens := int(np.sum(_column(dataset, "num_counted")))) < self.model.config.codebook_size:
            raise ValueError(
                f"codebook_size={self.model.config.codebook_size} is larger than the number of available states: the "
                f"training set has {tokens} tokens that count. Choose a smaller codebook_size=… or give more text."
            )
        return dataset

    def _read_stream(self, stream: IterableDataset, training: bool) -> Dataset:
        """As many texts as the steps need, so that they can be grouped by length; an epoch is once through these."""
        args = self.args
        if not training:
            raise ValueError(
                "A stream to evaluate on may have no end: give Dataset.from_list(list(stream.take(500))), or more."
            )
        if args.max_steps <= 0:
            raise ValueError("A stream has no length, so epochs mean nothing: set the number of steps, max_steps=….")
        per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return take_rows(stream, args.max_steps * per_step)

    def _tokenize(self, dataset: Dataset, training: bool) -> Dataset:
        args = self.args
        if self.host is None or self.tokenizer is None:
            raise ValueError("Texts need a host and its tokenizer: pass host=… and processing_class=…")
        check_texts(dataset, args.text_column)
        # Nothing is trained on labels, but those of other classes reveal a wrong host or column.
        if class_names(self.host) is not None:
            host_labels(dataset, self.host, args.label_column)
        ensure_pad_token(self.tokenizer)
        max_length = hooks.max_length(self.host, self.tokenizer, args.max_length)
        tokenized = tokenize_texts(
            dataset, self.tokenizer, args.text_column, max_length, count_special_tokens=args.train_special_tokens
        )
        if training:
            # Of an empty text there is nothing to learn.
            self._text_numbers = text_numbers(dataset.select(tokenized["text_index"][:])[args.text_column])
            tokenized = filter_by_occurrence(tokenized, args.min_token_occurrences, args.max_token_occurrences)
        return tokenized

    def _collator(self, dataset: Dataset | ActivationCache | None) -> StateCollator | TextCollator:
        return StateCollator() if isinstance(dataset, ActivationCache) else TextCollator(self.tokenizer)

    def _get_train_sampler(self, train_dataset=None) -> EpochLengthSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        self._sampler = EpochLengthSampler(
            _column(dataset, "length"),
            self._train_batch_size * args.gradient_accumulation_steps * args.world_size,
            args.seed if args.data_seed is None else args.data_seed,
        )
        return self._sampler

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Each process gets its share of the texts, none twice; shares may differ by a text."""
        if isinstance(eval_dataset, str):
            dataset = self.eval_dataset[eval_dataset]
        else:
            dataset = self.eval_dataset if eval_dataset is None else self._prepare_dataset(eval_dataset)
        if dataset is None:
            raise ValueError("Evaluation needs texts: pass eval_dataset=…")
        order = np.argsort(_column(dataset, "length"), kind="stable")
        return DataLoader(
            dataset,
            batch_size=self.args.per_device_eval_batch_size,
            sampler=order[self.args.process_index :: self.args.world_size].tolist(),
            collate_fn=self._collator(dataset),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            # Its own: a loader draws a seed at its start, and evaluation must not change what training draws.
            generator=torch.Generator(),
        )

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        """As for evaluation; `predict` gives its figures as `test_…`."""
        return self.get_eval_dataloader(test_dataset)

    def add_states(self, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Run the host on a collated batch of texts, and add its states at both layers, unless they are there."""
        if "hidden_states" in batch:
            return batch
        pieces = [self._extractor(piece, device=self.args.device) for piece in self._split(batch)]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _split(self, batch: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return split_batch(batch, self.args.max_forward_tokens)

    def _prepare_inputs(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A collated batch → the arguments of [`CLVQModel.forward`], on the device."""
        states = dict(super()._prepare_inputs(self.add_states(inputs)))
        check_states(states, f"the batch after step {self.state.global_step}")
        return {name: states[name] for name in MODEL_INPUTS}

    # ---- Training ---------------------------------------------------------------------------------------------------

    def initialize_codebook(self) -> None:
        """Set the codebook from a sample of the training set, unless it was set before.

        The first process draws the sample, with a generator of its own, and sends the codebook to the others: so it
        is the same for any number of processes, and the same again for the same seed.
        """
        if self.model.is_initialized:
            return
        if self.args.process_index == 0:
            sample = self._sample_states(self.model.starts_from)
            self.model.initialize_codebook(**sample, seed=self.args.seed)
        with torch.no_grad():
            for tensor in self.model.state_dict().values():
                tensor.copy_(broadcast(tensor.contiguous()))

    def record_distances(self) -> None:
        """Note which distances to the codes are usual, from a sample of the training set of the same size.

        The first process draws it and sends the result to the others. Checkpoints with the same codes get it too.
        """
        found = [None]
        if self.args.process_index == 0:
            try:
                states = self._sample_states(("hidden_states",), "Measuring distances to the codes")["hidden_states"]
                found = [self.model.record_distances(states)]
            except Exception as error:  # whatever a host does: the model is trained
                logger.warning(f"No distances to the codes are recorded: {type(error).__name__}: {error}")
        [self.model._distance_quantiles] = broadcast_object_list(found)
        if self.args.should_save and self.model._distance_quantiles is not None:
            for folder in Path(self.args.output_dir).glob("checkpoint-*"):
                config = folder / CONFIG_NAME
                if config.is_file() and read_json(config).get("fingerprint") == self.model.fingerprint():
                    self.model.save_distance_quantiles(folder)

    @torch.no_grad()
    def _sample_states(
        self, names: Sequence[str], description: str = "Sampling states for the codebook"
    ) -> dict[str, torch.Tensor]:
        needs_sensitivity = "sensitivity" in names
        names = [name for name in names if name != "sensitivity"]
        wanted = self.args.init_tokens or 100 * self.model.config.codebook_size
        wanted = max(wanted, self.model.config.codebook_size)
        generator = np.random.default_rng(self.args.seed)
        order = generator.permutation(len(self.train_dataset))
        tokens = np.cumsum(_column(self.train_dataset, "num_counted")[order])
        order = order[: int(np.searchsorted(tokens, wanted)) + 1]
        loader = DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_eval_batch_size,
            sampler=order[np.argsort(_column(self.train_dataset, "length")[order], kind="stable")].tolist(),
            collate_fn=self.data_collator,
            generator=torch.Generator(),
        )
        sample: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        for batch in logging.tqdm(loader, desc=description, disable=self.args.disable_tqdm):
            states = self.add_states(batch)
            check_states(states, "the sample")
            for name in names:
                sample[name].append(states[name][states["token_mask"].bool()].to(self.args.device))
        joined = {name: torch.cat(parts) for name, parts in sample.items()}
        chosen = torch.from_numpy(generator.permutation(len(joined["hidden_states"]))[:wanted])
        drawn = {name: states[chosen.to(states.device)] for name, states in joined.items()}
        return drawn | ({"sensitivity": self._sensitivity()} if needs_sensitivity else {})

    def _sensitivity(self) -> torch.Tensor:
        if isinstance(self.train_dataset, ActivationCache):
            return self.train_dataset.sensitivity
        config, size = self.model.config, self.args.per_device_eval_batch_size
        layers = config.lower_layer, config.upper_layer
        return upper_sensitivity(
            self.host, self.tokenizer, self.train_dataset, *layers, stack=config.stack, batch_size=size
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | None]:
        """The batches of an optimizer step with their states, which are needed to count: attention sinks do not."""
        return super().get_batch_samples(map(self.add_states, epoch_iterator), num_batches, device)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Tokens that count in the whole optimizer step: over its accumulated batches and over all processes."""
        if not batch_samples:
            return None
        tokens = sum(batch["token_mask"].sum() for batch in batch_samples).to(device)
        return self.accelerator.gather(tokens).sum().clamp(min=1)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of a batch, in as many passes as `max_forward_tokens` asks for.

        Each pass divides its loss by the tokens of the whole step, so gradients and figures add up to those of one
        pass. Processes exchange gradients in the last pass only, and may have different numbers of passes.
        """
        inputs = self.add_states(inputs)
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        *others, last = self._split(inputs)
        loss = torch.zeros((), device=self.args.device)
        with self.accelerator.no_sync(model):
            for piece in others:
                loss += super().training_step(model, piece, num_items_in_batch)
        return loss + super().training_step(model, last, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        """The model's loss; the figures of the batch go into the running statistics."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        self._statistics.update(outputs, inputs["target_hidden_states"], inputs["token_mask"], num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None) -> tuple[Any, dict[str, Any]]:
        """Adam with coupled weight decay if `args` ask for it, else what `args.optim` names."""
        if getattr(args, "coupled_weight_decay", False):
            betas = (args.adam_beta1, args.adam_beta2)
            return torch.optim.Adam, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon}
        return Trainer.get_optimizer_cls_and_kwargs(args, model)

    def get_decay_parameter_names(self, model) -> list[str]:
        """All parameters with coupled weight decay (as in the paper), else all but biases and norms."""
        if self.args.coupled_weight_decay:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures since the last log to the logs of the training loss."""
        if "loss" in logs:
            figures = self._statistics.compute()
            figures.pop("loss", None)  # Trainer's own is there
            logs.update(figures)
            self._statistics = self._new_statistics()
            if getattr(self.model.config, "revive_after", None) is not None:
                logs["revived_codes"], self._revived = self._revived, 0
        super().log(logs, start_time)

    def _new_statistics(self, by_code: bool = False) -> RunningStatistics:
        config = self.model.config
        names = ("loss", *self.model.loss_names)
        by_code = by_code and self.model.codes_are_states
        return RunningStatistics(names, config.codebook_size, config.target_hidden_size, self.args.device, by_code)

    # ---- Evaluation and saving --------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Losses, explained variance, perplexity and active codes of a dataset, exact over any number of processes."""
        model = self.model.eval()
        if not model.is_initialized:
            raise ValueError(
                "The codebook is not initialised yet: train first, or call trainer.initialize_codebook()."
            )
        self.callback_handler.eval_dataloader = dataloader
        statistics = self._new_statistics(by_code=True)
        for batch in dataloader:
            for piece in self._split(batch):
                inputs = self._prepare_inputs(piece)
                outputs = model(**inputs)
                tokens = inputs["token_mask"].sum().clamp(min=1)
                statistics.update(outputs, inputs["target_hidden_states"], inputs["token_mask"], tokens)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        figures = statistics.compute()
        explained, by_code = figures.get("explained_variance"), figures.get("code_explained_variance")
        if by_code is not None and explained < by_code and not self.is_in_train and self.args.should_log:
            logger.warning(
                f"The decoder explains {explained:.1%} of the variance at the upper layer, less than the mean state of "
                f"each code does ({by_code:.1%}): train longer (num_train_epochs, --epochs), or on more texts."
            )
        held_out = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        if model.config.training is not None and any(dataloader.dataset is each for each in held_out):
            name = metric_key_prefix.removeprefix("eval").removeprefix("_")
            told = {f"{name} {figure}".strip(): value for figure, value in figures.items()}
            known, fingerprint = model.config.training, model.fingerprint()
            before = known.get("figures", {}) if known.get("figures_of") == fingerprint else {}
            model.config.training |= {"figures": {**before, **told}, "figures_of": fingerprint}
        return EvalLoopOutput(
            predictions=None,
            label_ids=None,
            metrics={f"{metric_key_prefix}_{name}": figure for name, figure in figures.items()},
            num_samples=len(dataloader.dataset),
        )

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """Train the model; see `Trainer.train`.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A checkpoint, or `True` for the newest one in
                `args.output_dir` that is complete: others are passed over, with a warning.
            **options: The other arguments of `Trainer.train`.

        Raises:
            ValueError: If the checkpoint is incomplete or damaged, or there is none.
        """
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = newest_complete(self.args.output_dir)
            if checkpoint is None:
                raise ValueError(
                    f"{self.args.output_dir} has no complete checkpoint: train without resume_from_checkpoint=…."
                )
        elif checkpoint:
            check_complete(Path(checkpoint))
        return super().train(checkpoint, **options)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Mark the checkpoint until all processes have written to it."""
        folder = checkpoint_folder(self._get_output_dir(trial=trial), self.state.global_step)
        if self.args.should_save:
            begin_checkpoint(folder)
            self._save_arguments(folder)
        self.accelerator.wait_for_everyone()
        # Trainer would delete the earlier ones before this one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            finish_checkpoint(folder)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder.parent), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights as safetensors and arguments as JSON: Trainer would pickle the arguments."""
        if not self.args.should_save:  # Trainer calls it in every process
            return
        output_dir = Path(self.args.output_dir if output_dir is None else output_dir)
        training = self.model.config.training
        if training is not None and training.get("figures_of") not in (None, self.model.fingerprint()):
            del training["figures"], training["figures_of"]  # of weights that are not those that are saved
        save_with_reference(self.model, output_dir, self.host, self.tokenizer, state_dict)
        if not (output_dir / UNFINISHED_NAME).exists():  # a checkpoint has them
            self._save_arguments(output_dir)

    def _save_arguments(self, folder: Path) -> None:
        write_whole(folder / "training_args.json", self.args.to_json_string() + "\n")

    def record_training(self) -> None:
        """Note in the config what is trained on, with what, and on which commit of which host."""
        args = self.args
        self.model._distance_quantiles = None  # those of an earlier run are of other codes
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        settings = {
            "epochs": args.num_train_epochs if args.max_steps <= 0 else None,
            "steps": args.max_steps if args.max_steps > 0 else None,
            "texts_per_step": batch,
            "learning_rate": args.learning_rate,
            "scheduler": getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type),
            "optimizer": "adam, coupled decay"
            if args.coupled_weight_decay
            else getattr(args.optim, "value", args.optim),
            "weight_decay": args.weight_decay,
            # A cache was cut when it was built.
            "longest_text": self.train_dataset.max_length
            if isinstance(self.train_dataset, ActivationCache)
            else args.max_length,
            "token_occurrences_at_least": args.min_token_occurrences,
            "token_occurrences_at_most": args.max_token_occurrences,
            "seed": args.seed,
        }
        texts = {
            "dataset": recorded_name(args.dataset_name),
            "text_column": args.text_column,
            "label_column": args.label_column,
            **({} if self.source is None else self.source.to_dict()),
            "num_texts": len(self.train_dataset),
            "num_tokens": int(np.sum(_column(self.train_dataset, "num_counted"))),
        }
        record_run(self.model, self.host, self.tokenizer, self._text_numbers, texts, settings)


class CodebookCallback(TrainerCallback):
    """The moments of training at which the codebook and the sampler are told something."""

    def __init__(self, trainer: CLVQTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A run that was broken off, or a forward before this one, may have left counts of a step that never ended.
        self.trainer.model.discard_pending()
        self.trainer._statistics, self.trainer._revived = self.trainer._new_statistics(), 0
        self.trainer.record_training()
        # After a checkpoint was loaded: a resumed codebook is not initialised again.
        self.trainer.initialize_codebook()

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # With several processes accelerate does not reach the sampler of a loader whose first batches are skipped.
        self.trainer._sampler.set_epoch(int(state.epoch))

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer._revived += self.trainer.model.update_codebook()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.record_distances()


_SHARDING_REFUSED = (
    "FSDP and DeepSpeed split parameters and buffers over processes; a concept model is small and its codebook is "
    "updated as a whole. Use plain DDP: accelerate launch --multi_gpu --num_processes N train.py (the host may be "
    "sharded with device_map)."
)


def _check_launch(args: CLVQTrainingArguments) -> None:
    if args.fsdp or args.deepspeed:
        raise ValueError(_SHARDING_REFUSED)
    # What `accelerate launch` leaves behind when it was asked for several processes and has started one.
    asked_for_several = "ACCELERATE_MIXED_PRECISION" in os.environ and os.environ.get("MASTER_ADDR") == "127.0.0.1"
    if asked_for_several and "WORLD_SIZE" not in os.environ and args.world_size == 1:
        raise ValueError(
            "accelerate launch was asked for several processes and started one, as it does on a machine without GPUs. "
            "Start it with 'accelerate launch --multi_gpu --num_processes N train.py --use_cpu', or with 'torchrun "
            "--nproc_per_node N train.py --use_cpu'. (If one process is meant: unset MASTER_ADDR.)"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"Started with plain python on {args.n_gpu} GPUs, Trainer would use DataParallel, which would "
            "discard the replicas' codebook statistics. Start it with "
            f"'accelerate launch --multi_gpu --num_processes {args.n_gpu} train.py', or set CUDA_VISIBLE_DEVICES=0."
        )


def check_output_dir(output_dir: str | Path, config: ConceptConfig, same_fields: bool = True) -> None:
    """Refuse a folder that holds a checkpoint of another model, or a file.

    A model of the same method that is there must agree in `config.identity` and in the name of its host, if both have
    one, unless `same_fields` is false.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"{output_dir} is a file; choose a folder for output_dir=….")
    # Without those of ours whose writing was broken off.
    folders = [
        folder
        for folder in output_dir.glob("checkpoint-*")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / UNFINISHED_NAME).exists()
    ]
    if any((output_dir / name).exists() for name in ("config.json", "model.safetensors", "adapter_config.json")):
        folders.append(output_dir)
    others = [folder for folder in folders if (folder / "config.json").is_file() and folder != output_dir]
    for folder in folders:
        try:
            found = read_json(folder / "config.json")
        except (OSError, ValueError):
            found = {}
        if not (folder / "config.json").exists() and folder != output_dir and others:
            continue  # an older one, whose deletion was broken off (save_total_limit)
        if not found:
            what = "something else, or one whose saving was broken off: it has no config.json"
        elif found.get("model_type") != config.model_type:
            what = f"a model of the type {found.get('model_type')!r}"
        else:
            differing = [
                name
                for name in (config.identity if same_fields else ())
                if found.get(name) != getattr(config, name, None)
            ]
            # Hosts of one size have other concepts all the same; either may be unnamed.
            named = {found.get(HOST_FIELD), getattr(config, HOST_FIELD)} - {None}
            if same_fields and len(named) > 1:
                differing.append(HOST_FIELD)
            if not differing:
                continue
            what = "a concept model with " + ", ".join(
                f"{name}={found.get(name)} (not {getattr(config, name, None)})" for name in differing
            )
        raise ValueError(f"{folder} holds a checkpoint of {what}. Choose another folder, or remove it.")


def _column(dataset: Dataset | ActivationCache, name: str) -> np.ndarray:
    if isinstance(dataset, ActivationCache):
        return {"length": dataset.lengths, "num_counted": dataset.num_counted}[name]
    return np.asarray(dataset[name])


__all__ = ["CLVQTrainer", "CLVQTrainingArguments"]
