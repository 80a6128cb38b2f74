"""The card says what was measured and nothing else, harms nobody who reads it, and its snippet runs."""

import json
import re

import markdown
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from helpers.hostile_texts import ATTACKS
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from clvq_hf.evaluation.evaluate import EvaluationSettings, evaluate_concepts
from clvq_hf.metrics.verdict import verdict
from clvq_hf.models.configuration_concepts import ConceptConfig
from clvq_hf.models.model_card import has_masked_labels, measures_of, model_card
from clvq_hf.rendering.text_tables import to_markdown
from clvq_hf.tables import ConceptName

REPO = "org/clvq-bert"
QUICK = EvaluationSettings(protocols=("code",), num_draws=1, n_steps=4, max_steps=4, num_bootstrap=50)


@pytest.fixture
def make_table(shared_model, hub_host, tokenizer):
    """A concept table of given texts and labels; tokens are many enough for the card to show concepts."""

    def make(texts: list[str], labels: list[int], names: list[str], dataset_name: str = "org/data"):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        rows = Dataset.from_dict({"text": texts, "label": labels}, features=features)
        hub_host.config.id2label = dict(enumerate(names))
        return shared_model.concept_table(hub_host, tokenizer, rows, dataset_name=dataset_name)

    return make


@pytest.fixture
def evaluated(shared_model, hub_host, tokenizer, all_texts, tmp_path):
    """A folder with the results of a small evaluation."""
    with torch.no_grad():
        hub_host.classifier.weight.mul_(20)
    evaluate_concepts(
        *(shared_model, hub_host, tokenizer, all_texts.select(range(60, 120)), tmp_path / "evaluation"),
        train=all_texts.select(range(120, 160)),
        dataset_name="org/reviews",
        settings=QUICK,
    )
    return tmp_path / "evaluation"


def html_of(card: ModelCard) -> str:
    return markdown.markdown(card.text, extensions=["tables", "fenced_code"])


