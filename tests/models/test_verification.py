"""Reference texts tell the right host from wrong ones, and say what is wrong."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import (
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from clvq_hf import CLVQConfig, CLVQModel
from clvq_hf.models.verification import REFERENCE_TEXTS, Reference, difference, sketch

pytestmark = pytest.mark.slow

SIGNS = [[-1.0, 1.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, -1.0]]


@pytest.fixture
def model(make_model, host, tokenizer, texts, fit) -> CLVQModel:
    with torch.no_grad():
        for block in host.bert.encoder.layer:
            block.output.dense.weight.mul_(10)  # a fresh block changes next to nothing
    model = fit(make_model(codebook_size=24), host, tokenizer, texts)
    model.record_host(host, tokenizer)
    return model


def changed(host, change) -> BertForSequenceClassification:
    """A copy of a host with other weights."""
    other = type(host)(host.config).eval()
    other.load_state_dict(host.state_dict())
    with torch.no_grad():
        change(other)
    return other


def test_the_reference_holds_what_the_host_gives(model, host, tokenizer):
    reference = model.reference
    assert [text.text for text in reference.texts] == list(REFERENCE_TEXTS)
    for text in reference.texts:
        encoded = tokenizer(text.text, return_tensors="pt")
        assert text.input_ids == encoded["input_ids"][0].tolist()
        with model.attach(host) as tap:
            logits = host(**encoded).logits
        assert text.codes == tap.codes[0].tolist()
        assert torch.allclose(torch.tensor(text.lower_sketch), sketch(tap.hidden_states[0]), atol=1e-4)
        assert torch.allclose(torch.tensor(text.upper_sketch), sketch(tap.target_hidden_states[0]), atol=1e-4)
        assert text.prediction == int(logits.argmax())


def test_the_right_host(model, host, tokenizer):
    result = model.verify(host, tokenizer)
    assert result and result.ok and result.reasons == [] and result.agreement == 1.0
    assert result.num_tokens == sum(len(text.codes) for text in model.reference.texts) > 100
    assert "verified" in str(result)
    result.raise_if_wrong()
    # A host in training mode, or in half precision, is the same host.
    assert model.verify(host.train()) and host.training
    assert model.verify(changed(host, lambda other: other.to(torch.bfloat16)))


def test_without_its_head_it_is_verified_as_far_as_it_goes(model, host):
    bare = BertModel(host.config).eval()
    bare.load_state_dict(host.bert.state_dict())
    result = model.verify(bare)
    assert result and any("without its head" in note for note in result.notes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda other: other.bert.embeddings.word_embeddings.weight.normal_(std=0.02), "the host has other weights"),
        (lambda other: other.bert.encoder.layer[2].output.LayerNorm.weight.mul_(1.5), "upper layer 3 differ"),
        (lambda other: other.classifier.weight.mul_(-1), "predictions differ"),
        (lambda other: other.bert.encoder.layer[0].output.LayerNorm.weight.mul_(3), "Divided by 3 they are the same"),
    ],
)
def test_other_weights(model, host, change, reason):
    result = model.verify(changed(host, change))
    assert not result
    assert reason in result.reasons[0]
    with pytest.raises(ValueError, match="NOT the right host"):
        result.raise_if_wrong()


def test_blocks_above_the_upper_layer_show_in_predictions_alone(model, host):
    assert model.verify(changed(host, lambda other: other.bert.encoder.layer[3].output.dense.weight.mul_(1.01)))


def test_another_normalisation(make_model, host, tokenizer, texts, fit):
    block = host.bert.encoder.layer[0].output.LayerNorm
    # As if there were no norm: lengths differ from token to token.
    hook = block.register_forward_hook(lambda module, inputs, output: output * output[..., :1].exp())
    model = fit(make_model(codebook_size=24), host, tokenizer, texts)
    model.record_host(host, tokenizer)
    assert model.verify(host)
    hook.remove()
    result = model.verify(host)
    assert not result and "normalised differently" in result.reasons[0]


def test_codes_so_close_that_rounding_moves_tokens(model, host):
    # The same states; every fifth token has the code of a neighbour.
    texts = [
        replace(text, codes=[(code + (n % 5 == 0)) % 24 for n, code in enumerate(text.codes)])
        for text in model.reference.texts
    ]
    model._reference = Reference(model.fingerprint(), texts)
    result = model.verify(host)
    assert not result and "although the states differ by only 0.0%" in result.reasons[0]
    assert "layers are counted differently" not in str(result)


def test_a_prediction_that_another_dtype_may_explain(model, host):
    first, *others = model.reference.texts
    model._reference = Reference(model.fingerprint(), [replace(first, prediction=1 - first.prediction), *others])
    model.config.host_dtype = "float32"
    assert "1 of 8 predictions differ" in model.verify(host).reasons[0]
    model.config.host_dtype = "bfloat16"
    result = model.verify(host)
    assert result and any("the other dtype may explain" in note for note in result.notes)


def test_a_wrapped_host(model, host, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        result = model.verify(torch.nn.parallel.DistributedDataParallel(host))
    finally:
        torch.distributed.destroy_process_group()
    assert result and result.host == "DistributedDataParallel"


def test_another_layer(model, host):
    # The same weights read one layer too high, as if the embeddings were layer 1.
    model.config.lower_layer = 2
    model._reference = Reference(model.fingerprint(), model._reference.texts)
    result = model.verify(host)
    assert not result
    assert "They are the same at layer 1" in result.reasons[0] and "lower_layer=2" in result.reasons[0]


def test_sketches_keep_lengths_and_differences():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4000, 64, generator=generator)
    lengths = sketch(states).square().mean(-1)
    assert float(lengths.mean()) == pytest.approx(float(states.square().mean()), rel=0.05)
    assert torch.equal(sketch(states), sketch(states))
    # Of NumPy's frozen generator: these signs are in files of others.
    assert (sketch(torch.eye(3)) * 3**0.5).round().tolist() == SIGNS
    near, far = states + 0.01 * torch.randn(4000, 64, generator=generator), torch.randn(4000, 64, generator=generator)
    assert difference(sketch(near), sketch(states)) < 0.02 < 1 < difference(sketch(far), sketch(states))


def test_hosts_that_do_not_even_fit(model, host, causal_host):
    host.config.num_hidden_layers = 2
    short = type(host)(host.config)
    result = model.verify(short)
    assert not result and result.agreement == 0 and "2 blocks" in result.reasons[0]
    config = causal_host.config
    config.hidden_size = 64
    result = model.verify(LlamaForCausalLM(config))
    assert not result and "64 wide" in result.reasons[0]
    config.hidden_size, config.vocab_size = 32, 100
    result = model.verify(LlamaForCausalLM(config))
    assert not result and "knows 100 tokens" in result.reasons[0]


def test_another_tokenizer(model, host, tokenizer):
    tokenizer.add_tokens(["halved infections"])
    result = model.verify(host, tokenizer)
    assert not result
    assert "another vocabulary" in result.reasons[0] and "splits" in result.reasons[1]


def test_saved_and_loaded(model, host, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = CLVQModel.from_pretrained(tmp_path)
    assert loaded._reference is None and loaded.reference == model.reference
    assert loaded.verify(host, tokenizer)
    assert loaded.config.tokenizer_fingerprint == model.config.tokenizer_fingerprint is not None


def test_references_of_other_weights_are_not_saved_or_believed(model, host, tmp_path):
    with torch.no_grad():
        model.quantizer.ema_sums.add_(1)
    with pytest.raises(ValueError, match="other weights"):
        model.verify(host)
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "reference.json").exists()
    (tmp_path / "reference.json").write_text("of an earlier model in this folder")
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "reference.json").exists()
    with pytest.raises(ValueError, match="record_host"):
        CLVQModel.from_pretrained(tmp_path).verify(host)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("texts"),
        lambda content: content.update(format_version=9),
        lambda content: content["texts"][0].pop("codes"),
        lambda content: content["texts"][0]["codes"].pop(),
        lambda content: content.update(texts=[]),
    ],
)
def test_damaged_references(model, tmp_path, damage):
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "reference.json").read_text())
    damage(content)
    (tmp_path / "reference.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"reference\.json"):
        _ = CLVQModel.from_pretrained(tmp_path).reference
    # Weights are saved all the same.
    CLVQModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert CLVQModel.from_pretrained(tmp_path / "again").fingerprint() == model.fingerprint()


def test_reference_texts_need_tokens(model, host, tokenizer):
    with pytest.raises(ValueError, match="at least one text has none"):
        model.record_host(host, tokenizer, texts=[])


def test_a_classifier_that_cannot_pad(make_model, tokenizer, texts, fit):
    sizes = {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": len(tokenizer), "num_labels": 2}
    host = GPT2ForSequenceClassification(GPT2Config(**sizes)).eval()
    assert host.config.pad_token_id is None
    model = fit(make_model(is_causal=True), GPT2ForSequenceClassification(host.config), tokenizer, texts.select([0]))
    model.record_host(host, tokenizer)
    assert model.verify(host, tokenizer)
    for text in model.reference.texts:
        assert text.prediction == int(host(torch.tensor([text.input_ids])).logits.argmax())
    host.config.pad_token_id = 0
    assert model.verify(host)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_encoder_decoders(tokenizer, texts, stack):
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}
    host = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes)).eval()
    config = CLVQConfig.from_host(
        host, 1, 2, stack=stack, codebook_size=6, num_decoder_layers=1, num_attention_heads=4
    )
    model = CLVQModel(config).eval()
    model.initialize_codebook(torch.randn(50, 32), seed=0)
    model.record_host(host, tokenizer)
    assert model.verify(host, tokenizer)


def test_a_host_that_cannot_read_the_texts_is_a_finding(model, host):
    host.bert.embeddings.position_embeddings = torch.nn.Embedding(4, 32)
    result = model.verify(host)
    assert not result and "cannot read the reference texts" in result.reasons[0]


def test_a_causal_host_and_texts_of_ones_own(make_model, causal_host, tokenizer, texts, fit):
    model = fit(make_model(is_causal=True), causal_host, tokenizer, texts)
    model.record_host(causal_host, tokenizer, texts=["one text", "another, longer text"])
    assert [text.text for text in model.reference.texts] == ["one text", "another, longer text"]
    assert model.verify(causal_host, tokenizer)
