"""Tiny hosts of many architectures for tests of hooks, inputs for them, and a count of what hangs on them."""

import pytest
import torch
from helpers import tiny_hosts

# fmt: off
ENCODERS = [
    "albert", "bert", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert",
    "electra", "ernie", "esm", "eurobert", "fnet", "longformer", "megatron-bert", "modernbert", "mpnet",
    "nomic_bert", "rembert", "roberta", "roberta-prelayernorm", "roformer", "xlm-roberta", "xlnet",
]
DECODERS = [
    "bloom", "cohere", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "gptj",
    "gpt_oss", "granite", "llama", "mamba", "mistral", "mixtral", "modernbert-decoder", "mpt", "nemotron_h",
    "olmo2", "openai-gpt", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_next", "rwkv", "smollm3",
    "stablelm", "starcoder2",
]
# fmt: on
SEQ2SEQ = ["bart", "fsmt", "led", "mbart", "pegasus", "prophetnet", "t5", "umt5"]
STACKS = [(name, None) for name in ENCODERS + DECODERS]
STACKS += [(name, stack) for name in SEQ2SEQ for stack in ("encoder", "decoder")]
# One of each layout: tensors or tuples, time first, shared blocks, windows that pad, experts, states, mixed blocks.
LAYOUTS = [
    (name, stack)
    for name, stack in STACKS
    if name
    in {
        *("albert", "bert", "deberta", "fnet", "longformer", "modernbert", "xlnet"),
        *(
            "bloom",
            "gemma2",
            "gpt2",
            "gpt_oss",
            "llama",
            "mamba",
            "mixtral",
            "nemotron_h",
            "opt",
            "qwen3_next",
            "rwkv",
        ),
        *("bart", "fsmt", "led", "prophetnet", "t5"),
    }
]

BATCH, LENGTH, PADDED = 2, 10, 4


@pytest.fixture(scope="session")
def hosts():
    """Hosts by type, built once: tests must leave them as they are."""
    built = {}

    def get(model_type, auto_class=None, **overrides):
        key = (model_type, auto_class, repr(overrides))
        if key not in built:
            built[key] = tiny_hosts.tiny_host(model_type, auto_class, **overrides)
        return built[key]

    return get


@pytest.fixture
def bert(hosts):
    return hosts("bert")


@pytest.fixture
def gpt2(hosts):
    return hosts("gpt2", "AutoModelForCausalLM")


def inputs_for(host, stack=None, side="right", seed=0):
    ids = torch.randint(4, 60, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, slice(-PADDED, None) if side == "right" else slice(PADDED)] = 0
    if stack is None:
        inputs = {"input_ids": ids, "attention_mask": mask}
        return inputs if host.config.model_type != "fnet" else {"input_ids": ids}
    other, ones = torch.arange(4, 4 + LENGTH).expand(BATCH, -1), torch.ones_like(mask)
    if stack == "encoder":
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": other}
    # FSMT drops the decoder's mask when it uses a cache.
    decoder = {"decoder_input_ids": ids, "decoder_attention_mask": mask, "use_cache": False}
    return {"input_ids": other, "attention_mask": ones, **decoder}


def output_of(host, inputs):
    with torch.no_grad():
        output = host(**inputs, return_dict=True)
    return output.logits if "logits" in output else output.last_hidden_state


def reported_by(host, inputs, stack=None):
    with torch.no_grad():
        output = host(**inputs, output_hidden_states=True, return_dict=True)
    return output["hidden_states" if stack is None else f"{stack}_hidden_states"]


def count_hooks(host):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in host.modules())
