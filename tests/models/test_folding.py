"""Folded edits: as good as the hook where they are exact, measured where not, and loaded without this library."""

import json
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from helpers.evaluated_hosts import balanced_classifier
from helpers.headed_hosts import bert_with
from helpers.made_clusters import clusters_by_hand
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clvq_hf.hosts import hooks
from clvq_hf.models.folding import check_replaceable_by_edit

LOAD = """
import json, sys
sys.modules["clvq_hf"] = None  # cannot be imported
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, text = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    print(json.dumps(model(**tokenizer(text, return_tensors="pt")).logits[0].tolist()))
"""


@pytest.fixture
def host(tokenizer, texts):
    return balanced_classifier(tokenizer, texts["text"])


def clusters_at(host, tokenizer, texts, layer):
    encoded = dict(tokenizer(texts["text"][:3], padding=True, return_tensors="pt"))
    return clusters_by_hand(host, layer, hooks.run(host, encoded, [layer])[layer][:, 1].detach())


def logits_of(host, tokenizer, text):
    with torch.no_grad():
        return host(**tokenizer(text, return_tensors="pt")).logits[0]


@pytest.mark.slow
def test_an_exact_fold_is_loaded_without_this_library(host, tokenizer, texts, tmp_path):
    model = clusters_at(host, tokenizer, texts, 3)
    model.config.lower_layer = model.config.upper_layer = 4
    edit = model.edit(host, [0, 1], how="project", positions="all")
    folded = edit.fold(texts, tokenizer)
    assert folded.is_exact and edit.is_applied
    assert folded.differences["agreement"] == 1 and folded.differences["largest_probability"] < 1e-5
    assert folded.facts["folded"]["differences"]["unedited"]["largest_probability"] > 1e-3
    retest = edit.retest(texts, tokenizer, folded=folded)
    assert "Folded: " in " ".join(retest.verdict)
    hook = retest.figure("margin", condition="edit")
    assert retest.figure("margin", condition="folded model").change == pytest.approx(hook.change, abs=1e-4)
    folded.save(tmp_path / "edited")
    text = "a moving film, and a dull end"
    hooked = logits_of(host, tokenizer, text)
    edit.remove()
    assert not torch.allclose(hooked, logits_of(host, tokenizer, text), atol=1e-3)
    told = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "edited"), text], capture_output=True, text=True, check=True
    )
    torch.testing.assert_close(torch.tensor(json.loads(told.stdout)), hooked, atol=1e-4, rtol=1e-4)


def test_a_distilled_fold_is_measured(host, tokenizer, texts, tmp_path):
    model = clusters_at(host, tokenizer, texts, 1)
    edit = model.edit(host, [0, 2])
    edit.remove()
    folded = edit.fold(texts, tokenizer, max_steps=30, learning_rate=1e-3, batch_size=8)
    found = folded.facts["folded"]
    assert found["method"] == "distilled" and found["settings"]["seed"] == 0
    assert found["num_texts"]["fold"] + found["num_texts"]["stop"] + found["num_texts"]["measure"] == len(texts)
    assert found["differences"]["all"]["kl"] <= found["differences"]["unedited"]["kl"]
    # Of the texts that were not trained on, by hand.
    from clvq_hf.data.texts import split_texts
    from clvq_hf.models.folding import FIRST_DIGIT, SHARES

    measured = split_texts(texts, SHARES, start=FIRST_DIGIT)["measure"]["text"]
    same = []
    for text in measured:
        with edit:
            hooked = logits_of(host, tokenizer, text)
        same.append(int(hooked.argmax()) == int(logits_of(folded.host, tokenizer, text).argmax()))
    assert folded.differences["agreement"] == pytest.approx(sum(same) / len(same))
    folded.save(tmp_path / "edited")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "edited")
    torch.testing.assert_close(
        logits_of(loaded, AutoTokenizer.from_pretrained(tmp_path / "edited"), "a film"),
        logits_of(folded.host, tokenizer, "a film"),
    )
    names = {file.name for file in (tmp_path / "edited").iterdir()}
    assert {"README.md", "config.json", "edits.json", "model.safetensors", "tokenizer.json"} <= names
    noted = json.loads((tmp_path / "edited" / "edits.json").read_text())
    assert noted["forbid"] == [0, 2] and noted["folded"] == json.loads(json.dumps(found))
    assert "model.safetensors" in noted["files"] and noted["fingerprint"] == model.fingerprint()
    card = (tmp_path / "edited" / "README.md").read_text()
    assert card.startswith("---\n") and "How far it is from the hook" in card and "distilled" in card
    with model.load_edit(host, tmp_path / "edited") as again:
        assert again.forbid == (0, 2)


