"""A concept table that is written down, with texts that try to be markup, a model of its size, an evaluation of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.made_tables import made_table

from clvq_hf import ClusterConfig, ClusterModel, ConceptTable
from clvq_hf.metrics.ablation_drop.numerics import ablation_drop
from clvq_hf.metrics.codebook_similarity.numerics import codebook_similarity
from clvq_hf.metrics.codebook_usage.numerics import codebook_usage
from clvq_hf.metrics.label_purity.numerics import label_purity
from clvq_hf.metrics.label_purity.token_table import read_token_table
from clvq_hf.report.page import write_report

NUM_TEXTS = 40
CODEBOOK_SIZE = 24
HOSTILE = "<script>hacked=1</script> </script> </style> <!-- \u2028 <img/src=x/onerror=hacked=1>"
# Praise 1, blame 2, things 3, hostile words 5; "light" is 6 in good texts and 7 in bad ones; all others 0.
CODES = {
    **dict.fromkeys(["warm", "funny", "bright"], 1),
    **dict.fromkeys(["dull", "tedious", "clumsy"], 2),
    **dict.fromkeys(["film", "plot", "town"], 3),
    **dict.fromkeys(HOSTILE.lower().split(" "), 5),
    "light": 6,
}
ADJECTIVES = [["dull", "tedious", "clumsy"], ["warm", "funny", "bright"]]


def written_texts() -> list[str]:
    """Text 3 is hostile, text 5 has characters that JavaScript counts twice; even texts are bad, odd ones good."""
    texts = []
    for number in range(NUM_TEXTS):
        adjective, thing = ADJECTIVES[number % 2][number % 3], ["film", "plot", "town"][number % 3]
        texts.append(f"a {adjective} {thing} in the light of number {number}")
    texts[3] = f"a warm film {HOSTILE} & light"
    texts[5] = "😀 a funny 𝔣ilm in the light 😀 of warm days"
    return texts


@pytest.fixture(scope="session")
def model() -> ClusterModel:
    config = ClusterConfig(
        hidden_size=8, lower_layer=1, upper_layer=3, codebook_size=CODEBOOK_SIZE, algorithm="kmeans"
    )
    torch.manual_seed(0)  # clusters begin as random vectors
    model = ClusterModel(config)
    model.centroids.initialized.fill_(True)
    return model.eval()


@pytest.fixture(scope="session")
def table(model) -> ConceptTable:
    """40 texts, labels alternate; the host is wrong about texts 0 and 1."""
    labels = [number % 2 for number in range(NUM_TEXTS)]
    predictions = [1, 0, *labels[2:]]
    about = {"model_type": "concept_clusters", "upper_layer": 3, "stack": None, "salience": "by hand"}
    made = made_table(
        written_texts(),
        predictions,
        CODES,
        labels=labels,
        codebook_size=CODEBOOK_SIZE,
        name=model.fingerprint(),
        **about,
    )
    codes = [
        7 if row["token"] == "light" and labels[row["text_id"]] == 0 else row["code"]
        for row in made.tokens.select_columns(["token", "text_id", "code"])
    ]
    return ConceptTable(made.tokens.remove_columns("code").add_column("code", codes), made.texts, made.metadata)


def ablation_rows() -> list[dict[str, Any]]:
    """Texts 2 to 11 without their salient concept, and twice without another one; text 3 alone flips."""
    rows = []
    for text_id in range(2, 12):
        label = text_id % 2
        for condition, draw, code, change in (
            ("salient", 0, 2 - label, -3.0 if text_id == 3 else -1.0),
            ("other_code", 0, 3, -0.2),
            ("other_code", 1, 6, -0.4),
        ):
            margin = 2.0 + change
            prediction = label if margin > 0 else 1 - label
            before, after = (float(1 / (1 + np.exp(-value))) for value in (2.0, margin))
            rows.append(
                {
                    **{"text_id": text_id, "condition": condition, "draw": draw, "code": code, "label": label},
                    **{"prediction_plain": label, "prediction": prediction, "margin_plain": 2.0, "margin": margin},
                    **{"probability_plain": before, "probability": after, "kl": 0.1, "num_positions": 2},
                    **{"gold_probability_plain": before, "gold_probability": after, "removed_norm": 1.0},
                    "probabilities_plain": [before, 1 - before] if label == 0 else [1 - before, before],
                    "probabilities": [after, 1 - after] if label == 0 else [1 - after, after],
                    **{"removed_energy": 0.1, "matched": True},
                }
            )
    return rows


@pytest.fixture(scope="session")
def results(model, table) -> dict[str, Any]:
    """What `results.json` holds, but for routing, computed from the table and the rows above."""
    tokens = table.metric_inputs()
    counts = np.bincount(np.concatenate([*map(np.asarray, tokens["codes"])]), minlength=CODEBOOK_SIZE)
    return {
        "model_fingerprint": model.fingerprint(),
        "host_name_or_path": "made up",
        "layers": [1, 3],
        "texts": {
            **{"num_texts": NUM_TEXTS, "dataset": "<made up>", "split": "test", "num_left_out": 0},
            "label_names": table.label_names,
        },
        "table": {
            "codebook_usage": codebook_usage(codes=tokens["codes"], codebook_size=CODEBOOK_SIZE),
            "codebook_similarity": codebook_similarity(vectors=model.codebook.numpy(), counts=counts),
            "label_purity": label_purity(read_token_table(**tokens), num_permutations=20),
            "label_purity_with_special_tokens": label_purity(read_token_table(**tokens), num_permutations=20),
        },
        "ablation": {
            "code": ablation_drop(Dataset.from_list(ablation_rows()).to_dict(), num_bootstrap=20, details=True)
        },
    }


@pytest.fixture(scope="session")
def evaluation(results, table, tmp_path_factory) -> Path:
    """The folder of an evaluation."""
    folder = tmp_path_factory.mktemp("evaluation")
    Dataset.from_list(ablation_rows()).save_to_disk(folder / "ablation-code")
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    table.save_to_disk(folder / "concept_table")
    return folder


@pytest.fixture(scope="session")
def report_file(table, model, evaluation, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(table, file, model, evaluation)
    return file
