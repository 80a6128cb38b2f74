import pytest
import torch
from helpers import tiny_hosts
from transformers.models.auto import modeling_auto

from clvq_hf.hosts import HostRunner, Readout, UnsupportedHostError

CLASSES = Readout("classification")
# Types with a causal head and one for classes; those that have a masked one are encoders.
DECODERS = sorted(
    set(tiny_hosts.text_model_types())
    & set(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    & set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    - set(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    - set(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    # Its last position is its prediction, wherever the text ends: refused below.
    - {"xlnet"}
)


def texts(count=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 12, (count,), generator=generator).tolist()
    return [torch.randint(8, 60, (length,), generator=generator).tolist() for length in lengths]


def batch_of(rows, pad=5):
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [pad] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
    }


def classifier(model_type, pad_token_id):
    host = tiny_hosts.tiny_host(model_type, "AutoModelForSequenceClassification", num_labels=3)
    host.config.get_text_config().pad_token_id = pad_token_id
    return host


@torch.no_grad()
def logits_of(host, rows):
    return host(**HostRunner(host, readout=CLASSES).inputs(batch_of(rows))).logits


class TestClassesDoNotDependOnTheBatch:
    @pytest.mark.parametrize("model_type", DECODERS)
    def test_the_padding_token_of_the_tokenizer_is_not_the_heads(self, model_type):
        host, rows = classifier(model_type, pad_token_id=7), texts()
        alone = torch.cat([logits_of(host, [row]) for row in rows])
        assert torch.allclose(logits_of(host, rows), alone, atol=1e-4 * float(alone.abs().max()))

    @pytest.mark.parametrize("named", [None, -1, 64])
    @pytest.mark.parametrize("model_type", ["gpt2", "llama", "bloom"])
    def test_a_head_without_a_usable_padding_token_is_refused_in_a_batch(self, model_type, named):
        host, rows = classifier(model_type, named), texts(3)
        with pytest.raises(UnsupportedHostError, match=rf"pad_token_id={named}\. Set it to"):
            logits_of(host, rows)
        # Alone nothing is padded, and states alone are read by no head.
        assert torch.equal(logits_of(host, rows[:1]), host(torch.tensor(rows[:1])).logits)
        HostRunner(host).inputs(batch_of(rows))
        host.config.pad_token_id = 7
        assert logits_of(host, rows).shape == (3, 3)

    def test_a_head_that_reads_the_last_position_is_refused(self):
        with pytest.raises(UnsupportedHostError, match="XLNetForSequenceClassification predicts would depend"):
            logits_of(classifier("xlnet", 7), texts(3))

    @pytest.mark.parametrize("model_type", ["bert", "modernbert", "bart"])
    def test_other_heads_are_let_through(self, model_type):
        host = classifier(model_type, 7)
        rows = [[*row, 2] for row in texts(4)]
        alone = torch.cat([logits_of(host, [row]) for row in rows])
        assert torch.allclose(logits_of(host, rows), alone, atol=1e-5)


class TestTokens:
    def test_padding_gets_an_id_of_the_embedding(self):
        host = classifier("gpt2", None)
        inputs = HostRunner(host).inputs(batch_of([[8, 9], [10, 11, 12]], pad=1000))
        assert inputs["input_ids"].tolist() == [[8, 9, 0], [10, 11, 12]]

    def test_a_token_beyond_the_embedding_is_named(self):
        host = classifier("gpt2", 7)
        with pytest.raises(ValueError, match=r"Token 64 of the texts.* has 64 rows.*resize_token_embeddings"):
            HostRunner(host).inputs(batch_of([[8, 9], [10, 64, 12]]))
