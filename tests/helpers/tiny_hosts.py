"""Tiny randomly initialised hosts of every text architecture that the installed transformers knows.

One table of small sizes by field name shrinks almost every configuration; the exceptions are listed one by one.
"""

import copy
import re
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

HIDDEN, HEADS, LAYERS, VOCABULARY = 32, 4, 3, 64

# Fields of configurations by the size they get.
_SIZES = """
32: hidden_size d_model n_embd emb_dim dim embedding_dim embedding_size embed_dim word_embed_proj_dim
    attention_hidden_size pooler_hidden_size entity_emb_size input_embedding_size output_embedding_size
    true_hidden_size intra_bottleneck_size lru_width num_latents d_latents rel_extent backbone_hidden_size
4: num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads index_n_heads
    num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads linear_num_value_heads
    linear_num_heads num_local_experts num_experts n_routed_experts moe_num_experts num_feedforward_networks
3: num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers
    num_decoder_layers num_blocks
8: head_dim d_kv d_head dim_head kv_channels v_head_dim qk_nope_head_dim qk_rope_head_dim linear_key_head_dim
    linear_value_head_dim linear_head_dim mamba_d_head mamba_head_dim mamba_d_state ssm_state_size state_size
    q_lora_rank kv_lora_rank index_head_dim swa_head_dim attention_head_size attention_head_dim rotary_dim
    prompt_length local_radius window_size attention_window_size hidden_size_per_layer_input sliding_window
    sliding_window_size laurel_rank embedding_rank mamba_dt_rank time_step_rank chunk_size mamba_chunk_size
    index_topk ple_embed_dim gated_norm_rank o_lora_rank hc_lowrank num_landmarks d_rel num_buckets
    relative_attention_num_buckets mamba_n_heads
16: qk_head_dim
64: intermediate_size d_ff ffn_dim n_inner d_inner dff dim_ff feed_forward_size encoder_ffn_dim decoder_ffn_dim
    moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size ffn_hidden_size hidden_dim
    expert_ffn_hidden_size dense_intermediate_size intermediate_size_mlp moe_shared_expert_intermediate_size
    shared_experts_intermediate_size prompt_mid_dim moe_hidden_size vocab_size src_vocab_size tgt_vocab_size
    entity_vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size mamba_d_ssm
    pronunciation_vocab_size shape_vocab_size
512: max_position_embeddings n_positions n_ctx max_source_positions max_target_positions max_seq_len
    model_max_length max_sequence_length context_length max_encoder_position_embeddings
    max_decoder_position_embeddings relative_attention_max_distance
2: num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok num_experts_per_token moe_topk
    moe_k linear_num_key_heads num_hidden_groups
1: n_group topk_group num_expert_group n_shared_experts num_shared_experts moe_num_shared_experts
    first_k_dense_replace num_dense_layers n_groups mamba_n_groups
4: attention_window local_attention zero_expert_num
0: pad_token_id
"""
_SHRUNK = {
    name: int(size)
    for size, names in re.findall(r"^(\d+): ([^:]+?)(?=^\d|\Z)", _SIZES, flags=re.MULTILINE)
    for name in names.split()
}
_SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": 2}

_NO_GROUPS = {"num_key_value_heads": HEADS}
_ATTENTION_ONLY = ["full_attention"] * LAYERS
_MIXED = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_HYBRID = ["linear_attention", "hybrid", "hybrid"]
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}

