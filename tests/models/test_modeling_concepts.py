"""Concept models on the Hub: pushed, loaded, brought back to their host; over real HTTP, with the real clients."""

import copy
import json
import pickle
import shutil

import pytest
import torch
from helpers.buffers_only import BuffersOnly
from huggingface_hub import HfApi, constants, hf_hub_download
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertForSequenceClassification, LlamaForCausalLM

from clvq_hf import CLVQConfig, CLVQModel, ConceptTable
from clvq_hf.hosts.host import load_host
from clvq_hf.hub.repositories import Source
from clvq_hf.hub.requests import HubError
from clvq_hf.models.checkpoints import describe
from clvq_hf.models.modeling_concepts import load_with_host

REPO = "org/clvq-bert"


@pytest.fixture
def table(shared_model, hub_host, tokenizer, texts) -> ConceptTable:
    return shared_model.concept_table(hub_host, tokenizer, texts, dataset_name="org/reviews")


def same_weights(first, second) -> bool:
    first, second = first.state_dict(), second.state_dict()
    return set(first) == set(second) and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


class TestRoundTrip:
    @pytest.mark.slow
    def test_everything_comes_back(self, hub, shared_model, hub_host, tokenizer, texts, table):
        commit = shared_model.push_to_hub(REPO, concepts=table)
        assert commit.oid in commit.commit_url
        assert set(hub.files(REPO)) == {
            *(".gitattributes", "README.md", "config.json", "model.safetensors", "reference.json"),
            *("concepts/concept_table.json", "concepts/texts.parquet", "concepts/tokens.parquet"),
        }
        model = CLVQModel.from_pretrained(REPO)
        assert same_weights(model, shared_model) and not model.training
        assert (model.name_or_path, model.config.name_or_path) == (REPO, REPO)
        host, found_tokenizer = model.load_host(), model.load_tokenizer()
        assert type(host) is BertForSequenceClassification and not host.training
        assert same_weights(host, hub_host)
        assert model.verify(host, found_tokenizer)
        assert model.concepts is model.concepts
        for name in ("tokens", "texts"):
            assert getattr(model.concepts, name).to_dict() == getattr(table, name).to_dict()
        assert model.concepts.metadata == table.metadata
        again = model.concept_table(host, found_tokenizer, texts)
        assert (again.column("code") == table.column("code")).all()

    @pytest.mark.slow
    def test_the_config_says_where_it_came_from(self, hub, shared_model, hub_host):
        config = shared_model.config
        assert config.host_name_or_path == "org/host"
        assert config.host_revision == HfApi().model_info("org/host").sha
        assert (config.host_architecture, config.host_dtype) == ("BertForSequenceClassification", "float32")
        # The host moves on; the model still brings back the one that it was learned from.
        shared_model.push_to_hub(REPO)
        before = hub_host.state_dict()["classifier.weight"].clone()
        with torch.no_grad():
            hub_host.classifier.weight.add_(1)
        hub_host.push_to_hub("org/host")
        model = CLVQModel.from_pretrained(REPO)
        assert torch.equal(model.load_host().classifier.weight, before)
        assert not torch.equal(BertForSequenceClassification.from_pretrained("org/host").classifier.weight, before)

    def test_auto_model(self, hub, shared_model):
        shared_model.push_to_hub(REPO)
        model = AutoModel.from_pretrained(REPO)
        assert type(model) is CLVQModel and same_weights(model, shared_model)

    def test_every_method(self, hub, make_config):
        model = BuffersOnly(make_config())
        model.centroids[1] = 5
        model.push_to_hub("org/clusters", codebook_only=True)
        assert torch.equal(BuffersOnly.from_pretrained("org/clusters").centroids, model.centroids)

    def test_pushed_again_from_where_it_was_loaded(self, hub, shared_model, hub_host):
        shared_model.push_to_hub(REPO)
        model = CLVQModel.from_pretrained(REPO)  # the reference is not read before it is needed
        model.push_to_hub("me/copy")
        assert hub.files("me/copy")["reference.json"] == hub.files(REPO)["reference.json"]

    @pytest.mark.slow
    def test_a_name_without_an_owner(self, hub, shared_model, table):
        shared_model.push_to_hub("clvq-mine", concepts=table)
        assert b'from_pretrained("me/clvq-mine")' in hub.files("me/clvq-mine")["README.md"]
        shared_model.push_to_hub("clvq-mine")
        assert "concepts/tokens.parquet" in hub.files("me/clvq-mine"), "it is known to be the same repository"

    @pytest.mark.slow
    def test_sharded(self, hub, shared_model):
        shared_model.push_to_hub(REPO, max_shard_size="10KB")
        assert "model.safetensors.index.json" in hub.files(REPO) and "model.safetensors" not in hub.files(REPO)
        assert same_weights(CLVQModel.from_pretrained(REPO), shared_model)

    def test_private(self, hub, shared_model, tmp_path):
        shared_model.push_to_hub(REPO, private=True)
        assert hub.repos["model", REPO].private
        assert same_weights(CLVQModel.from_pretrained(REPO), shared_model)
        with pytest.raises(HubError, match=r"not found on the Hub, or is private.*log in with"):
            CLVQModel.from_pretrained(REPO, token=False, cache_dir=tmp_path / "strangers")
        with pytest.raises(HubError, match="not found on the Hub, or is private"):
            CLVQModel.from_pretrained(REPO, token=hub.add_user("stranger"), cache_dir=tmp_path / "strangers")

    @pytest.mark.slow
    def test_concepts_need_the_token_that_the_model_was_loaded_with(self, hub, shared_model, table, monkeypatch):
        shared_model.push_to_hub(REPO, private=True, concepts=table)
        monkeypatch.delenv("HF_TOKEN")
        model = CLVQModel.from_pretrained(REPO, token=hub.token)
        assert len(model.concepts) == len(table)
        assert hub.token not in repr(model._source) and hub.token.encode() not in pickle.dumps(model._source)
        assert hub.token not in model.config.to_json_string(use_diff=False)


