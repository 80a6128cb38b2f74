"""Damaged files: whatever is read is refused by name, or gives what it gave before.

`CLVQ_FAULT_POINTS` multiplies the number of files that are tried, with other damage (`make soak`).
"""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.damage import OF_BYTES, OF_JSON, damage
from helpers.study_fixtures import study_tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clvq_hf import ActivationCache, ConceptModel, ConceptTable
from clvq_hf.evaluation import EvaluationSettings, evaluate_concepts
from clvq_hf.judging.people import StudyKey, build_study
from clvq_hf.report.evaluations import read_ablations, read_evaluation

MORE = int(os.environ.get("CLVQ_FAULT_POINTS", "1"))
FUZZED = settings(
    max_examples=60 * MORE,
    deadline=None,
    derandomize=MORE == 1,
    database=None,
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Artefact:
    """A folder, how it is read, and one of the same kind with another content."""

    folder: Path
    other: Path
    read: Callable[[Path], Any]

    @property
    def files(self) -> list[str]:
        return sorted(
            file.relative_to(self.folder).as_posix()
            for file in self.folder.rglob("*")
            if file.is_file() and file.name != ".lock"
        )


def read_model(folder: Path) -> Any:
    model = ConceptModel.from_pretrained(folder)
    states = torch.linspace(-2, 2, 5 * model.config.hidden_size).view(1, 5, -1)
    layers = model.config.lower_layer, model.config.upper_layer
    return layers, model.encode(states).tolist(), model.codebook.tolist(), model.reference, model.config.codebook_size


def read_table(folder: Path) -> Any:
    table = ConceptTable.load_from_disk(folder)
    return table.tokens.to_dict(), table.texts.to_dict(), table.metadata, dict(table.names)


def read_cache(folder: Path) -> Any:
    cache = ActivationCache(folder)
    rows = [{name: value.tolist() for name, value in cache[number].items()} for number in range(len(cache))]
    return rows, cache.metadata, cache.sensitivity.tolist(), str(cache.predictions)


def read_results(folder: Path) -> Any:
    table = ConceptTable.load_from_disk(folder / "concept_table")
    return read_evaluation(folder, table), [read_ablations(folder, "code")]


def read_key(folder: Path) -> Any:
    return StudyKey.load(folder / "key.json")


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory, fitted_model, saved_host, all_texts) -> dict[str, Artefact]:
    home = tmp_path_factory.mktemp("artefacts")
    host = AutoModelForSequenceClassification.from_pretrained(saved_host).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved_host)
    fitted_model.save_pretrained(home / "model")
    other = ConceptModel.from_pretrained(home / "model")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    other.save_pretrained(home / "other model")
    layers = {"lower_layer": 1, "upper_layer": 3}
    for name, start in (("", 0), ("other ", 20)):
        texts = all_texts.select(range(start, start + 12))
        table = fitted_model.concept_table(host, tokenizer, texts, max_length=12, salience=None)
        table.save_to_disk(home / f"{name}table")
        ActivationCache.build(
            home / f"{name}cache", host, tokenizer, texts, max_length=12, texts_per_shard=5, **layers
        )
    build_study(study_tables(), home / "study", num_items=6, num_checks=1)
    build_study(study_tables(), home / "other study", num_items=5, num_checks=1)
    for each in ("study", "other study"):
        (home / each / "page.html").unlink()  # which only people read
    quick = EvaluationSettings(protocols=("code",), attribution="gradient_x_input", num_draws=1, num_bootstrap=20)
    for name, model in (("", fitted_model), ("other ", other)):
        evaluate_concepts(
            model,
            host,
            tokenizer,
            all_texts.select(range(100, 108)),
            home / f"{name}results",
            train=all_texts.select(range(60)),
            settings=quick,
        )
        for file in ("salience", "senses", "splice"):
            shutil.rmtree(home / f"{name}results" / file, ignore_errors=True)  # which a report does not read
    readers = {
        "model": read_model,
        "table": read_table,
        "cache": read_cache,
        "results": read_results,
        "study": read_key,
    }
    return {name: Artefact(home / name, home / f"other {name}", read) for name, read in readers.items()}


@pytest.mark.parametrize("name", ["model", "table", "cache", "results", "study"])
def test_what_is_damaged_is_refused_or_harmless(artefacts, tmp_path, name):
    artefact = artefacts[name]
    before = artefact.read(artefact.folder)
    copy = tmp_path / "damaged"
    tried = 0

    @FUZZED
    @given(st.randoms(use_true_random=False))
    def check(chance: random.Random) -> None:
        nonlocal tried
        tried += 1
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(artefact.folder, copy)
        file = copy / chance.choice(artefact.files)
        kinds = OF_JSON if file.suffix == ".json" else OF_BYTES
        kind = chance.choice([*kinds, None, None])
        if kind is None and len(artefact.files) > 1 and (artefact.other / file.relative_to(copy)).is_file():
            what = "of another"
            shutil.copy(artefact.other / file.relative_to(copy), file)
        elif kind is None and file.name == "reference.json":
            return  # a model may have none: then a warning says that its host cannot be verified
        elif kind is None:
            what = "missing"
            file.unlink()
        else:
            what = kind.__name__
            damage(file, kind, chance)
        try:
            after = artefact.read(copy)
        except (ValueError, OSError) as error:
            assert str(copy) in str(error) or file.name in str(error), (what, file.name, error)
        else:
            assert after == before, f"{what}: {file.relative_to(copy)} gives something else, and nobody is told"

    check()
    assert tried >= 60 * MORE
