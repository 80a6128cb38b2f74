"""What all metrics have in common: they stand alone, agree with themselves however they are used, and have a card."""

import ast
import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clvq_hf import metrics

CLASSES = {
    "ablation_drop": "AblationDrop",
    "label_purity": "LabelPurity",
    "routing_divergence": "RoutingDivergence",
    "codebook_overlap": "CodebookOverlap",
    "codebook_similarity": "CodebookSimilarity",
    "codebook_usage": "CodebookUsage",
    "stability": "Stability",
}
CONTRASTS = {"token_specificity", "token_specificity_matched", "text_specificity", "class_specificity"}
# Loads every folder named in a JSON file where clvq_hf cannot be imported, and computes.
STRANGER = """
import json, sys, traceback

class NoClvq:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "clvq_hf":
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, NoClvq())
import evaluate

results = {}
for folder, columns, settings in json.load(open("inputs.json")):
    try:
        results[folder] = evaluate.load(folder).compute(**columns, **settings)
    except Exception:
        results[folder] = {"error": traceback.format_exc()}
json.dump(results, open("results.json", "w"))
"""


def token_table() -> dict[str, list]:
    """Forty texts with a token and code that all share, and codes that tell the label most of the time."""
    generator = np.random.default_rng(0)
    labels = [number % 2 for number in range(40)]
    types = [generator.integers(12, size=8) for _ in labels]
    codes = [
        [-1, 20, *np.where(generator.random(8) < 0.7, kinds % 3 + 5 * label, kinds).tolist()]
        for label, kinds in zip(labels, types, strict=True)
    ]
    return {
        "texts": [f"text {number:02d}" for number in range(40)],
        "codes": codes,
        "tokens": [["[CLS]", "the", *(f"t{kind}" for kind in kinds)] for kinds in types],
        "labels": labels,
        "reference_codes": [[(7 * code) % 23 if code >= 0 else -1 for code in row] for row in codes],
    }


def ablation_table() -> dict[str, list]:
    """Twenty texts, of each the salient code removed once and another code twice."""
    generator = np.random.default_rng(0)
    rows = []
    for text_id in range(20):
        for condition, draw in (("salient", 0), ("other_code", 0), ("other_code", 1)):
            plain, probability = 0.8, float(generator.uniform(0.2, 0.6) if condition == "salient" else 0.7)
            prediction = int(probability > 0.5)
            rows.append(
                {
                    "text_id": text_id,
                    "condition": condition,
                    "draw": draw,
                    "label": 1,
                    "prediction_plain": 1,
                    "prediction": prediction,
                    "margin_plain": float(np.log(plain / (1 - plain))),
                    "margin": float(np.log(probability / (1 - probability))),
                    "probability_plain": plain,
                    "probability": probability,
                    "gold_probability_plain": plain,
                    "gold_probability": probability,
                    "kl": float(plain * np.log(plain / probability)),
                    "probabilities_plain": [1 - plain, plain],
                    "probabilities": [1 - probability, probability],
                    "num_positions": 2,
                    "removed_norm": 1.5,
                    "matched": draw == 0,
                }
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def example(name: str) -> tuple[dict[str, list], dict]:
    """Columns and settings of one metric; few draws are enough to see that they are the same ones."""
    table, draws = token_table(), {"num_bootstrap": 20, "num_permutations": 20}
    labelled_tokens = {column: table[column] for column in ("texts", "codes", "tokens", "labels")}
    codebook = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float32).tolist()
    return {
        "ablation_drop": (ablation_table(), draws),
        "label_purity": (labelled_tokens, {"num_permutations": 20}),
        "routing_divergence": (labelled_tokens, {"min_count": 5, **draws}),
        "codebook_overlap": (labelled_tokens, draws),
        "codebook_similarity": ({"vectors": codebook, "counts": list(range(25))}, {}),
        "codebook_usage": ({"codes": table["codes"]}, {"codebook_size": 25}),
        "stability": (
            {"codes": table["codes"], "reference_codes": table["reference_codes"]},
            {"codebook": codebook, "reference_codebook": codebook[::-1], "num_null": 2},
        ),
    }[name]


