"""A cache holds what the extractor returns for its texts, whole or not at all; its views change no file."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2ForSequenceClassification

from clvq_hf import ActivationCache
from clvq_hf.data.activation_cache import StateCollator
from clvq_hf.data.extraction import HiddenStateExtractor
from clvq_hf.data.tokenization import filter_by_occurrence, tokenize_texts
from clvq_hf.files import locked
from clvq_hf.hosts import hooks


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tmp_path_factory.mktemp("original") / "cache"


def interrupt_at(monkeypatch, number):
    """Interrupt the host once, when it has read so many batches; the rows of those that it has read."""
    inner, read, interrupts = HiddenStateExtractor.of_pairs, [], []

    def of_pairs(self, batch, *args, **kwargs):
        if len(read) == number and not interrupts:
            interrupts.append(number)
            raise KeyboardInterrupt
        read.append(sorted(batch["text_index"].tolist()))
        return inner(self, batch, *args, **kwargs)

    monkeypatch.setattr(HiddenStateExtractor, "of_pairs", of_pairs)
    return read


@pytest.fixture
def cache(host, tokenizer, texts, tmp_path, original):
    """A cache of the first host and texts, built once; each test has its own copy."""
    if not original.exists():
        ActivationCache.build(
            original, host, tokenizer, texts, lower_layer=1, upper_layer=3, texts_per_shard=25, batch_size=8
        )
    return ActivationCache.load(shutil.copytree(original, tmp_path / "cache"))


class TestCache:
    def test_holds_the_states_of_the_host(self, cache, host, tokenizer, texts):
        assert len(cache) == len(texts)
        for index in (0, 24, 25, 59):
            encoded = tokenizer(texts[index]["text"], return_tensors="pt")
            expected = host(**encoded, output_hidden_states=True).hidden_states
            item = cache[index]
            assert torch.allclose(item["hidden_states"], expected[1][0], atol=1e-5)
            assert torch.allclose(item["target_hidden_states"], expected[3][0], atol=1e-5)
            assert item["text_index"] == index
            assert item["token_mask"].tolist() == [0, *[1] * (len(item["token_mask"]) - 2), 0]

    def test_of_a_stream_is_that_of_its_texts(self, cache, host, tokenizer, texts, tmp_path):
        layers = {"lower_layer": 1, "upper_layer": 3}
        sizes = {"texts_per_shard": 25, "batch_size": 8}
        streamed = ActivationCache.build(
            tmp_path / "streamed", host, tokenizer, texts.to_iterable_dataset(num_shards=2), **layers, **sizes
        )
        assert streamed.metadata["identity"] == cache.metadata["identity"]
        assert torch.equal(streamed.counted("hidden_states"), cache.counted("hidden_states"))
        with pytest.raises(ValueError, match="has no rows"):
            empty = texts.to_iterable_dataset().take(0)
            ActivationCache.build(tmp_path / "none", host, tokenizer, empty, **layers)

    def test_lengths_and_counts(self, cache, tokenizer, texts):
        lengths = [len(ids) for ids in tokenizer(texts["text"][:])["input_ids"]]
        assert cache.lengths.tolist() == lengths
        assert cache.num_counted.tolist() == [length - 2 for length in lengths]

    def test_is_sharded_and_opened_again(self, cache):
        assert len(list(cache.path.glob("shard-*.safetensors"))) == 3
        again = ActivationCache.load(cache.path)
        assert torch.equal(again[30]["hidden_states"], cache[30]["hidden_states"])
        assert again.metadata["hidden_size"] == 32

    def test_stores_no_padding(self, cache):
        tokens = sum(len(load_file(path)["hidden_states"]) for path in cache.path.glob("shard-*.safetensors"))
        assert tokens == cache.lengths.sum()

    def test_out_of_range(self, cache):
        with pytest.raises(IndexError):
            cache[60]
        with pytest.raises(IndexError):
            cache[-1]

    def test_skips_empty_texts_and_keeps_indices(self, host, tokenizer, tmp_path):
        dataset = Dataset.from_dict({"text": ["good", "", "bad film"]})
        cache = ActivationCache.build(tmp_path, host, tokenizer, dataset, lower_layer=1, upper_layer=3)
        assert [int(cache[index]["text_index"]) for index in range(len(cache))] == [0, 2]

    def test_an_interrupted_one_is_not_opened(self, cache):
        (cache.path / "activations.json").unlink()
        with pytest.raises(ValueError, match="no complete activation cache"):
            ActivationCache.load(cache.path)

    @pytest.mark.parametrize("read", ["item", "counted", "lengths", "view", "worker"])
    def test_a_flipped_bit_in_a_shard_is_found_when_it_is_read(self, cache, read):
        shard = sorted(cache.path.glob("shard-*.safetensors"))[1]
        damaged = bytearray(shard.read_bytes())
        damaged[-1] ^= 1
        shard.write_bytes(damaged)
        cache = ActivationCache.load(cache.path)
        cache[0]  # of another shard
        with pytest.raises(ValueError, match=r"shard-\w+-00001\.safetensors is damaged.*Build the cache again"):
            if read == "item":
                cache[30]
            elif read == "counted":
                cache.counted("hidden_states")
            elif read == "lengths":
                len(cache.num_counted)
            elif read == "view":
                cache.with_special_tokens().single_layer()[30]
            else:
                pickle.loads(pickle.dumps(cache))[30]

    def test_a_shard_is_checked_once(self, cache, monkeypatch):
        cache = ActivationCache.load(cache.path)
        cache[0], cache[30]
        monkeypatch.setattr("clvq_hf.data.activation_cache.check_file", None)
        cache[1], cache[31], cache.with_special_tokens()[2], pickle.loads(pickle.dumps(cache))[3]

    def test_a_flipped_bit_in_the_other_files(self, cache):
        [sensitivity] = cache.path.glob("sensitivity-*.safetensors")
        for file in (sensitivity, cache.path / "activations.json"):
            whole = file.read_bytes()
            file.write_bytes(
                whole.replace(b"1", b"2", 1) if file.suffix == ".json" else whole[:-1] + bytes([whole[-1] ^ 1])
            )
            with pytest.raises(ValueError, match=f"{file.name} is damaged"):
                ActivationCache.load(cache.path).sensitivity.sum()
            file.write_bytes(whole)
        assert ActivationCache.load(cache.path).sensitivity.shape == (32, 32)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            *[("activations.json", text) for text in (b"", b"[]", b"{}", b'{"shards": ["../x"]}', b"[" * 100_000)],
            *[("shard", text) for text in (b"", b"x" * 100, None)],
            *[("sensitivity", text) for text in (b"", b"x" * 100, None)],
        ],
    )
    @pytest.mark.parametrize("version", ["this one", "an earlier one"])
    def test_damage_is_named(self, cache, name, content, version):
        metadata = cache.path / "activations.json"
        if version == "an earlier one":
            noted = json.loads(metadata.read_text())
            metadata.write_text(json.dumps({key: noted[key] for key in noted if key not in ("files", "checksum")}))
        file = sorted(cache.path.glob(f"{name}*"))[0]
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file.name}|lacks {file.name}"):
            ActivationCache.load(cache.path).sensitivity.sum()

    @pytest.mark.parametrize("name", ["hidden_states", "lengths", "token_mask", "prediction", "input_ids"])
    def test_tensors_that_do_not_belong_together(self, cache, name):
        file = sorted(cache.path.glob("shard-*"))[0]
        tensors = load_file(file)
        tensors[name] = tensors[name][:-1].clone()
        save_file(tensors, file)
        with pytest.raises(ValueError, match=rf"{file.name} is damaged: \w+ has not the shape"):
            ActivationCache.load(cache.path)

    def test_replaces_its_like_and_nothing_else(self, cache, host, tokenizer, texts, tmp_path):
        build = {"lower_layer": 0, "upper_layer": 2}
        rebuilt = ActivationCache.build(cache.path, host, tokenizer, texts.select(range(5)), **build)
        assert len(rebuilt) == 5 and rebuilt.metadata["lower_layer"] == 0
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("precious")
        with pytest.raises(ValueError, match="not an activation cache"):
            ActivationCache.build(tmp_path / "mine", host, tokenizer, texts, **build)
        assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"upper_layer": 9}, "4 blocks"),
            ({"lower_layer": 3, "upper_layer": 1}, "swap"),
            ({"text_column": "body"}, "no column 'body'"),
        ],
    )
    def test_bad_input_costs_nothing_that_was_made(self, cache, host, tokenizer, texts, arguments, message):
        (cache.path / "notes.md").write_text("mine")
        before = sorted(cache.path.iterdir())
        with pytest.raises(ValueError, match=message):
            ActivationCache.build(
                cache.path, host, tokenizer, texts, **{"lower_layer": 1, "upper_layer": 3, **arguments}
            )
        assert sorted(cache.path.iterdir()) == before
        assert len(ActivationCache.load(cache.path)) == len(texts)

    def test_the_old_one_stays_until_the_new_one_is_whole(self, cache, host, tokenizer, texts):
        before = sorted(cache.path.iterdir())
        hooks.residual_stream(host)  # a host of NaN cannot be probed
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
        with pytest.raises(ValueError, match="NaN"):
            ActivationCache.build(cache.path, host, tokenizer, texts, lower_layer=1, upper_layer=3)
        assert sorted(cache.path.iterdir()) == before

    def test_an_interrupted_build_goes_on_at_its_last_whole_shard(self, host, tokenizer, texts, tmp_path, monkeypatch):
        build = {"lower_layer": 1, "upper_layer": 3, "texts_per_shard": 20, "batch_size": 20}
        whole = ActivationCache.build(tmp_path / "whole", host, tokenizer, texts, **build)
        read = interrupt_at(monkeypatch, 2)
        with pytest.raises(KeyboardInterrupt):
            ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, **build)
        with pytest.raises(ValueError, match="no complete activation cache"):
            ActivationCache.load(tmp_path / "cache")
        cache = ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, **build)
        assert read == [list(range(20)), list(range(20, 40)), list(range(40, 60))], "each text once"
        for row in range(len(texts)):
            assert all(torch.equal(tensor, whole[row][name]) for name, tensor in cache[row].items())
        assert sorted(file.name for file in cache.path.iterdir()) == sorted(file.name for file in whole.path.iterdir())

    def test_a_damaged_shard_is_extracted_again(self, host, tokenizer, texts, tmp_path, monkeypatch):
        build = {"lower_layer": 1, "upper_layer": 3, "texts_per_shard": 20, "batch_size": 20}
        whole = ActivationCache.build(tmp_path / "whole", host, tokenizer, texts, **build)
        interrupt_at(monkeypatch, 2)
        with pytest.raises(KeyboardInterrupt):
            ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, **build)
        [shard, *_] = sorted((tmp_path / "cache").glob(".building-*/shard-*.safetensors"))
        content = bytearray(shard.read_bytes())
        content[-100] ^= 1
        shard.write_bytes(content)
        cache = ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, **build)
        for row in range(len(texts)):
            assert all(torch.equal(tensor, whole[row][name]) for name, tensor in cache[row].items())

    def test_shards_of_something_else_are_not_taken(self, host, tokenizer, texts, tmp_path, monkeypatch):
        build = {"lower_layer": 1, "upper_layer": 3, "texts_per_shard": 20, "batch_size": 20}
        interrupt_at(monkeypatch, 2)
        with pytest.raises(KeyboardInterrupt):
            ActivationCache.build(tmp_path, host, tokenizer, texts, **build)
        others = texts.select(range(30, 60))
        cache = ActivationCache.build(tmp_path, host, tokenizer, others, **build)
        fresh = ActivationCache.build(tmp_path / "fresh", host, tokenizer, others, **build)
        assert len(cache) == 30 and not list(tmp_path.glob(".building-*"))
        assert torch.equal(cache[3]["hidden_states"], fresh[3]["hidden_states"])

    def test_shards_with_predictions_of_another_head_are_not_taken(
        self, host, tokenizer, texts, tmp_path, monkeypatch
    ):
        build = {"lower_layer": 1, "upper_layer": 3, "texts_per_shard": 20, "batch_size": 20}
        interrupt_at(monkeypatch, 2)
        with pytest.raises(KeyboardInterrupt):
            ActivationCache.build(tmp_path, host, tokenizer, texts, **build)
        with torch.no_grad():
            host.classifier.bias += torch.tensor([100.0, 0.0])
        assert (ActivationCache.build(tmp_path, host, tokenizer, texts, **build).predictions == 0).all()

    @pytest.mark.parametrize("operation", range(6))
    def test_killed_while_the_new_one_takes_its_place(self, cache, host, tokenizer, texts, monkeypatch, operation):
        build = {"lower_layer": 0, "upper_layer": 2, "texts_per_shard": 20, "batch_size": 20}
        inner, done = Path.replace, []

        def replace(self, target):
            if not str(target).endswith(".partial") and Path(target).parent == cache.path:
                done.append(target)
                if len(done) > operation:
                    raise KeyboardInterrupt
            return inner(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        before = {name: tensor.clone() for name, tensor in cache[30].items()}
        if operation < 5:  # three shards, the sensitivity and the metadata
            with pytest.raises(KeyboardInterrupt):
                ActivationCache.build(cache.path, host, tokenizer, texts, **build)
            left = ActivationCache.load(cache.path)
            assert all(torch.equal(left[30][name], tensor) for name, tensor in before.items())
            assert left.sensitivity.shape == (32, 32)
        monkeypatch.setattr(Path, "replace", inner)
        again = ActivationCache.build(cache.path, host, tokenizer, texts, **build)
        assert again.metadata["lower_layer"] == 0 and len(again) == len(texts)
        assert len(list(cache.path.glob("*.safetensors"))) == 4

    def test_two_builders_of_one_folder(self, host, tokenizer, texts, tmp_path):
        with locked(tmp_path), pytest.raises(ValueError, match="Another run is at work"):
            ActivationCache.build(tmp_path, host, tokenizer, texts, lower_layer=1, upper_layer=3)
        ActivationCache.build(tmp_path, host, tokenizer, texts, lower_layer=1, upper_layer=3)

    def test_travels_to_workers_as_its_path(self, cache, monkeypatch, tmp_path):
        monkeypatch.chdir(cache.path.parent)
        pickled = pickle.dumps(ActivationCache.load(cache.path.name))
        assert len(pickled) < 1000
        monkeypatch.chdir(tmp_path)
        assert torch.equal(pickle.loads(pickled)[3]["hidden_states"], cache[3]["hidden_states"])

    def test_nan_in_the_host_names_texts(self, host, tokenizer, texts, tmp_path):
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight[tokenizer(texts[11]["text"])["input_ids"][1]] = float("nan")
        with pytest.raises(ValueError, match=r"NaN or Inf in hidden_states of batch \d+, .*11"):
            ActivationCache.build(tmp_path, host, tokenizer, texts, lower_layer=1, upper_layer=3)


class TestPairs:
    def test_one_pass_gives_what_each_pair_gives(self, host, tokenizer, texts, tmp_path, monkeypatch):
        pairs = [(1, 3), (0, 2), (2, 3)]
        alone = {
            pair: ActivationCache.build(
                tmp_path / f"alone-{pair}", host, tokenizer, texts, lower_layer=pair[0], upper_layer=pair[1]
            )
            for pair in pairs
        }
        passes = []
        inner = HiddenStateExtractor.of_pairs
        monkeypatch.setattr(
            HiddenStateExtractor, "of_pairs", lambda *args, **kwargs: passes.append(1) or inner(*args, **kwargs)
        )
        found = ActivationCache.build_pairs(
            tmp_path / "all", host, tokenizer, texts, pairs, batch_size=len(texts), texts_per_shard=len(texts)
        )
        assert list(found) == pairs and len(passes) == 1
        for pair, cache in found.items():
            assert cache.path == tmp_path / "all" / f"{pair[0]}-{pair[1]}"
            assert torch.allclose(cache.sensitivity, alone[pair].sensitivity, rtol=1e-3, atol=1e-5)
            assert cache.metadata["identity"] == alone[pair].metadata["identity"]
            for row in range(len(cache)):
                for name, tensor in alone[pair][row].items():
                    assert torch.allclose(cache[row][name], tensor, atol=1e-5), (pair, name)

    def test_bad_pairs_leave_nothing(self, host, tokenizer, texts, tmp_path):
        with pytest.raises(ValueError, match="at least one pair"):
            ActivationCache.build_pairs(tmp_path, host, tokenizer, texts, [])
        with pytest.raises(ValueError):
            ActivationCache.build_pairs(tmp_path, host, tokenizer, texts, [(1, 3), (1, 99)])
        assert not any(tmp_path.iterdir())


def test_a_classifier_that_reads_padding_gives_states_without_predictions(tokenizer, texts, tmp_path):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=3, n_head=4, n_positions=128, pad_token_id=None)
    host = GPT2ForSequenceClassification(config).eval()
    cache = ActivationCache.build(tmp_path, host, tokenizer, texts, lower_layer=1, upper_layer=3)
    assert len(cache) == len(texts) and cache.predictions is None


class TestTokenIds:
    def test_are_those_of_the_real_tokens(self, cache, tokenizer, texts):
        encoded = tokenizer(texts["text"][:])["input_ids"]
        assert torch.cat([shard["input_ids"] for shard in cache._shards]).tolist() == np.concatenate(encoded).tolist()
        inner = np.concatenate([ids[1:-1] for ids in encoded])
        assert cache.counted("input_ids").tolist() == inner.tolist()

    def test_counted_states_are_in_the_order_of_the_texts(self, cache):
        for name in ("hidden_states", "target_hidden_states"):
            expected = torch.cat([cache[index][name][1:-1] for index in range(len(cache))])
            assert torch.equal(cache.counted(name), expected)

    def test_an_older_cache_has_none(self, cache):
        path = cache.path / cache.metadata["shards"][1]
        tensors = load_file(path)
        del tensors["input_ids"]
        save_file(tensors, path)
        with pytest.raises(ValueError, match="older version, without input_ids"):
            ActivationCache.load(cache.path)


class TestViews:
    @pytest.mark.parametrize(("minimum", "maximum"), [(5, 20), (2, None), (None, 1), (3, 3)])
    def test_the_filter_is_that_of_the_texts(self, cache, tokenizer, texts, minimum, maximum):
        filtered = cache.filter_by_occurrence(minimum, maximum)
        rows = filter_by_occurrence(tokenize_texts(texts, tokenizer), minimum, maximum)
        for index in range(len(texts)):
            assert filtered[index]["token_mask"].tolist() == rows[index]["token_mask"]
        assert filtered.num_counted.tolist() == rows["num_counted"][:]
        # By hand, special tokens included in what is counted and left out of what counts.
        ids = np.concatenate(tokenizer(texts["text"][:])["input_ids"])
        occurrences = np.bincount(ids)[ids]
        wanted = (occurrences >= (minimum or 0)) & (occurrences <= (maximum or 10**9)) & (ids > 103)
        assert filtered.counted("input_ids").tolist() == ids[wanted].tolist()
        assert 0 < wanted.sum() < cache.num_counted.sum()

    def test_the_cache_and_its_files_stay_as_they_are(self, cache):
        before = {path.name: path.read_bytes() for path in cache.path.iterdir()}
        counted = cache.num_counted.tolist()
        filtered = cache.filter_by_occurrence(5, 20)
        assert filtered.num_counted.sum() < sum(counted)
        assert cache.num_counted.tolist() == ActivationCache.load(cache.path).num_counted.tolist() == counted
        assert {path.name: path.read_bytes() for path in cache.path.iterdir()} == before
        assert torch.equal(filtered[7]["hidden_states"], cache[7]["hidden_states"])
        assert cache.filter_by_occurrence(None, None) is cache

    def test_filters_add_up(self, cache):
        both = cache.filter_by_occurrence(2, None).filter_by_occurrence(None, 5)
        assert both.counted("input_ids").tolist() == cache.filter_by_occurrence(2, 5).counted("input_ids").tolist()

    def test_a_single_layer(self, cache, make_config):
        single = cache.single_layer()
        for index in (0, 24, 25, 59):
            for name in ("hidden_states", "target_hidden_states"):
                assert torch.equal(single[index][name], cache[index]["hidden_states"])
        single.check_layers(make_config(lower_layer=1, upper_layer=1))
        cache.check_layers(make_config(lower_layer=1, upper_layer=3))
        for other, config in ((single, make_config()), (cache, make_config(lower_layer=1, upper_layer=1))):
            with pytest.raises(ValueError, match=r"upper_layer=\d in the config, but \d in the activation cache"):
                other.check_layers(config)

    def test_travel_to_workers(self, cache):
        view = cache.filter_by_occurrence(5, 20).single_layer()
        pickled = pickle.dumps(view)
        assert len(pickled) < 1000
        again = pickle.loads(pickled)
        assert again.num_counted.tolist() == view.num_counted.tolist() != cache.num_counted.tolist()
        assert torch.equal(again[3]["target_hidden_states"], cache[3]["hidden_states"])
        assert again.metadata == view.metadata


def test_collator_pads_and_masks(cache):
    rows = [cache[index] for index in (3, 40)]
    batch = StateCollator()(rows)
    lengths = [len(row["token_mask"]) for row in rows]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["hidden_states"].shape == (2, max(lengths), 32)
    for number, row in enumerate(rows):
        assert torch.equal(batch["hidden_states"][number, : lengths[number]], row["hidden_states"])
    assert np.array_equal(batch["text_index"], [3, 40])


class TestSource:
    def test_is_known_by_content(self, cache, host, tokenizer, texts, caplog):
        cache.check_source(host, tokenizer, texts)
        cache.check_source(host.bert)  # without its head
        cache.check_same_source(cache)
        assert not caplog.text

    @pytest.mark.slow
    def test_of_another_host_tokenizer_or_texts(self, cache, host, tokenizer, texts):
        with torch.no_grad():
            host.bert.embeddings.word_embeddings.weight[5] += 1
        with pytest.raises(ValueError, match=r"cache .* is of something else: host .*weights.*Build it again"):
            cache.check_source(host)
        larger = copy.deepcopy(tokenizer)
        larger.add_tokens(["xyzzy"])
        with pytest.raises(ValueError, match="tokenizer"):
            cache.check_source(host, larger)
        with pytest.raises(ValueError, match="texts"):
            cache.check_source(host, tokenizer, texts.select(range(59)))

    def test_a_cache_of_an_earlier_version_is_read_with_a_warning(self, cache, host, caplog):
        del cache.metadata["identity"]
        cache.check_source(host)
        assert "does not say its host, because an earlier version" in caplog.text
