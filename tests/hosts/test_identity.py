"""What identifies a host: content, whatever its name, device or folder; and what a mismatch says."""

import copy

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertForSequenceClassification, BertModel

from clvq_hf.hosts.identity import check_identity, host_identity, tokenizer_fingerprint


def changed_fields(first, second) -> set[str]:
    first, second = host_identity(first), host_identity(second)
    return {name for name in first if name != "name" and first[name] != second[name]}


class TestHost:
    def test_what_is_saved_and_loaded_elsewhere_is_the_same(self, host, tokenizer, tmp_path):
        host.config.id2label = {0: "no", 1: "yes"}
        host.config.pad_token_id = 1
        host.save_pretrained(tmp_path / "a")
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a").train()
        assert changed_fields(host, loaded) == set()
        assert host_identity(loaded)["name"] == str(tmp_path / "a")

    def test_trained_on_in_place(self, host):
        before = copy.deepcopy(host)
        with torch.no_grad():
            host.bert.encoder.layer[2].output.dense.weight[3, 5] += 1e-6
        assert changed_fields(before, host) == {"weights"}

    def test_another_head(self, host):
        before = copy.deepcopy(host)
        with torch.no_grad():
            host.classifier.bias += 1
        assert changed_fields(before, host) == {"head"}

    def test_without_its_head_the_states_are_the_same(self, host, tmp_path):
        host.save_pretrained(tmp_path)
        bare = AutoModel.from_pretrained(tmp_path)
        assert type(bare) is BertModel
        whole, alone = host_identity(host, head=False), host_identity(bare, head=False)
        assert {**whole, "name": None} == {**alone, "name": None}
        assert changed_fields(host, bare) == {"architecture", "head"}

    def test_rows_that_change_places(self, host):
        before = copy.deepcopy(host)
        with torch.no_grad():
            rows = host.bert.embeddings.word_embeddings.weight
            rows[[100, 20_000]] = rows[[20_000, 100]]
        assert changed_fields(before, host) == {"weights"}

    def test_config_and_dtype(self, host):
        before = copy.deepcopy(host)
        host.config.layer_norm_eps = 1e-3
        assert changed_fields(before, host) == {"config"}
        assert changed_fields(before, copy.deepcopy(before).bfloat16()) == {"dtype", "weights", "head"}

    def test_weights_that_are_offloaded_are_not_read(self, host):
        with torch.device("meta"):
            offloaded = BertForSequenceClassification(host.config)
        identity = host_identity(offloaded)
        assert identity["weights"] is None and identity["config"] == host_identity(host)["config"]
        check_identity({"host": host_identity(host)}, {"host": identity}, "It", "Remedy.")


class TestTokenizer:
    def test_a_word_more(self, tokenizer):
        other = copy.deepcopy(tokenizer)
        other.add_tokens(["xyzzy"])
        assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)


class TestCheck:
    HOST = {"name": "org/a", "dtype": "float32", "config": "0" * 16, "weights": "1" * 16}

    def test_names_every_difference_with_both_values(self):
        other = {**self.HOST, "name": "org/b", "weights": "2" * 16}
        noted = {"host": self.HOST, "layer": 3, "settings": {"k": 1, "how": "swap"}, "more": 1}
        given = {"host": other, "layer": 4, "settings": {"k": 2, "how": "swap"}}
        with pytest.raises(ValueError) as error:
            check_identity(noted, given, "The table", "Make it again.")
        assert str(error.value) == (
            "The table is of something else: host org/a (weights 11111111), not org/b (weights 22222222); layer 3, "
            "not 4; settings: k 1, not 2. Make it again."
        )

    def test_another_name_is_no_difference(self, caplog):
        check_identity({"host": self.HOST}, {"host": {**self.HOST, "name": "elsewhere"}}, "It", "Remedy.")
        assert not caplog.text

    def test_what_earlier_versions_did_not_note_is_a_warning(self, caplog):
        for noted in (None, {"layer": 3}):
            check_identity(noted, {"host": self.HOST, "layer": 3}, "The table", "Make it again.")
        assert "The table does not say its host, layer, because an earlier version" in caplog.text
        assert "The table does not say its host, because an earlier version" in caplog.text