class TestLoadingWithAHost:
    @pytest.fixture
    def folders(self, shared_model, hub_host, tokenizer, tmp_path):
        """A model of a host in a folder, which is trained on in place after that."""
        hub_host.save_pretrained(tmp_path / "host")
        tokenizer.save_pretrained(tmp_path / "host")
        shared_model.config.host_name_or_path, shared_model.config.host_revision = str(tmp_path / "host"), None
        shared_model.save_pretrained(tmp_path / "model")
        shutil.copytree(tmp_path / "host", tmp_path / "before")
        with torch.no_grad():
            hub_host.bert.embeddings.word_embeddings.weight.neg_()
        hub_host.save_pretrained(tmp_path / "host")
        return tmp_path

    @pytest.mark.slow
    def test_a_host_that_was_trained_on_in_place(self, folders):
        model = CLVQModel.from_pretrained(folders / "model")
        with pytest.raises(ValueError, match="NOT the right host"):
            model.load_host()
        with pytest.raises(ValueError, match="NOT the right host"):
            load_with_host(str(folders / "model"))
        with pytest.raises(ValueError, match="NOT the right host"):
            load_with_host(str(folders / "model"), str(folders / "host"))

    @pytest.mark.slow
    def test_the_right_one_elsewhere(self, folders, caplog):
        load_with_host(str(folders / "model"), str(folders / "before"))
        assert not caplog.text

    @pytest.mark.slow
    def test_another_tokenizer(self, folders, tokenizer):
        larger = copy.deepcopy(tokenizer)
        larger.add_tokens(["xyzzy"])
        larger.save_pretrained(folders / "before")
        with pytest.raises(ValueError, match="another vocabulary"):
            load_with_host(str(folders / "model"), str(folders / "before"))

    @pytest.mark.slow
    def test_a_dtype_that_was_asked_for_is_a_warning(self, folders, caplog):
        CLVQModel.from_pretrained(folders / "model").load_host(dtype=torch.bfloat16)
        assert "NOT the right host" in caplog.text

    def test_without_reference_texts_it_cannot_be_checked(self, folders, caplog):
        (folders / "model" / "reference.json").unlink()
        load_with_host(str(folders / "model"), str(folders / "host"))
        assert "cannot be checked whether this is the right host" in caplog.text


