"""Concept models on a GPU that torch makes up: nothing mixes devices, and nothing reads values back without a reason.

The operations run in one process of their own, which this file starts as a script: it believes in the device for good.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from clvq_hf import (
    ClusterConfig,
    ClusterModel,
    CLVQConfig,
    CLVQModel,
    SparseConfig,
    SparseDictionary,
    salient_tokens,
)
from clvq_hf.hosts.runner import check_head
from clvq_hf.models import projections

TESTS = Path(__file__).parents[1]
LAYERS = {"lower_layer": 1, "upper_layer": 3}
CLVQ = {"codebook_size": 12, "num_decoder_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}

# Operation → functions of clvq_hf that copy values from the GPU, which waits for everything that was started before.
INITIALISED = "is_initialized"  # once per call of `attach` or `evaluate`
EXPECTED = {
    **{f"{method}: {INITIALISED}": {f"models/modeling_{file}: {name}.is_initialized"} for method, file, name in (
        *(("clvq", "clvq", "CLVQModel"), ("clvq, revival", "clvq", "CLVQModel")),
        *(("sparse", "sparse", "SparseDictionary"), ("clusters", "clusters", "ClusterModel")),
    )},
    # NaN must not reach the codebook, which has no gradient that a GradScaler could skip: one flag per optimizer step.
    "clvq: update": {"models/quantizer: TopKQuantizer.update"},
    # Off by default. How many codes are dead decides the shape of what replaces them.
    "clvq, revival: update": {"models/quantizer: TopKQuantizer.update", "models/quantizer: TopKQuantizer._revive"},
    "sparse: update": {"models/modeling_sparse: SparseDictionary._revive"},
    # Before the first step. K-means is scikit-learn's, on one thread: the same codebook on every machine.
    "clvq: initialise": {"models/codebook_init: initial_codebook"},
    "clvq, revival: initialise": {"models/codebook_init: initial_codebook"},
    # Before the first step: one flag per layer, whether the sample is usable.
    "sparse: initialise": {"models/modeling_sparse: SparseDictionary.initialize_codebook"},
    **{f"{host}: {name}": copies for host in ("bert", "llama") for name, copies in {
        "attach": {"models/modeling_clvq: CLVQModel.is_initialized"},
        # Codes that are on the GPU already are checked once per call of `ablate`, not per forward.
        "ablate codes of each text": {"models/interventions: _checked_codes"},
        # Scores are the result: a table on the CPU, once per batch. The host's identity is read once.
        "salience": {"hosts/identity: _sums", "tables/attribution: _rows"},
    }.items()},
    "planted read": {"models/projections: planted"},
}  # fmt: skip


def method_operations(gpu: Any, model: Any) -> dict[str, Callable[[], object]]:
    """What a concept method does by itself."""
    states, target = gpu.tensor(torch.empty(2, 5, 32)), gpu.tensor(torch.empty(2, 5, 32))
    sample, mask = gpu.tensor(torch.empty(50, 32)), gpu.tensor(torch.ones(2, 5, dtype=torch.int64))
    codes = gpu.tensor(torch.zeros(2, dtype=torch.int64))
    operations = {
        "encode": lambda: model.encode(states, mask),
        "reconstruct": lambda: model.reconstruct(states, mask),
        "ablation basis": lambda: model.ablation_basis(states[0], 2),
        "directions": lambda: model.directions(codes),
        "mean state": lambda: model.mean_state,
        "active concepts": lambda: model.num_active(states, mask),
        INITIALISED: lambda: model.is_initialized,
    }
    if model.loss_names:
        operations |= {
            "forward and backward": lambda: model.train()(states, mask, target, mask).loss.backward(),
            "update": model.update_codebook,
            "initialise": lambda: model.initialize_codebook(sample, sample),
        }
    return operations


def host_operations(gpu: Any, model: Any, host: Any) -> dict[str, Callable[[], object]]:
    """What a concept model does to a host."""
    tokens, codes = (gpu.tensor(torch.ones(2, length, dtype=torch.int64)) for length in (6, 1))

    def with_host(intervene: Callable[[], Any]) -> Callable[[], object]:
        @torch.no_grad()
        def run() -> None:
            with intervene():
                host(tokens, attention_mask=tokens)

        return run

    vocabulary = WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "film": 3}, "[UNK]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.backend_tokenizer.pre_tokenizer = Whitespace()
    texts = Dataset.from_dict({"text": ["good film", "film", "good good film"]})
    return {
        "attach": with_host(lambda: model.attach(host)),
        "ablate": with_host(lambda: model.ablate(host, 3)),
        "ablate codes of each text": with_host(lambda: model.ablate(host, codes, "last")),
        "swap": with_host(lambda: model.ablate(host, 3, "cls", "swap", torch.zeros(32), torch.ones(32))),
        "steer": with_host(lambda: model.steer(host, 3, 1.0, "code")),
        "splice": with_host(lambda: model.splice(host)),
        "salience": lambda: salient_tokens(host, tokenizer, texts, 1, n_steps=2, max_steps=2),
    }


def on_fake_gpu() -> Iterator[tuple[str, Callable[[], object], Any]]:
    """Name of each operation, the operation, and the GPU that it runs on."""
    from helpers import fake_gpu

    fake_gpu.install()
    gpu = fake_gpu.FakeGpu()
    sizes = {"hidden_size": 32, **LAYERS}
    for name, model in {
        "clvq": CLVQModel(CLVQConfig(**sizes, **CLVQ)),
        "clvq, revival": CLVQModel(CLVQConfig(**sizes, **CLVQ, revive_after=1)),
        "sparse": SparseDictionary(SparseConfig(**sizes, codebook_size=24, revive_after=1)),
        "clusters": ClusterModel(ClusterConfig(**sizes, codebook_size=12)),
    }.items():
        for operation, run in method_operations(gpu, gpu.module(model)).items():
            yield f"{name}: {operation}", run, gpu
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 64}
    for name, host in {
        "bert": BertForSequenceClassification(BertConfig(**sizes)).eval(),
        "llama": LlamaForCausalLM(LlamaConfig(**sizes)).eval(),
    }.items():
        # The config finds the host's blocks by the values of a tiny forward, once per host.
        model = gpu.module(CLVQModel(CLVQConfig.from_host(host, **LAYERS, **CLVQ)).eval())
        if name == "bert":  # whether its head reads padding is tried once per host, too
            check_head(host)
        for operation, run in host_operations(gpu, model, gpu.module(host)).items():
            yield f"{name}: {operation}", run, gpu
    states = gpu.tensor(torch.empty(2, 5))
    # As if it were a function of the package.
    namespace: dict[str, Any] = {}
    exec(compile("def planted(states):\n    states.sum().item()\n", projections.__file__, "exec"), namespace)
    yield "planted read", lambda: namespace["planted"](states), gpu
    yield "planted mixture of devices", lambda: states + torch.ones(2, 5), gpu


@pytest.fixture(scope="module")
def outcomes():
    """By operation: what it copied, or its error."""
    pytest.importorskip("torch.utils.backend_registration")
    result = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_no_operation_mixes_devices(outcomes):
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, str)}
    assert set(failed) == {"planted mixture of devices"}, failed
    assert "device" in failed["planted mixture of devices"]


@pytest.mark.slow
def test_only_known_places_read_values_back(outcomes):
    copies = {name: set(outcome) for name, outcome in outcomes.items() if isinstance(outcome, list) and outcome}
    assert copies == EXPECTED


if __name__ == "__main__":
    found: dict[str, list[str] | str] = {}
    for name, run, gpu in on_fake_gpu():
        gpu.copies.clear()
        try:
            with gpu:
                run()
            found[name] = sorted(gpu.copies)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:500]
    print(json.dumps(found))
