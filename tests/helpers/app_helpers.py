"""Concepts that are fitted to real sentences, and a tokenizer of bytes, of which some characters need several."""

import socket
import subprocess
from time import monotonic, sleep
from urllib.request import urlopen

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clvq_hf import CLVQConfig, CLVQModel
from clvq_hf.data.extraction import HiddenStateExtractor
from clvq_hf.data.tokenization import TextCollator, tokenize_texts


def fitted(host, tokenizer, texts: Dataset, lower: int, upper: int, codebook_size: int) -> CLVQModel:
    """A concept model whose codebook is fitted to states of the texts, as before the first step of training."""
    torch.manual_seed(0)
    config = CLVQConfig.from_host(
        host, lower, upper, codebook_size=codebook_size, num_decoder_layers=1, num_attention_heads=4
    )
    model = CLVQModel(config)
    states = HiddenStateExtractor(host, lower, upper)(
        TextCollator(tokenizer)(tokenize_texts(texts, tokenizer).to_list())
    )
    counted = states["token_mask"].bool()
    model.initialize_codebook(states["hidden_states"][counted], states["target_hidden_states"][counted], seed=0)
    return model.codebook_only().eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, as byte-level BPE without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<pad>": 0} | {byte: i for i, byte in enumerate(alphabet, 1)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(address: str, process: subprocess.Popen, seconds: float = 300) -> None:
    end = monotonic() + seconds
    while monotonic() < end:
        assert process.poll() is None, process.stdout.read().decode()
        try:
            with urlopen(address, timeout=5):
                return
        except OSError:
            sleep(0.5)
    raise TimeoutError(address)