@pytest.mark.slow
class TestOffline:
    def test_what_is_small_is_there_after_loading(self, hub, shared_model, hub_host, tokenizer, table, monkeypatch):
        shared_model.push_to_hub(REPO, concepts=table)
        loaded = CLVQModel.from_pretrained(REPO)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        for model in (loaded, CLVQModel.from_pretrained(REPO)):
            assert model.verify(hub_host, tokenizer)
            with pytest.raises(HubError, match=r"concepts/\* of org/clvq-bert is not in the cache"):
                _ = model.concepts
        described = describe(Source(REPO))
        assert described["has_reference"] and described["concepts"]["num_texts"] == 60
        assert described["files"]["model.safetensors"] > 1000

    def test_the_table_is_there_once_it_was_read(self, hub, shared_model, table, monkeypatch):
        shared_model.push_to_hub(REPO, concepts=table)
        assert len(CLVQModel.from_pretrained(REPO).concepts) == len(table)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert len(CLVQModel.from_pretrained(REPO).concepts) == len(table)


@pytest.mark.slow
class TestPlaces:
    def test_branches_tags_commits_and_pull_requests(self, hub, shared_model):
        first = shared_model.push_to_hub(REPO).oid
        HfApi().create_tag(REPO, tag="v1")
        with torch.no_grad():
            shared_model.encoder.mix_logit.add_(1)
        shared_model.push_to_hub(REPO, revision="wider")
        with torch.no_grad():
            shared_model.encoder.mix_logit.add_(1)
        proposed = shared_model.push_to_hub(REPO, create_pr=True)
        assert proposed.pr_url
        logits = {
            revision: float(CLVQModel.from_pretrained(REPO, revision=revision).encoder.mix_logit)
            for revision in ("main", "v1", first, "wider", "refs/pr/1")
        }
        expected = {"main": 0.2, "v1": 0.2, first: 0.2, "wider": 1.2, "refs/pr/1": 2.2}
        assert logits == pytest.approx(expected)
        with pytest.raises(HubError, match=r"not found on the Hub.*Invalid rev id"):
            CLVQModel.from_pretrained(REPO, revision="missing")
        with pytest.raises(ValueError, match="omit revision, or create_pr"):
            shared_model.push_to_hub(REPO, revision="wider", create_pr=True)

    def test_strangers_may_propose(self, hub, shared_model):
        shared_model.push_to_hub(REPO)
        before = hub.files(REPO)
        with torch.no_grad():
            shared_model.encoder.mix_logit.add_(1)
        stranger = hub.add_user("stranger")
        with pytest.raises(HubError, match="may not write to org/clvq-bert"):
            shared_model.push_to_hub(REPO, token=stranger)
        assert shared_model.push_to_hub(REPO, token=stranger, create_pr=True).pr_num == 1
        assert hub.files(REPO) == before

    def test_subfolder(self, hub, shared_model, table, tmp_path):
        shared_model.save_pretrained(tmp_path / "model")
        table.save_as_parquet(tmp_path / "model" / "concepts")
        HfApi().create_repo(REPO)
        HfApi().upload_folder(repo_id=REPO, folder_path=tmp_path / "model", path_in_repo="layers/one")
        for name in (REPO, str(tmp_path)):
            subfolder = "layers/one" if name == REPO else "model"
            model = CLVQModel.from_pretrained(name, subfolder=subfolder)
            assert same_weights(model, shared_model)
            assert model.reference == shared_model.reference and len(model.concepts) == len(table)
        with pytest.raises(ValueError, match="leads out of"):
            CLVQModel.from_pretrained(tmp_path / "model", subfolder="../secret")

    def test_cache_and_no_network(self, hub, shared_model, table, tmp_path):
        shared_model.push_to_hub(REPO, concepts=table)
        with pytest.raises(HubError, match="not in the cache"):
            CLVQModel.from_pretrained(REPO, local_files_only=True, cache_dir=tmp_path / "mine")
        CLVQModel.from_pretrained(REPO, cache_dir=tmp_path / "mine")
        asked = len(hub.requests)
        model = CLVQModel.from_pretrained(REPO, local_files_only=True, cache_dir=tmp_path / "mine")
        assert same_weights(model, shared_model) and len(hub.requests) == asked
        # A Hub that is down is no reason to fail either.
        hub.fail_next(100, status=503)
        assert same_weights(CLVQModel.from_pretrained(REPO, cache_dir=tmp_path / "mine"), shared_model)

    def test_everything_comes_from_one_commit(self, hub, shared_model, hub_host, tokenizer, texts, table):
        shared_model.push_to_hub(REPO, concepts=table)
        model = CLVQModel.from_pretrained(REPO)
        with torch.no_grad():
            shared_model.quantizer.ema_sums.add_(1)
        shared_model.push_to_hub(REPO)
        assert not any(name.startswith("concepts/") for name in hub.files(REPO))
        assert len(model.concepts) == len(table) and model.reference is not None

    def test_a_table_in_a_dataset_repository(self, hub, shared_model, table):
        shared_model.push_to_hub(REPO, concepts=table, concepts_repo="org/reviews-concepts")
        assert not any(name.startswith("concepts/") for name in hub.files(REPO))
        assert "tokens.parquet" in hub.files("org/reviews-concepts", "dataset")
        model = CLVQModel.from_pretrained(REPO)
        assert model.config.concepts_repo == "org/reviews-concepts"
        assert model.concepts.tokens.to_dict() == table.tokens.to_dict()
        # That commit of it, whatever is pushed there later.
        with torch.no_grad():
            shared_model.quantizer.ema_sums.add_(1)
        other = shared_model.concept_table(model.load_host(), model.load_tokenizer(), table.texts.select(range(9)))
        other.push_to_hub("org/reviews-concepts")
        assert len(CLVQModel.from_pretrained(REPO).concepts) == len(table)

    def test_a_table_in_a_dataset_repository_is_proposed_with_the_model(self, hub, shared_model, table):
        arguments = {"concepts": table, "concepts_repo": "org/reviews-concepts", "create_pr": True}
        commit = shared_model.push_to_hub(REPO, **arguments)
        assert set(hub.files("org/reviews-concepts", "dataset")) == {".gitattributes"}
        assert len(CLVQModel.from_pretrained(REPO, revision=commit.pr_revision).concepts) == len(table)