# What the table cannot know: sizes that depend on one another, lists with an entry per layer.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "albert": {"num_hidden_groups": 1},
    "bart": {"num_labels": 3},
    "bailing_hybrid": {"num_experts": 8} | _MIXED,
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        **{
            f"{part}_config": {
                "hidden_size": HIDDEN,
                "hidden_size_global": HIDDEN,
                "num_attention_heads": HEADS,
                "num_key_value_heads": HEADS,
                "num_hidden_layers": LAYERS,
                "intermediate_size": 64,
                "head_dim": 8,
            }
            for part in ("patcher", "encoder", "decoder", "global")
        },
    },
    "bros": {"hidden_size": 64},
    "cohere_compass_text": {
        "layer_types": _ATTENTION_ONLY,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"hidden_size": HIDDEN, "ffn_hidden_size": 64},
    },
    "dots3_note_text": {"per_layer_config": None, "head_dim": 16},
    "esmc": _NO_GROUPS,
    "funnel": {"block_sizes": [1, 1, 1], "block_repeats": [1, 1, 1]},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "intermediate_size": [64] * LAYERS,
        "activation_sparsity_pattern": [0.0] * LAYERS,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "glm5_next_text": {"index_kpool": 4, "qk_rope_head_dim": 0, "qk_head_dim": 8, "head_dim": 0},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granitemoehybrid": _MIXED,
    "hunyuan_vl_text": _MROPE,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _MIXED,
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "visual_embed": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "lilt": {"hidden_size": 24 * 4, "channel_shrink_ratio": 4},
    "longcat_flash": {"head_dim": 8},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "mistral4": {"num_key_value_heads": HEADS},
    "mpnet": {"relative_attention_num_buckets": 32},
    "neomme": {"head_dim": 16},
    "nystromformer": {"segment_means_seq_len": 8, "num_landmarks": 8},
    "qwen3_5_moe_text": _MIXED,
    "qwen3_5_text": _MIXED,
    "qwen3_next": _MIXED,
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [8, 24], "attn_layers": ["local", "lsh", "local"]},
    "seamless_m4t": {"t2u_encoder_layers": 1, "t2u_decoder_layers": 1, "speech_encoder_layers": 1},
    "seamless_m4t_v2": {"t2u_encoder_layers": 1, "t2u_decoder_layers": 1, "speech_encoder_layers": 1},
    "glm4v_moe_text": _MROPE | {"head_dim": 16},
    "glm4v_text": _MROPE,
    "glm_image_text": _MROPE,
    "glm_ocr_text": _MROPE,
    "qwen2_5_vl_text": _MROPE,
    "qwen2_vl_text": _MROPE,
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "chunk_size": 16},
    "xlnet": {"d_head": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": _HYBRID, "attention_head_dim": 16, "attention_hidden_size": 64, "n_mamba_heads": 2},
    "zamba2": {
        "layers_block_type": _HYBRID,
        "n_mamba_heads": 8,
        "attention_hidden_size": 64,
        "mamba_headdim": 8,
        "attention_head_dim": 16,
        "num_query_groups": HEADS,
        "num_key_value_heads": HEADS,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}


def tiny_config(model_type: str, **overrides: Any) -> Any:
    """A configuration of `model_type` with three narrow layers; `overrides` win over everything."""
    config_class = CONFIG_MAPPING[model_type]
    if model_type == "encoder-decoder":
        return config_class.from_encoder_decoder_configs(tiny_config("bert"), tiny_config("bert"), **overrides)
    # Configurations change what they are given: a copy keeps one type from another.
    sizes = _shrunk(config_class) | copy.deepcopy(_OVERRIDES.get(model_type, {})) | overrides
    return config_class(**sizes)


def _shrunk(config_class: type) -> dict[str, Any]:
    try:
        known = config_class().to_dict()
    except Exception:
        known = {}
    sizes: dict[str, Any] = {}
    for name, value in known.items():
        original = config_class.attribute_map.get(name, name)
        if original != name:
            continue
        if name in config_class.sub_configs:
            sub = config_class.sub_configs[name]
            if hasattr(sub, "sub_configs"):
                sizes[name] = _shrunk(sub)
        elif isinstance(value, bool):
            continue
        elif name in _SPECIAL_IDS and value is not None:
            sizes[name] = _SPECIAL_IDS[name]
        elif name.endswith("token_id") and isinstance(value, int) and name != "pad_token_id":
            sizes[name] = 3
        elif name in _SHRUNK and (isinstance(value, int) or (value is None and name != "sliding_window")):
            sizes[name] = _SHRUNK[name]
        elif name == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
            sizes[name] = value | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
    if "kv_lora_rank" in sizes:  # latent attention has no groups, and derives the width of a head
        sizes.pop("head_dim", None)
        sizes.update(_NO_GROUPS if "num_key_value_heads" in sizes else {})
    return sizes


# They need images or sound, which their configuration does not tell.
_NOT_TEXT = {"fuyu", "lxmert", "speech_to_text", "whisper"}


def text_model_types() -> list[str]:
    """The model types that read token ids and nothing else, by the auto mappings."""
    types: set[str] = set()
    for task in (
        "CAUSAL_LM",
        "MASKED_LM",
        "SEQ_TO_SEQ_CAUSAL_LM",
        "SEQUENCE_CLASSIFICATION",
        "TOKEN_CLASSIFICATION",
        "QUESTION_ANSWERING",
        "TEXT_ENCODING",
    ):
        types |= set(getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES"))
    types |= {name for name in modeling_auto.MODEL_MAPPING_NAMES if name.endswith(("_text", "text_model"))}
    return sorted(name for name in types if name not in _NOT_TEXT and not _is_multimodal(name))


def _is_multimodal(model_type: str) -> bool:
    parts = " ".join(CONFIG_MAPPING[model_type].sub_configs)
    return any(word in parts for word in ("vision", "audio", "codec", "vq", "tokenizer", "encoder_config projector"))


def tiny_host(model_type: str, auto_class: str | None = None, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A host of `model_type` in eval mode with random weights that depend on `seed` only.

    Without `auto_class` it is the bare body, or the first head there is.
    """
    config = tiny_config(model_type, **overrides)
    if isinstance(modeling_auto.MODEL_MAPPING_NAMES.get(model_type), (list, tuple)):  # Funnel comes with two bodies
        config.architectures = [modeling_auto.MODEL_MAPPING_NAMES[model_type][0]]
    if auto_class is None:
        auto_class = next((name for name, types in _AUTO_CLASSES if model_type in types), "AutoModel")
    torch.manual_seed(seed)
    return getattr(transformers, auto_class).from_config(config).eval()


_AUTO_CLASSES = [
    ("AutoModel", modeling_auto.MODEL_MAPPING_NAMES),
    ("AutoModelForSeq2SeqLM", modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    ("AutoModelForCausalLM", modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
]
