import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from clvq_hf.data.tokenization import (
    TextCollator,
    check_texts,
    ensure_pad_token,
    filter_by_occurrence,
    tokenize_texts,
)


@pytest.fixture
def warnings_of(monkeypatch):
    """Warnings of the module, collected."""
    messages = []
    monkeypatch.setattr("clvq_hf.data.tokenization.logger.warning", messages.append)
    return messages


class TestPadToken:
    def test_end_of_sequence_stands_in_and_it_is_said(self, tokenizer, warnings_of):
        tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
        ensure_pad_token(tokenizer)
        ensure_pad_token(tokenizer)
        assert tokenizer.pad_token == "[SEP]"
        assert len(warnings_of) == 1 and "'[SEP]'" in warnings_of[0]

    def test_neither_is_an_error(self, tokenizer):
        tokenizer.pad_token, tokenizer.eos_token = None, None
        with pytest.raises(ValueError, match=r"tokenizer\.pad_token ="):
            ensure_pad_token(tokenizer)


class TestCheckTexts:
    def test_an_empty_dataset(self):
        with pytest.raises(ValueError, match="empty"):
            check_texts(Dataset.from_dict({"text": []}), "text")

    def test_a_missing_column_lists_those_there_are(self, texts):
        with pytest.raises(ValueError, match=r"no column 'sentence'; it has \['text', 'label'\]"):
            check_texts(texts, "sentence")

    def test_texts_must_be_strings(self):
        with pytest.raises(ValueError, match="not strings"):
            check_texts(Dataset.from_dict({"text": [1, 2]}), "text")

    def test_several_splits_at_once(self, texts):
        with pytest.raises(ValueError, match=r"got DatasetDict. Choose one of its splits: \['train', 'test'\]"):
            check_texts(texts.train_test_split(0.5), "text")
        with pytest.raises(ValueError, match="got list"):
            check_texts([{"text": "good"}], "text")


class TestTokenize:
    def test_equals_the_tokenizer(self, texts, tokenizer):
        tokenized = tokenize_texts(texts, tokenizer)
        assert len(tokenized) == len(texts)
        for row, text in zip(tokenized, texts["text"], strict=True):
            encoded = tokenizer(text, return_special_tokens_mask=True)
            assert row["input_ids"] == encoded["input_ids"]
            assert row["token_mask"] == [1 - special for special in encoded["special_tokens_mask"]]
            assert row["length"] == len(encoded["input_ids"]) and row["num_counted"] == row["length"] - 2

    def test_empty_texts_are_skipped_and_counted(self, tokenizer, warnings_of):
        dataset = Dataset.from_dict({"text": ["good", "", "  \n", None, "bad"]})
        tokenized = tokenize_texts(dataset, tokenizer)
        assert tokenized["text_index"][:] == [0, 4]
        assert warnings_of == ["Skipped 3 empty texts of 5."]
        with pytest.raises(ValueError, match="Every one of the 2 texts is empty"):
            tokenize_texts(Dataset.from_dict({"text": ["", " "]}), tokenizer)

    def test_texts_of_which_the_tokenizer_leaves_nothing_are_empty(self, tokenizer, warnings_of):
        dataset = Dataset.from_dict({"text": ["\u200b", "good", "\ufeff", "", "bad \u200b", "\u00ad"]})
        tokenized = tokenize_texts(dataset, tokenizer, with_words=True, count_special_tokens=True)
        assert tokenized["text_index"][:] == [1, 4] and tokenized["length"][:] == [3, 3]
        assert warnings_of == ["Skipped 4 empty texts of 6."]
        with pytest.raises(ValueError, match="Every one of the 1 texts is empty"):
            tokenize_texts(dataset.select([0]), tokenizer)
        with pytest.raises(ValueError, match="is empty within 2 tokens, which count special ones"):
            tokenize_texts(dataset, tokenizer, max_length=2)

    def test_a_whole_batch_of_empty_texts(self, tokenizer, warnings_of):
        # datasets maps batches of 1,000.
        tokenized = tokenize_texts(Dataset.from_dict({"text": [""] * 1000 + ["good"]}), tokenizer)
        assert tokenized["text_index"][:] == [1000]

    def test_long_texts_are_truncated_with_one_warning(self, tokenizer, warnings_of):
        dataset = Dataset.from_dict({"text": ["a b c d", "a b c", "a b c d e f", "a"]})
        tokenized = tokenize_texts(dataset, tokenizer, max_length=5)
        assert tokenized["length"][:] == [5, 5, 5, 3]
        for ids, text in zip(tokenized["input_ids"], dataset["text"], strict=True):
            assert ids == tokenizer(text, truncation=True, max_length=5)["input_ids"], "the final [SEP] stays"
        assert warnings_of == ["Truncated 2 texts of 4 to 5 tokens."], "a text that just fits is not cut"


class TestFingerprint:
    """Of a dataset on disk, `map` keeps what it made under the fingerprint: equal means the file is used again."""

    def test_the_same_tokenizer_again(self, texts, tokenizer, minilm_dir):
        before = tokenize_texts(texts, tokenizer)._fingerprint
        tokenizer(["a much longer text than allowed"], truncation=True, max_length=4, padding="max_length")
        assert tokenize_texts(texts, tokenizer)._fingerprint == before
        assert tokenize_texts(texts, AutoTokenizer.from_pretrained(minilm_dir))._fingerprint == before

    @pytest.mark.slow
    def test_whatever_changes_the_tokens(self, texts, minilm_dir):
        plain = AutoTokenizer.from_pretrained(minilm_dir)
        cased = AutoTokenizer.from_pretrained(minilm_dir, do_lower_case=False)
        left = AutoTokenizer.from_pretrained(minilm_dir, truncation_side="left")
        larger = AutoTokenizer.from_pretrained(minilm_dir)
        larger.add_tokens(["film noir"])
        prints = {tokenize_texts(texts, each)._fingerprint for each in (plain, cased, left, larger)}
        prints.add(tokenize_texts(texts, plain, max_length=8)._fingerprint)
        prints.add(tokenize_texts(texts, plain, count_special_tokens=True)._fingerprint)
        prints.add(tokenize_texts(texts.select(range(30)), plain)._fingerprint)
        assert len(prints) == 7


def test_filter_by_occurrence(tokenizer):
    dataset = Dataset.from_dict({"text": ["film film film plot", "film plot actor"]})
    tokenized = filter_by_occurrence(tokenize_texts(dataset, tokenizer), 2, 3)
    kept = [
        tokenizer.convert_ids_to_tokens([token for token, keep in zip(ids, mask, strict=True) if keep])
        for ids, mask in zip(tokenized["input_ids"], tokenized["token_mask"], strict=True)
    ]
    assert kept == [["plot"], ["plot"]], "film occurs 4 times, actor once, specials never count"
    assert tokenized["num_counted"][:] == [1, 1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_collator_pads_on_the_right(texts, tokenizer, side):
    tokenizer.padding_side = side
    rows = list(tokenize_texts(texts, tokenizer).select(range(5)))
    batch = TextCollator(tokenizer)(rows)
    length = max(row["length"] for row in rows)
    assert batch["input_ids"].shape == batch["token_mask"].shape == (5, length)
    assert batch["text_index"].tolist() == [0, 1, 2, 3, 4]
    for number, row in enumerate(rows):
        real = batch["attention_mask"][number].bool()
        assert batch["input_ids"][number][real].tolist() == row["input_ids"]
        assert batch["token_mask"][number][real].tolist() == row["token_mask"]
        assert batch["token_mask"][number][~real].sum() == 0
        assert real[0]
    assert batch["input_ids"].dtype == torch.int64