class TestCodebookOnly:
    @pytest.mark.slow
    def test_encodes_alike_and_is_small(self, hub, shared_model, hub_host, tokenizer, table):
        shared_model.push_to_hub(REPO, codebook_only=True, concepts=table)
        whole = sum(tensor.nbytes for tensor in shared_model.state_dict().values())
        assert len(hub.files(REPO)["model.safetensors"]) < whole / 4
        model = CLVQModel.from_pretrained(REPO)
        assert model.decoder is None and model.fingerprint() == shared_model.fingerprint()
        assert model.verify(hub_host, tokenizer) and len(model.concepts) == len(table)
        states = torch.randn(2, 5, 32)
        assert torch.equal(model.encode(states), shared_model.encode(states))
        output = model(states)
        assert output.reconstruction is None and torch.equal(output.quantized, shared_model(states).quantized)
        inputs = tokenizer("a wonderful film", return_tensors="pt")
        with shared_model.ablate(hub_host, codes=3, positions="all"):
            expected = hub_host(**inputs).logits
        with model.ablate(hub_host, codes=3, positions="all"):
            assert torch.equal(hub_host(**inputs).logits, expected)

    def test_what_needs_the_decoder_says_so(self, shared_model, hub_host):
        bare = shared_model.codebook_only()
        states = torch.randn(2, 5, 32)
        for call in (lambda: bare(states, target_hidden_states=states), lambda: bare.reconstruct(states)):
            with pytest.raises(ValueError, match="codebook without its decoder"):
                call()
        assert shared_model.decoder is not None and shared_model.config.has_decoder

    def test_loaded_from_a_whole_model(self, shared_model, tmp_path):
        shared_model.save_pretrained(tmp_path)
        assert CLVQModel.from_pretrained(tmp_path, has_decoder=False).fingerprint() == shared_model.fingerprint()