class TestContents:
    @pytest.mark.slow
    def test_a_whole_card(self, hub, shared_model, hub_host, tokenizer, all_texts, evaluated):
        HfApi().create_repo("org/reviews", repo_type="dataset")
        for name, kind, licence in (("org/host", "model", "apache-2.0"), ("org/reviews", "dataset", "cc-by-4.0")):
            content = f"---\nlicense: {licence}\n---\n# x\n".encode()
            HfApi().upload_file(path_or_fileobj=content, path_in_repo="README.md", repo_id=name, repo_type=kind)
        table = shared_model.concept_table(
            hub_host, tokenizer, all_texts.select(range(60, 120)), dataset_name="org/reviews"
        )
        shared_model.push_to_hub(REPO, concepts=table, evaluation=evaluated, tags=["reviews"])
        card = ModelCard.load(REPO)
        card.validate()
        assert card.data.library_name == "clvq_hf" and card.data.pipeline_tag == "feature-extraction"
        assert (card.data.base_model, card.data.base_model_relation) == ("org/host", "adapter")
        assert card.data.datasets == ["org/reviews"] and card.data.license == "apache-2.0"
        assert {"clvq", "concepts", "interpretability", "reviews"} <= set(card.data.tags)
        assert "cc-by-4.0" in card.text and "apache-2.0" in card.text
        # Every result of the metadata is one of results.json, with its interval and control.
        results = json.loads((evaluated / "results.json").read_text())
        name, found = model_index_to_eval_results(card.data.to_dict()["model-index"])
        values = {result.metric_type: result for result in found}
        purity = results["table"]["label_purity"]
        assert name == "clvq-bert"
        assert values["label_purity"].metric_value == purity["cross_fitted_purity"]
        assert values["label_purity"].metric_args["labels_permuted"] == purity["null_purity"]
        figures = results["ablation"]["code"]
        assert values["ablation_drop"].metric_value == figures["token_specificity"]
        assert values["ablation_drop"].metric_args["low"] == figures["token_specificity_low"]
        assert values["ablation_drop"].metric_args["model_fingerprint"] == shared_model.fingerprint()
        assert values["ablation_drop"].source_url.endswith("org/clvq-bert/blob/main/evaluation/results.json")
        # The controls stand in the text.
        for row in ("random direction, same norm", "class directions (ceiling)", "labels permuted by text"):
            assert row in card.text
        said = " ".join(verdict(results))
        assert hub.files(REPO)["evaluation/results.md"].decode().startswith(f"# Results\n\n{said}\n")
        assert card.text.index(said) < card.text.index("## Use")
        # The model's own name says where it was on this machine.
        public = {name: value for name, value in results.items() if name not in ("model", "checksum")}
        assert json.loads(hub.files(REPO)["evaluation/results.json"]) == public
        assert "<table>" in html_of(card)

    def test_what_was_not_measured_is_not_in_it(self, make_config):
        card = model_card(make_config(host_name_or_path="org/host"), REPO)
        for absent in (
            "## Measures",
            "removing them costs",
            "## Concepts",
            "model.verify",
            "model.concepts",
            "specificity",
            "number of texts",
        ):
            assert absent not in card.text
        assert "model-index" not in card.data.to_dict() and card.data.license is None
        assert "None" not in card.text and "nan" not in card.text.lower().replace("finance", "")
        assert "not stated" in card.text
        assert "\n\n\n" not in card.text

    def test_training(self, make_config):
        settings = {"epochs": 3, "learning_rate": 0.001, "seed": 0}
        training = {
            "dataset": "org/reviews",
            "num_texts": 1200,
            "num_tokens": 34567,
            "settings": settings,
            "figures": {"explained_variance": 0.51234, "active_codes": 12},
        }
        card = model_card(make_config(training=training, library_versions={"torch": "2.13.0"}), REPO)
        for row in (
            *("| number of texts | 1,200 |", "| tokens that count | 34,567 |", "| learning rate | 0.001 |"),
            *("| explained variance, held-out texts | 0.5123 |", "| torch | 2.13.0 |", "| texts | org/reviews |"),
        ):
            assert row in card.text
        assert card.data.datasets is None, "the Hub has not said that there is such a dataset"
        card = model_card(make_config(training=training), REPO, licences={("dataset", "org/reviews"): {}})
        assert card.data.datasets == ["org/reviews"]
        assert "[org/reviews](https://huggingface.co/datasets/org/reviews)" in card.text

    def test_settings_of_the_model(self, make_config):
        text = model_card(make_config(temperature=0.5), REPO).text
        for row in (
            "| temperature | 0.5 |",
            "| top k | 5 |",
            "| decoder memory | quantized |",
            "| codebook size | 12 |",
        ):
            assert row in text

    def test_a_host_that_is_not_on_the_hub(self, make_config, tmp_path):
        card = model_card(
            make_config(host_name_or_path="./bert", host_architecture="BertForSequenceClassification"), REPO
        )
        assert card.data.base_model is None and "base_model" not in card.data.to_dict()
        assert 'BertForSequenceClassification.from_pretrained("your-host")' in card.text
        assert "load_host" not in card.text

    def test_a_codebook_alone(self, make_config):
        assert "codebook without a decoder" in model_card(make_config(has_decoder=False), REPO).text
        assert "codebook without a decoder" not in model_card(make_config(), REPO).text

    def test_a_license_of_ones_own(self, make_config):
        config = make_config(host_name_or_path="org/host")
        licences = {("model", "org/host"): {"license": "mit"}}
        assert model_card(config, REPO, licences=licences, license="cc0-1.0").data.license == "cc0-1.0"
        assert model_card(config, REPO, licences=licences).data.license == "mit"

    def test_licences_of_several_names_and_of_ones_own(self, make_config):
        config = make_config(host_name_or_path="org/host")
        card = model_card(config, REPO, licences={("model", "org/host"): {"license": ["mit", "apache-2.0"]}})
        assert card.data.license == ["mit", "apache-2.0"] and "| mit, apache-2.0 |" in card.text
        other = {"license": "other", "license_name": "llama3", "license_link": "https://example.com/x"}
        card = model_card(config, REPO, licences={("model", "org/host"): other})
        assert (card.data.license, card.data.license_name) == ("other", "llama3")
        assert card.data.license_link == "https://example.com/x" and "| llama3 |" in card.text