def test_any_edit_of_embeddings_is_exact(causal_host, tokenizer, texts):
    model = clusters_at(causal_host, tokenizer, texts, 0)
    folded = model.edit(causal_host, [0, 1]).fold(texts.select(range(24)), tokenizer, batch_size=4)
    assert folded.is_exact and folded.differences["agreement"] == 1 and folded.differences["num_rows"] > 24
    assert folded.facts["folded"]["differences"]["unedited"]["kl"] > folded.differences["kl"]


def test_a_host_with_an_adapter_is_merged_first(host, tokenizer, texts):
    peft = pytest.importorskip("peft")
    model = clusters_at(host, tokenizer, texts, 1)
    adapted = peft.get_peft_model(host, peft.LoraConfig(target_modules=["query"], task_type="SEQ_CLS")).eval()
    with pytest.raises(ValueError, match="merge_and_unload"):
        model.edit(adapted, 0).fold(texts, tokenizer)


def test_the_same_seed_gives_the_same_model(host, tokenizer, texts):
    edit = clusters_at(host, tokenizer, texts, 1).edit(host, 0)
    one, two = (edit.fold(texts, tokenizer, max_steps=5, batch_size=8, learning_rate=1e-3).host for _ in range(2))
    assert all(torch.equal(own, other) for own, other in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["multi_label", "regression", "tokens"])
def test_every_head(kind, tokenizer, texts):
    host = bert_with(kind, tokenizer, texts["text"])
    edit = clusters_at(host, tokenizer, texts, 1).edit(host, 1)
    folded = edit.fold(texts, tokenizer, max_steps=3, batch_size=8)
    assert folded.differences["largest_logit"] > 0 and folded.sentences()
    assert (folded.differences["agreement"] is None) == (kind == "regression")


def test_refusals(host, tokenizer, texts, tmp_path):
    edit = clusters_at(host, tokenizer, texts, 1).edit(host, 1)
    with pytest.raises(ValueError, match="too few"):
        edit.fold(texts.select(range(8)), tokenizer)
    with pytest.raises(ValueError, match="neither classes nor next tokens"):
        clusters_at(host.bert, tokenizer, texts, 1).edit(host.bert, 1).fold(texts, tokenizer)
    folded = edit.fold(texts, tokenizer, max_steps=1)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="would be lost"):
        folded.save(tmp_path / "own")
    assert (tmp_path / "own" / "thesis.txt").exists()


def test_texts_without_the_concept(host, tokenizer):
    """Nothing could be learned."""
    words = Dataset.from_dict({"text": [f"film {number}" for number in range(40)]})
    model = clusters_by_hand(host, 1, 1000 * torch.eye(3, 32))
    model.centroids.vectors[1] = 0
    with pytest.raises(ValueError, match=r"None of the \d+ texts .* has the concept, .*--fold-texts"):
        model.edit(host, 0).fold(words, tokenizer, max_steps=2, batch_size=4)


def test_a_copy_that_comes_no_nearer(host, tokenizer, texts):
    edit = clusters_at(host, tokenizer, texts, 1).edit(host, [0, 1, 2])
    with pytest.raises(ValueError, match=r"no nearer to the edit than the host itself\. Train longer"):
        edit.fold(texts, tokenizer, max_steps=2, learning_rate=1e-30)


def test_a_model_in_whose_folder_an_edit_was_saved_is_not_replaced(host, tokenizer, texts, tmp_path):
    model = clusters_at(host, tokenizer, texts, 1)
    model.save_pretrained(tmp_path / "out")
    edit = model.edit(host, 1)
    edit.save(tmp_path / "out")
    edit.save(tmp_path / "edited")
    check_replaceable_by_edit(tmp_path / "edited")
    check_replaceable_by_edit(tmp_path / "new")
    with pytest.raises(ValueError, match="another model, which would be lost"):
        check_replaceable_by_edit(tmp_path / "out")