class TestSavedOverAnEarlierOne:
    def test_it_remains_until_the_new_one_is_whole(self, shared_model, tmp_path, monkeypatch):
        shared_model.save_pretrained(tmp_path)
        before, names = shared_model.fingerprint(), {file.name for file in tmp_path.iterdir()}
        with torch.no_grad():
            shared_model.encoder.mix_logit.add_(1)

        def fail(self, folder):
            raise OSError("No space left on device")

        monkeypatch.setattr(type(shared_model), "_save_side_files", fail)
        with pytest.raises(OSError, match="No space left"):
            shared_model.save_pretrained(tmp_path)
        assert CLVQModel.from_pretrained(tmp_path).fingerprint() == before
        assert {file.name for file in tmp_path.iterdir()} == names

    def test_its_shards_and_what_was_known_of_it_go(self, shared_model, tmp_path):
        shared_model.save_pretrained(tmp_path, max_shard_size="10KB")
        with torch.no_grad():
            shared_model.encoder.mix_logit.add_(1)
        shared_model.save_pretrained(tmp_path)
        assert sorted(file.name for file in tmp_path.glob("*.safetensors*")) == ["model.safetensors"]
        assert not (tmp_path / "reference.json").exists()
        assert CLVQModel.from_pretrained(tmp_path).fingerprint() == shared_model.fingerprint()
        shared_model.save_pretrained(tmp_path, max_shard_size="10KB")
        assert not (tmp_path / "model.safetensors").exists()
        assert CLVQModel.from_pretrained(tmp_path).fingerprint() == shared_model.fingerprint()