@pytest.mark.slow
class TestSafety:
    def test_texts_labels_and_names_are_escaped(self, shared_model, make_table):
        texts = [f"{attack} number {n} film" for n, attack in enumerate(ATTACKS * 8)]
        table = make_table(
            texts, [n % 2 for n in range(len(texts))], ["<b>bad</b>", "[g](javascript:x)"], dataset_name="<i>|x|</i>"
        )
        html = html_of(model_card(shared_model.config, REPO, table=table))
        allowed = {
            *("p", "a", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "strong"),
            "h1",
            "h2",
            "ul",
            "li",
        }
        assert set(re.findall(r"<([a-z0-9]+)", html)) <= allowed
        assert "javascript:" not in re.findall(r'href="([^"]*)"', html)
        assert all(link.startswith("https://") for link in re.findall(r'href="([^"]*)"', html))
        assert not re.search(r"evil", " ".join(re.findall(r'(?:href|src)="([^"]*)"', html)))
        assert html.count("<h1>") == 1

    def test_toxic_texts_are_masked(self, shared_model, make_table):
        texts = [f"you are a stupidface number {n} today" for n in range(30)]
        texts += [f"what a lovely garden number {n} today" for n in range(30)]
        labels = [1] * 30 + [0] * 30
        table = make_table(texts, labels, ["clean", "toxic"])
        masked = model_card(shared_model.config, REPO, table=table).text
        concepts = masked.split("## Concepts")[1].split("##")[0]
        shown = model_card(shared_model.config, REPO, table=table, mask_toxic=False).text
        assert "stupidface" in shown and "masked" not in shown.split("## Concepts")[1].split("##")[0]
        toxic_rows = [row for row in concepts.splitlines() if "| toxic (" in row]
        assert toxic_rows and "stupidface" not in " ".join(toxic_rows)
        assert "s•••••••••" in " ".join(toxic_rows)
        assert "Texts with these labels are masked: toxic." in concepts

    def test_names_are_masked_like_words_and_those_of_models_are_marked(self, shared_model, make_table):
        texts = [f"you are a stupidface number {n} today" for n in range(30)]
        texts += [f"what a lovely garden number {n} today" for n in range(30)]
        table = make_table(texts, [1] * 30 + [0] * 30, ["clean", "toxic"])
        shown = table.purest(20, 20, 10, stop_words=False)
        toxic = next(concept.code for concept in shown if concept.label == "toxic")
        clean = next(concept.code for concept in shown if concept.label == "clean")
        table.rename(toxic, "stupidface!", author="Ann")
        table.names[clean] = ConceptName("lovely | gardens", "judge", 1)
        concepts = model_card(shared_model.config, REPO, table=table).text.split("## Concepts")[1].split("##")[0]
        rows = {row.split("|")[1].split(":")[0].strip(): row for row in concepts.splitlines() if row.startswith("| ")}
        assert f"{toxic}: “s•••••••••!”" in rows[str(toxic)] and "stupidface" not in rows[str(toxic)]
        assert "(named by a model)" in rows[str(clean)] and "lovely" in rows[str(clean)]

    def test_without_names_of_labels_all_texts_are_masked_unless_one_is_named(self, shared_model, make_table):
        texts = [f"you are a stupidface number {n} today" for n in range(30)]
        texts += [f"what a lovely garden number {n} today" for n in range(30)]
        table = make_table(texts, [1] * 30 + [0] * 30, ["0", "1"])
        masked, named, shown = (
            model_card(shared_model.config, REPO, table=table, **arguments).text.split("## Concepts")[1]
            for arguments in ({}, {"mask_label": ["1"]}, {"mask_toxic": False})
        )
        assert "stupidface" not in masked and "garden" not in masked and "All texts are masked" in masked
        assert "stupidface" not in named and "garden" in named and "masked: 1." in named
        assert "stupidface" in shown and "masked" not in shown.split("##")[0]


@pytest.mark.slow
def test_the_snippet_runs(hub, shared_model, hub_host, tokenizer, texts, capsys):
    table = shared_model.concept_table(hub_host, tokenizer, texts)
    shared_model.push_to_hub(REPO, concepts=table)
    [snippet] = re.findall(r"```python\n(.*?)```", hub.files(REPO)["README.md"].decode(), re.DOTALL)
    exec(snippet, {})  # a process of a stranger, who has only the Hub, is in tests/cli/test_push.py
    printed = capsys.readouterr().out
    assert "verified; 100.0%" in printed and "tensor([[" in printed and "ConceptTable(60 texts" in printed


def test_routing_words_of_toxic_labels_are_left_out():
    names = ["clean", "toxic"]
    results = {"host_name_or_path": "org/host", "layers": [1, 3]}
    results["texts"] = {"num_texts": 9, "dataset": "x", "split": "test", "num_left_out": 0, "label_names": names}
    example = {"word": "slur", "jsd": 0.5, "labels": [{"code": 1, "code_purity": 0.9, "code_label": 1, "label": 1}]}
    usage = {"perplexity": 1.0, "active_codes": 1, "active_share": 1.0, "gini": 0.0}
    similarity = {"active_mean_cosine": 0.1, "active_mean_centred_cosine": 0.0}
    results["table"] = {
        **{"routing_divergence": {"examples": [example]}, "codebook_usage": usage, "codebook_similarity": similarity},
    }
    assert "slur" not in to_markdown(measures_of(results, is_masked=True))
    assert "slur" in to_markdown(measures_of(results, is_masked=False))
    assert has_masked_labels(results, True, []) and not has_masked_labels(results, False, [])
    results["texts"]["label_names"] = ["negative", "positive"]
    assert not has_masked_labels(results, True, []) and has_masked_labels(results, False, ["negative"])


def test_a_method_that_is_not_known():
    class OtherConfig(ConceptConfig):
        model_type = "other-test"

    card = model_card(OtherConfig(hidden_size=32, lower_layer=1, upper_layer=1, codebook_size=77), REPO)
    assert "77 discrete concepts" in card.text and "codebook without a decoder" not in card.text
    assert 'ConceptModel.from_pretrained("org/clvq-bert")' in card.text and "Learned with other-test" in card.text
