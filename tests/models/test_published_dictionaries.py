"""Published dictionaries: files that SAELens and sparsify have written, and what these packages computed from them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM

from clvq_hf import SparseDictionary
from clvq_hf.hub import HubError
from clvq_hf.models import configuration_concepts
from clvq_hf.models.published_dictionaries import load_dictionary

FOLDER = Path(__file__).parent.parent / "fixtures" / "dictionaries"
# What has to be said besides the folder.
SAID = {
    "standard_scaled": {"norm_scaling_factor": 0.75},
    "topk_rescaled_scaled": {"norm_scaling_factor": 0.75},
    "standard_centered": {"center_states": True},
}
# Activation, layers, width of the output, skip connection.
AUTOENCODER = ("relu", (2, 2), 16, False)
ABOUT = {
    "standard": AUTOENCODER,
    "standard_raw_input": AUTOENCODER,
    "standard_scaled": AUTOENCODER,
    "standard_centered": AUTOENCODER,
    "standard_version_3": AUTOENCODER,
    "topk": ("topk", (2, 2), 16, False),
    "topk_rescaled": ("topk", (2, 2), 16, False),
    "topk_rescaled_scaled": ("topk", (2, 2), 16, False),
    "topk_trained": ("topk", (2, 2), 16, False),
    "topk_version_5": ("topk", (2, 2), 16, False),
    "jumprelu": ("jumprelu", (2, 2), 16, False),
    "batchtopk": ("jumprelu", (2, 2), 16, False),
    "matryoshka": ("jumprelu", (2, 2), 16, False),
    "transcoder": ("relu", (2, 3), 12, False),
    "skip_transcoder": ("relu", (2, 3), 12, True),
    "jumprelu_transcoder": ("jumprelu", (2, 3), 12, False),
    "jumprelu_skip_transcoder": ("jumprelu", (2, 3), 12, True),
    "sparsify/layers.1": ("topk", (2, 2), 16, False),
    "sparsify/layers.2": ("topk", (2, 3), 16, False),
    "sparsify/layers.3": ("topk", (3, 4), 16, True),
    "sparsify/layers.4": ("topk", (5, 5), 16, True),
}
LENS, CODER = "sae_weights.safetensors", "sae.safetensors"


def load(name: str, **kwargs) -> SparseDictionary:
    return load_dictionary(FOLDER / name, **{**SAID.get(name, {}), **kwargs})


@pytest.fixture
def edited(tmp_path):
    """A copy of a fixture with other fields in its config (`metadata__…` for those of its metadata) and tensors."""

    def edit(name: str, tensors: dict | None = None, folder: str | None = None, without: tuple = (), **fields) -> Path:
        copy = tmp_path / (folder or Path(name).name)
        shutil.copytree(FOLDER / name, copy)
        config = json.loads((copy / "cfg.json").read_text())
        for field, value in fields.items():
            place, _, inner = field.rpartition("__")
            (config[place] if place else config)[inner] = value
        for field in without:
            config.pop(field, None)
        (copy / "cfg.json").write_text(json.dumps(config))
        [weights] = copy.glob("sae*.safetensors")
        stored = {**load_file(weights), **(tensors or {})}
        save_file({key: value for key, value in stored.items() if key not in without and value is not None}, weights)
        return copy

    return edit


def assert_as_expected(model: SparseDictionary, name: str) -> None:
    expected = load_file(FOLDER / name / "expected.safetensors")
    states = expected["hidden_states"]
    torch.testing.assert_close(model.activations(states), expected["activations"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.reconstruct(states), expected["reconstruction"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(states).reconstruction, expected["reconstruction"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ABOUT)
def test_it_computes_what_the_original_package_computes(name, tmp_path):
    model = load(name)
    assert model.is_initialized and not model.training
    assert_as_expected(model, name)
    model.save_pretrained(tmp_path)
    for saved in (SparseDictionary.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(saved) is SparseDictionary and saved.fingerprint() == model.fingerprint()
        assert_as_expected(saved, name)


def test_every_fixture_is_tested():
    assert {str(file.parent.relative_to(FOLDER)) for file in FOLDER.rglob("expected.safetensors")} == set(ABOUT)


@pytest.mark.parametrize("name", ["standard", "jumprelu", "jumprelu_skip_transcoder"])
def test_how_activation_and_decoder_row_share_a_factor_changes_no_concept(edited, name, tmp_path):
    stored = load_file(FOLDER / name / LENS)
    factors = torch.ones(len(stored["W_dec"]))
    factors[0], factors[5] = 100.0, 0.01
    scaled = {"W_enc": stored["W_enc"] * factors, "b_enc": stored["b_enc"] * factors}
    scaled["W_dec"] = stored["W_dec"] / factors[:, None]
    if "threshold" in stored:
        scaled["threshold"] = stored["threshold"] * factors
    model, same = load(name), load_dictionary(edited(name, scaled))
    states = load_file(FOLDER / name / "expected.safetensors")["hidden_states"].repeat(20, 1, 1)
    states = states + torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    codes = model.encode(states)
    torch.testing.assert_close(same.reconstruct(states), model.reconstruct(states), rtol=1e-4, atol=1e-4)
    assert torch.equal(same.encode(states), codes) and torch.equal(same.codebook_only().encode(states), codes)
    torch.testing.assert_close(same.codebook, model.codebook)
    shuffled = codes.flip(0)
    one_each = [each.reconstruct(states, codes=shuffled) for each in (same, model)]
    torch.testing.assert_close(*one_each, rtol=1e-4, atol=1e-4)
    flat, gradients = states.flatten(0, 1), torch.randn(states.flatten(0, 1).shape)
    for variant in model.ablation_variants:
        if variant.startswith("encoder") or model.config.target_hidden_size == model.config.hidden_size:
            bases = [each.ablation_basis(flat, 3, variant, gradients) for each in (same, model)]
            torch.testing.assert_close(*bases, rtol=1e-3, atol=1e-3)
    same.save_pretrained(tmp_path / "saved")
    assert torch.equal(SparseDictionary.from_pretrained(tmp_path / "saved").encode(states), codes)


def test_the_strongest_neuron_is_that_of_the_longest_contribution(edited):
    # Of one token: neuron 3 is active with 1 and a row of length 5, neuron 4 with 2 and a row of length 1.
    weight, rows = torch.zeros(16, 32), torch.zeros(32, 16)
    weight[0, 3], weight[0, 4] = 1.0, 2.0
    rows[3, 1], rows[4, 2] = 5.0, 1.0
    tensors = {"W_enc": weight, "b_enc": torch.zeros(32), "b_dec": torch.zeros(16), "W_dec": rows}
    model = load_dictionary(edited("standard", tensors))
    state = torch.eye(16)[0]
    assert model.activations(state)[3:5].tolist() == [1.0, 2.0]
    assert model.encode(state[None, None]).item() == 3
    # Where none is active it is the one that lacks least (-10 and -2): neurons without a row are none.
    assert model.encode(-2 * state[None, None]).item() == 4


def test_rows_of_length_one_need_no_lengths(edited):
    rows = torch.nn.functional.normalize(load_file(FOLDER / "standard" / LENS)["W_dec"], dim=-1)
    model = load_dictionary(edited("standard", {"W_dec": rows.bfloat16()}))
    assert not model.config.has_row_lengths and "encoder.row_lengths" not in model.state_dict()


@pytest.mark.parametrize("name", ABOUT)
def test_the_config_says_what_it_is(name):
    config = load(name).config
    layers = (config.lower_layer, config.upper_layer)
    assert (config.activation, layers, config.target_hidden_size, config.has_skip) == ABOUT[name]
    assert config.num_active == (4 if config.activation == "topk" else None)
    assert (config.hidden_size, config.codebook_size) == (16, 32)
    assert not config.scale_states and config.sparsity_cost == 0 and config.revive_after is None


def test_the_config_says_where_it_comes_from():
    assert load("standard").config.host_name_or_path == "org/host"
    assert load("standard").config.training == {
        "dataset": "org/texts",
        "dictionary": {
            "format": "SAELens",
            "version": json.loads((FOLDER / "versions.json").read_text())["sae-lens"],
            "model_name": "org/host",
            "prepend_bos": True,
            "hooks": "hook_name='blocks.2.hook_resid_pre'",
        },
    }
    # TransformerLens' own name for it.
    old = load("standard_version_3").config
    assert old.host_name_or_path is None and old.training["dictionary"]["model_name"] == "gpt2-small"
    # A folder alone has nothing of its run.
    assert load("sparsify/layers.1").config.training == {
        "dictionary": {"format": "sparsify", "hooks": "hookpoint 'layers.1'"}
    }
    config = load("sparsify", subfolder="layers.1").config
    assert (config.host_name_or_path, config.host_revision) == ("org/host", "step1000")
    assert config.training["dataset"] == "org/texts"


def test_a_config_beside_the_hookpoints_may_be_of_something_else(edited, tmp_path):
    edited("sparsify/layers.1")
    (tmp_path / "config.json").write_text('{"model": "org/other", "model_type": "llama"}')
    assert load_dictionary(tmp_path, subfolder="layers.1").config.host_name_or_path is None


def test_the_host_is_noted_and_checked(causal_host, tokenizer):
    with pytest.raises(ValueError, match=r"hidden_size=16 .* 32 wide"):
        load("standard", host=causal_host)
    with pytest.raises(ValueError, match="layer"):
        load("sparsify/layers.4", host=causal_host)  # the host has 4 blocks
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    host = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)).eval()
    model = load("standard", host=host)
    assert (model.config.host_name_or_path, model.config.host_architecture) == (None, "LlamaForCausalLM")
    inputs = tokenizer("A wonderful film.", return_tensors="pt").data
    with model.attach(host) as tap, torch.no_grad():
        # The layer is that of output_hidden_states.
        states = host(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(tap.codes, model.encode(states))


@pytest.mark.parametrize(
    ("folder", "layer"),
    [("layers.5", 6), ("h.5", 6), ("model.layers.5", 6), ("gpt_neox.layers.0", 1), ("transformer.h.11", 12)],
)
def test_layers_of_hookpoints(edited, folder, layer):
    config = load_dictionary(edited("sparsify/layers.1", folder=folder)).config
    assert (config.lower_layer, config.upper_layer) == (layer, layer)


def test_one_of_several_dictionaries_of_a_hookpoint(edited, tmp_path):
    edited("sparsify/layers.1", folder="layers.7/seed0")
    for place in ({"subfolder": "layers.7/seed0"}, {}):
        name = tmp_path if place else tmp_path / "layers.7" / "seed0"
        assert load_dictionary(name, **place).config.lower_layer == 8
    assert load_dictionary(tmp_path / "layers.7", subfolder="seed0").config.lower_layer == 8


@pytest.mark.parametrize(
    ("hook", "layer"), [("blocks.0.hook_resid_pre", 0), ("blocks.7.hook_resid_post", 8), ("model.layers.7", 8)]
)
def test_layers_of_hooks(edited, hook, layer):
    config = load_dictionary(edited("standard", metadata__hook_name=hook)).config
    assert (config.lower_layer, config.upper_layer) == (layer, layer)


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.2.hook_resid_mid",
        "blocks.2.hook_mlp_out",
        "blocks.2.hook_attn_out",
        "blocks.2.attn.hook_z",
        "blocks.2.ln2.hook_normalized",
        "model.layers.2.mlp",
        "decoder.layers.2.fc1",
    ],
)
def test_hooks_inside_a_block_are_refused_whatever_layers_are_named(edited, hook):
    folder = edited("standard", metadata__hook_name=hook)
    for layers in ({}, {"lower_layer": 2, "upper_layer": 2}):
        with pytest.raises(ValueError, match="inside a block") as error:
            load_dictionary(folder, **layers)
        assert hook in str(error.value)


@pytest.mark.parametrize("folder", ["layers.5.mlp", "h.5.attn", "model.layers.5.self_attn"])
def test_hookpoints_inside_a_block_are_refused(edited, folder):
    with pytest.raises(ValueError, match="inside a block"):
        load_dictionary(edited("sparsify/layers.2", folder=folder), lower_layer=5, upper_layer=6)


def test_transcoders_of_an_mlp_are_refused(edited):
    hooks = {"metadata__hook_name": "blocks.2.hook_resid_pre", "metadata__hook_name_out": "blocks.2.hook_mlp_out"}
    with pytest.raises(ValueError, match=r"hook_mlp_out', inside a block"):
        load_dictionary(edited("transcoder", **hooks), lower_layer=2, upper_layer=3)


@pytest.mark.parametrize("hook", [None, "hook_embed", "decoder.layers.2", "encoder.layer.2", "something"])
def test_where_the_files_do_not_tell_the_layers_they_are_named(edited, hook):
    folder = edited("standard", metadata__hook_name=hook)
    with pytest.raises(ValueError, match="does not name the layers") as error:
        load_dictionary(folder)
    assert repr(hook) in str(error.value)
    model = load_dictionary(folder, lower_layer=4, upper_layer=4)
    assert (model.config.lower_layer, model.config.upper_layer) == (4, 4)
    assert_as_expected(model, "standard")


def test_a_transcoder_that_tells_only_its_input(edited):
    folder = edited("transcoder", metadata__hook_name_out=None)
    with pytest.raises(ValueError, match="hook_name_out=None"):
        load_dictionary(folder)
    assert load_dictionary(folder, lower_layer=2, upper_layer=5).config.upper_layer == 5


def test_layers_that_contradict_are_refused(edited):
    with pytest.raises(ValueError, match=r"of the layers \(2, 2\) .*, not \(3, 3\)"):
        load("standard", lower_layer=3, upper_layer=3)
    assert load("standard", lower_layer=2, upper_layer=2).config.lower_layer == 2
    with pytest.raises(ValueError, match="Name both layers"):
        load("standard", lower_layer=2)
    folder = edited("standard", metadata__hook_name=None)
    with pytest.raises(ValueError, match="is an autoencoder"):
        load_dictionary(folder, lower_layer=2, upper_layer=3)
    with pytest.raises(ValueError, match="did you swap them"):
        load_dictionary(edited("transcoder", metadata__hook_name_out=None), lower_layer=3, upper_layer=2)


@pytest.mark.parametrize(
    "architecture",
    [
        "gated",
        "temporal",
        "crosscoder",
        "batchtopk",
        "matryoshka_batchtopk",
        "abstopk",
        "matching_pursuit",
        None,
        ["topk"],
    ],
)
def test_unknown_architectures_are_refused(edited, architecture):
    with pytest.raises(ValueError, match="which is not known here") as error:
        load_dictionary(edited("standard", architecture=architecture))
    assert repr(architecture) in str(error.value)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("standard", {"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ("standard", {"normalize_activations": "constant_norm_rescale"}, "'constant_norm_rescale'"),
        ("standard", {"normalize_activations": "covariance_whitening"}, "'covariance_whitening'"),
        ("standard", {"normalize_activations": "new"}, "normalize_activations='new'"),
        ("standard", {"normalize_activations": "expected_average_only_in"}, "Give it as norm_scaling_factor"),
        ("standard", {"reshape_activations": "hook_z"}, "reshape_activations='hook_z'"),
        ("standard", {"metadata__hook_head_index": 3}, "hook_head_index=3"),
        ("standard", {"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input .* true or false, got 'yes'"),
        ("standard", {"k": 4}, r"has \['k'\], which is not known here"),
        ("standard", {"new_option": True}, r"has \['new_option'\], which is not known here"),
        ("standard", {"metadata": None}, "damaged; its metadata is None"),
        ("standard", {"metadata__model_from_pretrained_kwargs": "none"}, "is damaged"),
        ("standard", {"d_sae": "many"}, "codebook_size must be an integer"),
        ("topk", {"k": 33}, "num_active=33 is more than"),
        ("topk", {"k": 4.0}, "num_active must be an integer"),
        ("transcoder", {"apply_b_dec_to_input": True}, "transcoder with apply_b_dec_to_input"),
        ("standard_centered", {}, "say which with center_states"),
        ("standard_version_3", {"activation_fn_str": "tanh-relu"}, "activation 'tanh-relu'"),
        ("standard_version_3", {"architecture": "gated"}, "architecture 'gated'"),
        ("standard_version_3", {"hook_point_head_index": 1}, "hook_head_index=1"),
        ("standard_version_3", {"normalize_activations": True}, "norm_scaling_factor"),
        ("topk_version_5", {"activation_fn_kwargs": {"k": 4, "signed": True}}, "'signed': True"),
        ("topk_version_5", {"architecture": "batch_topk"}, "in the architecture 'batch_topk'"),
        ("sparsify/layers.1", {"activation": "groupmax"}, "activation 'groupmax'"),
        ("sparsify/layers.1", {"activation": "batchtopk"}, "activation 'batchtopk'"),
        ("sparsify/layers.1", {"signed": True}, "signed=True"),
        ("sparsify/layers.1", {"n_targets": 2}, r"has \['n_targets'\], which is not known here"),
        ("sparsify/layers.1", {"transcode": None}, "transcode .* true or false, got None"),
        ("sparsify/layers.4", {"expansion_factor": "2"}, "expansion_factor .* integer, got '2'"),
        ("sparsify/layers.1", {"k": 0}, "num_active must be an integer of at least 1"),
    ],
)
def test_options_that_are_not_understood_are_refused(edited, name, fields, message):
    with pytest.raises(ValueError, match=message):
        load_dictionary(edited(name, **fields))


def test_missing_fields_are_refused(edited, tmp_path):
    for name, field in (("topk", "k"), ("transcoder", "d_out"), ("sparsify/layers.4", "expansion_factor")):
        with pytest.raises(ValueError, match=f"lacks '{field}'"):
            load_dictionary(edited(name, without=(field,)))
    with pytest.raises(ValueError, match="does not say whether it transcodes"):
        load_dictionary(edited("sparsify/layers.1", without=("transcode",)))
    (tmp_path / "cfg.json").write_text('{"hidden_size": 16}')
    with pytest.raises(ValueError, match=r"neither of SAELens nor of sparsify. It has \['hidden_size'\]"):
        load_dictionary(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_dictionary(tmp_path)


def test_a_config_of_sparsify_before_it_had_transcoders(edited):
    folder = edited("sparsify/layers.1", without=("transcode", "skip_connection", "activation"), signed=False)
    assert_as_expected(load_dictionary(folder), "sparsify/layers.1")


@pytest.mark.parametrize("name", ["standard", "sparsify/layers.1"])
def test_tensors_must_be_those_of_the_config(edited, name):
    encoder = "encoder.weight" if "sparsify" in name else "W_enc"
    for number, (tensors, message) in enumerate(
        [
            ({"b_dec": None}, r"lacks the tensors \['b_dec'\]"),
            ({"W_skip": torch.zeros(16, 16)}, r"has the tensors \['W_skip'\]"),
            ({"r_mag": torch.zeros(32)}, r"has the tensors \['r_mag'\]"),
            ({encoder: torch.zeros(16, 16)}, rf"{encoder} has the shape \[16, 16\], and its config says"),
            ({"b_dec": torch.zeros(1)}, r"b_dec has the shape \[1\], and its config says \[16\]"),
            ({"b_dec": torch.zeros(16, dtype=torch.int8)}, "b_dec has the dtype I8"),
        ]
    ):
        with pytest.raises(ValueError, match=message):
            load_dictionary(edited(name, tensors, folder=f"{number}/layers.1"))


def test_a_threshold_is_not_dropped(edited):
    with pytest.raises(ValueError, match=r"has the tensors \['threshold'\]"):
        load_dictionary(edited("jumprelu", architecture="standard"))
    with pytest.raises(ValueError, match=r"lacks the tensors \['threshold'\]"):
        load_dictionary(edited("standard", architecture="jumprelu"))


def test_a_scaling_of_activations_is_refused_unless_it_is_one(edited):
    assert_as_expected(load("standard_version_3"), "standard_version_3")  # its file has a scaling of ones
    with pytest.raises(ValueError, match="scales its activations after training"):
        load_dictionary(edited("standard_version_3", {"scaling_factor": torch.full((32,), 1.5)}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_dtypes_are_read_as_float32(edited, dtype):
    rounded = {name: tensor.to(dtype) for name, tensor in load_file(FOLDER / "standard" / LENS).items()}
    model = load_dictionary(edited("standard", rounded))
    assert model.dtype == torch.float32
    torch.testing.assert_close(model.encoder.weight.T, rounded["W_enc"].float(), rtol=0, atol=0)


def test_decoder_rows_of_length_zero_do_nothing(edited):
    decoder = load_file(FOLDER / "topk_rescaled" / LENS)["W_dec"]
    decoder[3] = 0
    model = load_dictionary(edited("topk_rescaled", {"W_dec": decoder}))
    states = load_file(FOLDER / "topk_rescaled" / "expected.safetensors")["hidden_states"]
    assert model.activations(states)[..., 3].amax() < 1e-6
    assert model.reconstruct(states).isfinite().all()


def test_the_scaling_factor_is_of_dictionaries_that_want_one():
    for name in ("standard", "sparsify/layers.1"):
        with pytest.raises(ValueError, match="norm_scaling_factor"):
            load(name, norm_scaling_factor=0.75)
    for factor in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            load("standard_scaled", norm_scaling_factor=factor)
    with pytest.raises(ValueError, match="center_states are for SAELens only"):
        load("sparsify/layers.1", center_states=True)


def test_states_of_a_host_with_rms_norm_are_not_centered():
    model = load("standard_centered", center_states=False)
    states = load_file(FOLDER / "standard_centered" / "expected.safetensors")["hidden_states"]
    means = states.mean(-1, keepdim=True)
    torch.testing.assert_close(model.activations(states - means), load("standard_centered").activations(states))


def test_a_huge_size_is_refused_before_memory_is_asked_for(edited, monkeypatch):
    with pytest.raises(ValueError, match="codebook_size=100,000,000 is refused"):
        load_dictionary(edited("standard", d_sae=100_000_000))
    with pytest.raises(ValueError, match="GiB is refused"):
        load_dictionary(edited("sparsify/layers.1", d_in=2**21, num_latents=2**21))
    monkeypatch.setattr(configuration_concepts, "MAX_MODEL_BYTES", 2**40)
    with pytest.raises(ValueError, match="has the shape"):  # what the file has is looked at first
        load_dictionary(edited("topk", d_sae=2**22))


def test_pickles_are_refused(edited, tmp_path):
    for name, weights, pickle in (("standard", LENS, "sae_weights.pt"), ("sparsify/layers.1", CODER, "model.bin")):
        folder = edited(name)
        (folder / weights).rename(folder / pickle)
        with pytest.raises(ValueError, match=f"no {weights}. It has pickled ones .{pickle}., which are refused"):
            load_dictionary(folder)
    (tmp_path / "only").mkdir()
    torch.save({}, tmp_path / "only" / "ae.pt")
    with pytest.raises(ValueError, match=r"no cfg.json. It has pickled ones \(ae.pt\)"):
        load_dictionary(tmp_path / "only")


def test_damaged_weights_are_refused(edited):
    folder = edited("standard")
    (folder / LENS).write_bytes((folder / LENS).read_bytes()[:200])
    with pytest.raises(ValueError, match="are damaged"):
        load_dictionary(folder)


def test_a_folder_of_several_dictionaries_says_which_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"holds 4 dictionaries: name one with subfolder=…, such as \['layers.1', "):
        load("sparsify")
    with pytest.raises(ValueError, match=r"holds no dictionary: it has no cfg\.json"):
        load_dictionary(tmp_path)
    with pytest.raises(ValueError, match="leads out of"):
        load("sparsify", subfolder="../standard")


def test_from_the_hub(hub, tmp_path):
    api = HfApi()
    api.create_repo("org/dictionaries")
    api.upload_folder(repo_id="org/dictionaries", folder_path=FOLDER)
    for name in ("standard", "sparsify/layers.3"):
        model = load_dictionary("org/dictionaries", subfolder=name, cache_dir=tmp_path)
        assert_as_expected(model, name)
        origin = model.config.training["dictionary"]
        assert (origin["repo"], origin["subfolder"]) == ("org/dictionaries", name)
        assert origin["revision"] == api.model_info("org/dictionaries").sha
        assert model.config.host_name_or_path == "org/host"
    # Of the others nothing was downloaded.
    assert {file.parent.name for file in tmp_path.rglob("sae*.safetensors")} == {"standard", "layers.3"}
    again = load_dictionary("org/dictionaries", subfolder="standard", cache_dir=tmp_path, local_files_only=True)
    assert_as_expected(again, "standard")
    [weights] = tmp_path.rglob("snapshots/*/standard/sae*.safetensors")
    weights.resolve().write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged"):
        load_dictionary("org/dictionaries", subfolder="standard", cache_dir=tmp_path)
    again = load_dictionary("org/dictionaries", subfolder="standard", cache_dir=tmp_path, force_download=True)
    assert_as_expected(again, "standard")
    with pytest.raises(ValueError, match="holds 21 dictionaries: name one"):
        load_dictionary("org/dictionaries")
    with pytest.raises(HubError):
        load_dictionary("org/nothing")
    again.push_to_hub("me/standard")
    assert_as_expected(SparseDictionary.from_pretrained("me/standard"), "standard")


def test_what_is_refused_is_not_downloaded(hub, edited, tmp_path):
    api = HfApi()
    api.create_repo("org/gated")
    api.upload_folder(repo_id="org/gated", folder_path=edited("standard", architecture="gated"))
    with pytest.raises(ValueError, match="'gated'"):
        load_dictionary("org/gated", cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_pickles_on_the_hub_are_refused(hub, edited):
    folder = edited("standard")
    (folder / LENS).rename(folder / "weights.bin")
    api = HfApi()
    api.create_repo("org/pickled")
    api.upload_folder(repo_id="org/pickled", folder_path=folder)
    with pytest.raises(ValueError, match=r"pickled ones \(weights.bin\)"):
        load_dictionary("org/pickled")