class TestHost:
    def test_without_a_name(self, make_model):
        with pytest.raises(ValueError, match="does not name the host"):
            make_model().load_host()

    def test_a_folder_of_another_machine(self, make_model):
        for name in ("/home/them/bert", "./bert"):
            model = make_model(host_name_or_path=name)
            for load in (model.load_host, model.load_tokenizer):
                with pytest.raises(ValueError, match=r"folder .*bert, which this machine does not have"):
                    load()

    def test_inside_an_adapter(self, hub_host):
        peft = pytest.importorskip("peft")
        wrapped = peft.get_peft_model(hub_host, peft.LoraConfig(target_modules=["query"]))
        config = CLVQConfig.from_host(wrapped, 1, 3, num_attention_heads=4)
        assert config.host_architecture.startswith("Peft")
        with pytest.raises(ValueError, match="inside a PEFT adapter"):
            CLVQModel(config).load_host()

    def test_a_class_that_is_none(self, hub_host, make_model):
        for name in ("os", "Trainer", "NoSuchModel"):
            with pytest.raises(ValueError, match="no model class"):
                make_model(host_name_or_path="org/host", host_architecture=name).load_host()

    def test_another_tokenizer(self, shared_model):
        shared_model.config.tokenizer_fingerprint = "0" * 64
        with pytest.raises(ValueError, match="another vocabulary"):
            shared_model.load_tokenizer()

    def test_code_of_the_host_is_not_run(self, hub, hub_host, make_model, tmp_path):
        marker = tmp_path / "it-ran"
        config = json.loads(hub.files("org/host")["config.json"])
        config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
        for name, content in (
            ("config.json", json.dumps(config)),
            ("evil.py", f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n"),
        ):
            HfApi().upload_file(path_or_fileobj=content.encode(), path_in_repo=name, repo_id="org/host")
        with pytest.raises((ValueError, OSError), match=r"remote code|trust_remote_code|evil"):
            make_model(host_name_or_path="org/host").load_host()
        assert not marker.exists()

    def test_no_table_no_reference(self, make_model, host, tmp_path):
        model = make_model()
        with pytest.raises(ValueError, match="This model has no concept table"):
            _ = model.concepts
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"has no concept table.*push_to_hub"):
            _ = CLVQModel.from_pretrained(tmp_path).concepts
        with pytest.raises(ValueError, match="no reference texts"):
            CLVQModel.from_pretrained(tmp_path).verify(host)

    @pytest.mark.slow
    def test_a_table_of_another_model(self, shared_model, table, make_model, hub, tmp_path):
        with torch.no_grad():
            shared_model.quantizer.ema_sums.add_(1)
        with pytest.raises(ValueError, match="concept table belongs to another model"):
            shared_model.push_to_hub(REPO, concepts=table)
        assert ("model", REPO) not in hub.repos
        shared_model.save_pretrained(tmp_path)
        table.save_as_parquet(tmp_path / "concepts")
        with pytest.raises(ValueError, match="another model"):
            _ = CLVQModel.from_pretrained(tmp_path).concepts