def imports(file: Path) -> list[tuple[int, str]]:
    """Level (0 is absolute) and first part of the name of everything that a file imports."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, (node.module or "").partition(".")[0]))
    return found


@pytest.fixture(scope="module")
def results_of_a_stranger(tmp_path_factory) -> dict[str, dict]:
    """What each metric gives in another process, from a copy of its folder, without clvq_hf and without a network."""
    home = tmp_path_factory.mktemp("stranger")
    inputs = []
    for name in CLASSES:
        shutil.copytree(metrics.path(name), home / name, ignore=shutil.ignore_patterns("__pycache__"))
        inputs.append([str(home / name), *example(name)])
    (home / "inputs.json").write_text(json.dumps(inputs))
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "hf"),
        "HF_MODULES_CACHE": str(home / "modules"),
    }
    # Isolated: neither PYTHONPATH nor the working directory is on the path.
    subprocess.run([sys.executable, "-I", "-c", STRANGER], cwd=home, env=environment, check=True)
    results = json.loads((home / "results.json").read_text())
    return {Path(folder).name: figures for folder, figures in results.items()}


def test_every_folder_has_a_name_and_a_class():
    folders = {script.parent.name for script in Path(metrics.__file__).parent.glob("*/__init__.py")}
    assert set(metrics.names) == folders == set(CLASSES)
    for name, class_name in CLASSES.items():
        assert Path(metrics.path(name), f"{name}.py").is_file()
        assert getattr(metrics, class_name).__name__ == class_name
        assert class_name in metrics.__all__ and class_name in dir(metrics)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'purity'.*label_purity.*stability"):
        metrics.path("purity")
    with pytest.raises(AttributeError, match="Purity"):
        _ = metrics.Purity


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_a_stranger_gets_the_same_figures(results_of_a_stranger, name):
    columns, settings = example(name)
    expected = getattr(metrics, CLASSES[name])(keep_in_memory=True).compute(**columns, **settings)
    results = results_of_a_stranger[name]
    assert "error" not in results, results["error"]
    assert results == pytest.approx(expected)


@pytest.mark.parametrize("name", CLASSES)
def test_batches_change_nothing(name):
    columns, settings = example(name)
    metric = getattr(metrics, CLASSES[name])(keep_in_memory=True)
    expected = metric.compute(**columns, **settings)
    num_rows = len(next(iter(columns.values())))
    for size in (1, 7, num_rows - 1):
        for start in range(0, num_rows, size):
            metric.add_batch(**{column: values[start : start + size] for column, values in columns.items()})
        assert metric.compute(**settings) == expected


@pytest.mark.parametrize("name", CLASSES)
def test_results_are_flat_and_details_are_json(name):
    columns, settings = example(name)
    metric = getattr(metrics, CLASSES[name])(keep_in_memory=True)
    results = metric.compute(**columns, **settings)
    assert {type(value) for value in results.values()} <= {int, float, str, type(None)}
    detailed = metric.compute(**columns, **settings, details=True)
    assert {key: detailed[key] for key in results} == results and len(detailed) > len(results)
    json.dumps(detailed, allow_nan=False)


@pytest.mark.parametrize("name", CLASSES)
def test_examples_of_the_docstring(name):
    results = doctest.testmod(sys.modules[getattr(metrics, CLASSES[name]).__module__])
    assert results.attempted > 0 and results.failed == 0


@pytest.mark.parametrize("name", CLASSES)
def test_everything_is_described(name):
    columns, settings = example(name)
    metric = getattr(metrics, CLASSES[name])(keep_in_memory=True)
    assert metric.description.count("\n") > 2 and "@article{" in metric.citation
    assert metric.description in type(metric).__doc__ and metric.inputs_description in type(metric).__doc__
    described = {*re.findall(r"\*\*(\S+)\*\*", metric.inputs_description)}
    described |= {*re.findall(r"^ {4}(\w+) \(", metric.inputs_description, re.MULTILINE)}
    assert {*columns, *settings, "details"} <= described
    figures = metric.compute(**columns, **settings, details=True)
    if name == "ablation_drop":  # names of conditions and contrasts stand in front of its figures
        fronts = ["salient_", "other_code_", *(f"{front}_" for front in sorted(CONTRASTS, reverse=True))]
        figures = {re.sub(f"^({'|'.join(fronts)})", "", figure) for figure in figures} - CONTRASTS
    assert set(figures) <= described


@pytest.mark.parametrize("name", CLASSES)
def test_a_folder_imports_only_its_siblings(name):
    folder = Path(metrics.path(name))
    imported = {file: imports(file) for file in folder.glob("*.py")}
    siblings = {(level, module) for modules in imported.values() for level, module in modules if level > 0}
    # The script names them all: evaluate.load copies no others.
    assert siblings <= {each for each in imported[folder / f"{name}.py"] if each[0] == 1}
