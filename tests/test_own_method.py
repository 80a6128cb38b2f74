"""Methods from outside the package go through all of it: the one of CONTRIBUTING.md, and one that is trained."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.command_line import refuse, succeed
from helpers.tiny_grid import GRID, make_reviews
from transformers import AutoModel
from transformers.modeling_outputs import ModelOutput

from clvq_hf import (
    ActivationCache,
    CLVQTrainer,
    CLVQTrainingArguments,
    ConceptModel,
    ConceptTable,
    register_method,
)
from clvq_hf.cli.compare import run_compare
from clvq_hf.evaluation import EvaluationSettings, evaluate_concepts
from clvq_hf.models import ConceptConfig, Preset, registry
from clvq_hf.models.model_card import model_card
from clvq_hf.models.modeling_base import masked_mse
from clvq_hf.report import write_report

PAGE = Path(__file__).parents[1] / ".github" / "CONTRIBUTING.md"
MODULE = "pca_clusters"


@pytest.fixture(scope="module")
def method(tmp_path_factory):
    """The module of the recipe, as a reader would save it."""
    folder = tmp_path_factory.mktemp("own")
    [code] = re.findall(rf'```python title="{MODULE}.py"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 80
    (folder / f"{MODULE}.py").write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield importlib.import_module(MODULE)
    sys.path.remove(str(folder))


class SoftCodebookConfig(ConceptConfig):
    model_type = "soft_codebook"
    temperature: float = 1.0

    identity = (*ConceptConfig.identity, "temperature")
    presets = {"soft": Preset("soft codebook", config={"codebook_size": 6})}


class SoftCodebook(ConceptModel):
    """Each state is a mixture of the codebook's vectors, by similarity; the code is the largest share."""

    config_class = SoftCodebookConfig
    loss_names = ("reconstruction_loss", "entropy")

    def __init__(self, config):
        super().__init__(config)
        self.vectors = torch.nn.Parameter(torch.zeros(config.codebook_size, config.hidden_size))
        self.upper = torch.nn.Linear(config.codebook_size, config.target_hidden_size)
        self.register_buffer("started", torch.tensor(False))
        self.post_init()

    @property
    def codebook(self):
        return self.vectors

    @property
    def is_initialized(self):
        return bool(self.started)

    @torch.no_grad()
    def initialize_codebook(self, hidden_states, target_hidden_states=None, seed=0):
        chosen = np.random.default_rng(seed).permutation(len(hidden_states))[: self.config.codebook_size]
        self.vectors.copy_(hidden_states[torch.from_numpy(chosen).to(hidden_states.device)])
        self.upper.bias.copy_(target_hidden_states.mean(0))
        self.started.fill_(True)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        target_hidden_states=None,
        token_mask=None,
        num_items_in_batch=None,
    ):
        mask = self._mask("attention_mask", attention_mask, hidden_states)
        counted = mask & self._mask("token_mask", token_mask, hidden_states)
        states = torch.where(mask[..., None], hidden_states, 0).float()
        shares = (-torch.cdist(states, self.vectors) / self.config.temperature).softmax(-1)
        output = ModelOutput(codes=shares.argmax(-1).masked_fill(~mask, -1), reconstruction=self.upper(shares))
        if target_hidden_states is not None:
            tokens = counted.sum() if num_items_in_batch is None else num_items_in_batch
            output["reconstruction_loss"] = masked_mse(output.reconstruction, target_hidden_states, counted, tokens)
            entropy = torch.where(counted, torch.special.entr(shares).sum(-1), 0).sum() / tokens
            output["entropy"] = entropy
            output["loss"] = output.reconstruction_loss + 0.01 * entropy
        return output

    @torch.no_grad()
    def encode(self, hidden_states, attention_mask=None):
        return self(hidden_states, attention_mask).codes

    @torch.no_grad()
    def reconstruct(self, hidden_states, attention_mask=None, codes=None):
        if codes is None:
            return self(hidden_states, attention_mask).reconstruction
        return self.upper(F.one_hot(codes.clamp(min=0), self.config.codebook_size).float())


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Other tests see only the methods of the package."""
    before = dict(registry._METHODS)
    register_method(SoftCodebook)
    yield
    registry._METHODS.clear()
    registry._METHODS.update(before)


@pytest.fixture
def cache(tmp_path, host, tokenizer, texts):
    return ActivationCache.build(tmp_path / "cache", host, tokenizer, texts, lower_layer=1, upper_layer=3)


def train_soft(host, cache, folder, checkpoint=None, **settings):
    torch.manual_seed(0)
    model = SoftCodebook(SoftCodebookConfig.from_host(host, 1, 3, codebook_size=6))
    args = CLVQTrainingArguments(str(folder), report_to="none", disable_tqdm=True, learning_rate=0.01, **settings)
    trainer = CLVQTrainer(model, args=args, train_dataset=cache, eval_dataset=cache)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return model.eval(), trainer.evaluate()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fitted", "trained"])
def test_goes_through_everything(kind, method, host, tokenizer, texts, all_texts, cache, tmp_path):
    if kind == "fitted":
        model = method.PCAClusters(method.PCAClustersConfig.from_host(host, 1, 3, codebook_size=6)).fit(cache)
    else:
        model, _ = train_soft(host, cache, tmp_path / "run", num_train_epochs=1)
    # Saving and loading, by every way that there is.
    model.record_host(host, tokenizer)
    model.save_pretrained(tmp_path / "model")
    for loader in (AutoModel, ConceptModel, type(model)):
        loaded = loader.from_pretrained(tmp_path / "model")
        assert type(loaded) is type(model) and loaded.fingerprint() == model.fingerprint()
    assert loaded.verify(host, tokenizer)
    # In the host.
    inputs = tokenizer(texts["text"][:4], return_tensors="pt", padding=True)
    with model.attach(host) as tap:
        plain = host(**inputs).logits
    assert torch.equal(tap.codes == -1, inputs["attention_mask"] == 0) and tap.codes.unique().numel() > 2
    for handle in (model.ablate(host, int(tap.codes[0, 1])), model.steer(host, 0, 1.0), model.splice(host)):
        with handle:
            assert not torch.allclose(host(**inputs).logits, plain, atol=1e-6)
    basis = model.ablation_basis(tap.hidden_states[0, :5].float(), k=3)
    assert torch.allclose(basis @ basis.mT, torch.eye(3).expand(5, 3, 3), atol=1e-4)
    assert torch.allclose(basis[:, :1].abs(), model.directions(tap.codes[0, :5]).abs(), atol=1e-4)
    # Measured and shown.
    settings = EvaluationSettings(num_draws=1, n_steps=2, max_steps=2, num_bootstrap=50)
    results = evaluate_concepts(
        model,
        host,
        tokenizer,
        all_texts.select(range(100, 120)),
        tmp_path / "evaluation",
        train=all_texts.select(range(60, 90)),
        settings=settings,
    )
    assert results["ablation"]["code"] and results["bottleneck"]["splice"]["num_active"] == 1
    table = ConceptTable.load_from_disk(tmp_path / "evaluation" / "concept_table")
    table.check_model(loaded)
    card = str(model_card(model.config, "me/mine", table=table, results=results, has_reference=True))
    assert model.config.title in card and f"from {type(model).__module__} import {type(model).__name__}" in card
    write_report(table, tmp_path / "report.html", model=model, evaluation=tmp_path / "evaluation")
    assert model.config.title in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_training_resumes_and_accumulates(host, cache, tmp_path):
    schedule = {"num_train_epochs": 20, "max_grad_norm": 0}
    model, figures = train_soft(
        host, cache, tmp_path / "run", per_device_train_batch_size=20, save_steps=30, **schedule
    )
    assert 0 < figures["eval_entropy"] < np.log(6) and figures["eval_explained_variance"] > 0
    [first, _] = sorted((tmp_path / "run").glob("checkpoint-*"))
    resumed, _ = train_soft(
        host, cache, tmp_path / "run", first, per_device_train_batch_size=20, save_steps=30, **schedule
    )
    # Losses are divided by the tokens of the whole step, which the trainer passes to forward.
    parts, _ = train_soft(
        host, cache, tmp_path / "parts", per_device_train_batch_size=5, gradient_accumulation_steps=4, **schedule
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("named_by", ["grid", "--import"])
def test_takes_part_in_a_comparison(named_by, method, tmp_path, monkeypatch):
    """In fresh processes, which import the module that the grid or the command line names."""
    monkeypatch.setenv("REVIEWS", str(make_reviews(tmp_path / "reviews")))
    monkeypatch.chdir(Path(method.__file__).parent)
    text = GRID.replace("[0, 1]", "[0]")[: GRID.index("methods:") - 3]
    methods = "methods:\n  - {method: pca-kmeans, config: {codebook_size: 12}}\n"
    if named_by == "grid":
        text = f"imports: [{MODULE}]\n{text}"
    else:
        monkeypatch.setattr(registry, "_IMPORTED", [])
        registry.import_everywhere([MODULE])
    (tmp_path / "grid.yaml").write_text(f"{text}{methods}")
    run_compare(tmp_path / "grid.yaml", tmp_path / "out")
    cell = json.loads((tmp_path / "out" / "cells" / "tiny_reviews_pca-kmeans_0" / "cell.json").read_text())
    assert cell["title"] == "PCA and K-means" and [entry["k"] for entry in cell["sweep"]] == [1, 2]
    assert "PCA and K-means" in (tmp_path / "out" / "report.md").read_text()


def test_commands_know_a_module_that_is_named(method, host, cache, tmp_path, monkeypatch):
    model = method.PCAClusters(method.PCAClustersConfig.from_host(host, 1, 3, codebook_size=6)).fit(cache)
    assert model.distance_quantiles.counts.sum() == cache.num_counted.sum()
    model.save_pretrained(tmp_path / "model")
    # As in a process that has not imported it.
    monkeypatch.setattr(registry, "_METHODS", {k: v for k, v in registry._METHODS.items() if k != "pca_clusters"})
    monkeypatch.setattr(registry, "_IMPORTED", [])
    assert "clvq-hf --import MODULE" in refuse("info", tmp_path / "model")
    monkeypatch.delitem(sys.modules, MODULE)
    monkeypatch.chdir(Path(method.__file__).parent)
    assert "pca_clusters, 6 concepts" in succeed("--import", MODULE, "info", tmp_path / "model")
    assert "the module 'none_such' cannot be imported" in refuse("--import", "none_such", "info", tmp_path / "model")