class TestRefusals:
    @pytest.fixture
    def folder(self, shared_model, tmp_path):
        shared_model.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    def test_pickles(self, hub, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        HfApi().create_repo(REPO)
        HfApi().upload_folder(repo_id=REPO, folder_path=folder)
        for name in (REPO, folder):
            with pytest.raises(ValueError, match=r"pickled weights .*pytorch_model\.bin.* no safetensors"):
                CLVQModel.from_pretrained(name)
        assert not any("/resolve/" in path and "pytorch_model" in path for _, path, _ in hub.requests)

    def test_shards_elsewhere(self, shared_model, folder, tmp_path):
        (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
        for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "..", 3):
            index = {"metadata": {}, "weight_map": dict.fromkeys(shared_model.state_dict(), name)}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
            with pytest.raises(ValueError, match="not in its folder: this is refused"):
                CLVQModel.from_pretrained(folder)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["model/../../../../escaped.safetensors", "concepts/../../../../escaped.json"])
    def test_names_that_lead_out_of_the_cache(self, hub, shared_model, tmp_path, name):
        shared_model.push_to_hub(REPO)
        repo = hub.repos["model", REPO]
        head = repo.resolve("main")
        files = {**head.files, name: head.files["config.json"]}
        repo.commit("refs/heads/main", head, "evil", "", "me", files)
        with pytest.raises(ValueError, match=r"\.\."):
            _ = CLVQModel.from_pretrained(REPO).concepts
        assert not list(tmp_path.parent.rglob("escaped.*"))

    def test_absurd_sizes(self, folder):
        config = json.loads((folder / "config.json").read_text())
        for field in ("codebook_size", "hidden_size", "num_decoder_layers", "intermediate_size"):
            (folder / "config.json").write_text(json.dumps({**config, field: 4 * 10**9}))
            with pytest.raises(ValueError, match=r"is refused"):
                CLVQModel.from_pretrained(folder)

    def test_a_host_in_place_of_its_concepts(self, hub_host, make_model):
        with pytest.raises(ValueError, match=r"org/host is a model of the type 'bert'.*host rather than its concepts"):
            CLVQModel.from_pretrained("org/host")

    def test_nothing_there(self, hub, tmp_path):
        with pytest.raises(HubError, match="not found"):
            CLVQModel.from_pretrained("org/missing")
        with pytest.raises(ValueError, match=r"neither a folder here nor the name of a repository"):
            CLVQModel.from_pretrained("no/such/folder")
        with pytest.raises(ValueError, match=r"no config\.json"):
            CLVQModel.from_pretrained(tmp_path)

    def test_damaged_config(self, folder):
        (folder / "config.json").write_text('{"model_type": "clvq"')
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            CLVQModel.from_pretrained(folder)

    def test_saving_does_not_push(self, shared_model, tmp_path):
        with pytest.raises(ValueError, match=r"model\.push_to_hub"):
            shared_model.save_pretrained(tmp_path, push_to_hub=True)

    def test_what_a_push_would_replace(self, hub_host, shared_model, hub):
        before = hub.files("org/host")
        with pytest.raises(ValueError, match=r"holds a model of the type 'bert', which a push would replace"):
            shared_model.push_to_hub("org/host")
        assert hub.files("org/host") == before

    @pytest.mark.parametrize("name", ["adapter_model.safetensors", "model.safetensors", "pytorch_model.bin", "m.gguf"])
    def test_a_repository_of_another_library(self, hub, shared_model, name):
        HfApi().create_repo(REPO)
        HfApi().upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id=REPO)
        before = hub.files(REPO)
        with pytest.raises(ValueError, match="holds something else"):
            shared_model.push_to_hub(REPO)
        assert hub.files(REPO) == before

    def test_settings_that_decide_codes_are_in_the_fingerprint(self, make_model):
        fingerprints = {
            make_model(**fields).fingerprint() for fields in ({}, {"encoder_max_mix": 0.9}, {"dropout": 0.2})
        }
        assert len(fingerprints) == 2

    @pytest.mark.slow
    def test_downloads_no_more_than_needed(self, hub, shared_model, table):
        shared_model.push_to_hub(REPO, concepts=table)
        asked = len(hub.requests)
        CLVQModel.from_pretrained(REPO)
        assert not [path for _, path, _ in hub.requests[asked:] if ".parquet" in path]
        # Nor does a push that replaces the table read the one that is there.
        asked = len(hub.requests)
        shared_model.push_to_hub(REPO, concepts=table)
        assert not [path for method, path, _ in hub.requests[asked:] if method == "HEAD" and "concepts/" in path]

    def test_forced_download(self, hub, shared_model):
        shared_model.push_to_hub(REPO)
        CLVQModel.from_pretrained(REPO)
        asked = len(hub.requests)
        CLVQModel.from_pretrained(REPO, force_download=True)
        assert any("/storage/" in path for method, path, _ in hub.requests[asked:] if method == "GET")
        assert hf_hub_download(REPO, "config.json")


def test_a_host_from_a_gguf_file_is_found_again(
    causal_host, tokenizer, make_config, fit, texts, tmp_path, monkeypatch
):
    asked = []

    def load(name, *args, output_loading_info=False, **kwargs):
        asked.append((name, kwargs.get("gguf_file")))
        return (causal_host, {"missing_keys": []}) if output_loading_info else causal_host

    (tmp_path / "host").mkdir()
    causal_host.config.architectures = ["LlamaForCausalLM"]
    causal_host.config._name_or_path = str(tmp_path / "host")
    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **kwargs: causal_host.config)
    host = load_host(str(tmp_path / "host"), gguf_file="model.Q8_0.gguf")
    config = CLVQConfig.from_host(host, 1, 3, codebook_size=4, num_decoder_layers=0)
    assert config.host_gguf_file == "model.Q8_0.gguf"
    model = fit(CLVQModel(config), host, tokenizer, texts)
    monkeypatch.undo()
    model.save_pretrained(tmp_path / "model")
    model = CLVQModel.from_pretrained(tmp_path / "model")
    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name, **kwargs: load(name, **kwargs) and tokenizer)
    asked.clear()
    model.load_host()
    model.load_tokenizer()
    assert asked == [(str(tmp_path / "host"), "model.Q8_0.gguf")] * 2
