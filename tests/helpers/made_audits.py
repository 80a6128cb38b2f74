"""Audits without a host: three concepts of which the first is an alarm."""

import numpy as np
import pandas as pd
from datasets import Dataset

from clvq_hf.auditing import Audit
from clvq_hf.auditing.occurrences import FEATURES
from clvq_hf.auditing.result import FORMAT_VERSION

CLASSES = ["negative", "positive"]


def made_audit(fingerprint: str = "f" * 64, word: str = "zebra") -> Audit:
    """The first concept is one word, in a line of its own; the last one was measured in too few texts."""
    figures = {
        "code": [7, 3, 5],
        "number": ["7", "3", "5"],
        "name": [None, "fights", None],
        "named_by": [None, "named by a model", None],
        "words": [word, "war, fight", "odd"],
        "num_texts": [50, 40, 4],
        "num_tokens": [60, 80, 4],
        "coverage": [0.5, 0.4, 0.04],
        "num_measured": [50, 40, 4],
        "class": ["positive", "negative", "negative"],
        "direction": ["for", "for", "for"],
        "hidden": [False, False, False],
        "num_controlled": [30, 10, 0],
        "matched": [0.9, 0.5, np.nan],
        "effect": [2.5, 0.4, 0.1],
        "effect_low": [2.2, 0.1, np.nan],
        "effect_high": [2.8, 0.7, np.nan],
        "control": [0.0, 0.1, 0.0],
        "excess": [2.5, 0.3, 0.1],
        "excess_low": [2.1, 0.05, np.nan],
        "excess_high": [2.9, 0.6, np.nan],
        "p": [1e-4, 0.01, np.nan],
        "share": [0.6, 0.2, 0.01],
        "lexical": [1.0, np.nan, np.nan],
        "q": [2e-4, 0.01, np.nan],
        "flips": [0.8, 0.1, 0.0],
        "top_word": [1.0, 0.2, 0.5],
        "top_word_at": [word, "war", "odd"],
        "layout": [0.9, 0.1, 0.1],
        "layout_at": ["last line", "running text", "quoted"],
        "score": [1.05, 0.02, 0.0],
        "alarm": [True, False, False],
    }
    for name in ("position", "casing", "weak", "boilerplate", "beyond_content", "misleads"):
        figures[name] = [0.1, 0.1, np.nan]
    figures |= {"slice_source": [0.7, 0.1, 0.1], "slice_source_at": ["courier", "other", "other"]}
    figures |= {"effect_gap": [np.nan, 1.5, np.nan], "effect_gap_at": [None, "source: other", None]}
    figures["group_people"] = [0.0, 0.5, np.nan]
    frame = pd.DataFrame(figures)
    effects = frame[["code", "class", "effect", "excess", "p", "q", "share", "lexical"]]
    rows = {"text_id": [0], "code": [7], "num_tokens": [1], "removed_norm": [1.0], "flips": [True]}
    rows |= {"logits": [[-1.0, 1.0]]}
    rows |= {"effect": [[-2.5, 2.5]], "word_effect": [[]]}
    metadata = {
        **{
            "format_version": FORMAT_VERSION,
            "model_fingerprint": fingerprint,
            "num_texts": 100,
            "max_texts_per_concept": 100,
        },
        **{"how": "mean", "unit": "logits", "classes": CLASSES, "codebook_size": 10},
        **{"slices": ["source"], "groups": ["people"]},
    }
    return Audit(Dataset.from_dict(rows, features=FEATURES), Audit.dataset(effects), Audit.dataset(frame), metadata)
