"""Concept tables written down by hand: the concept of a word is known, so what they answer is too."""

from collections.abc import Mapping, Sequence

from datasets import Dataset

from clvq_hf import ConceptTable
from clvq_hf.tables.schema import FORMAT_VERSION, TEXT_FEATURES, TOKEN_FEATURES

LABEL_NAMES = ["bad", "good"]


def made_table(
    texts: Sequence[str],
    predictions: Sequence[int],
    code_of: Mapping[str, int],
    *,
    labels: Sequence[int] | None = None,
    salient_positions: Sequence[int] | None = None,
    distances: Sequence[Sequence[float]] | None = None,
    label_names: Sequence[str] = LABEL_NAMES,
    codebook_size: int = 20,
    first_id: int = 0,
    name: str = "made",
    **metadata,
) -> ConceptTable:
    """A table whose tokens are the words between spaces; words that `code_of` does not know have the code 0.

    The salient token is the first that `code_of` knows, unless positions are given.
    """
    tokens, rows = [], []
    for number, text in enumerate(texts):
        words, start = text.split(" "), 0
        for position, word in enumerate(words):
            tokens.append(
                {
                    "text_id": first_id + number,
                    "position": position,
                    "token": word,
                    "token_id": 0,
                    "special": False,
                    "word_id": position,
                    "start": start,
                    "end": start + len(word),
                    "code": code_of.get(word.lower(), 0),
                    "salience": 0.0,
                    "distance": None if distances is None else distances[number][position],
                }
            )
            start += len(word) + 1
        known = [place for place, word in enumerate(words) if word.lower() in code_of]
        rows.append(
            {
                "text_id": first_id + number,
                "text": text,
                "label": -1 if labels is None else labels[number],
                "prediction": predictions[number],
                "logits": [],
                "split": "test",
                "dataset": "made up",
                "num_tokens": len(words),
                "salient_position": (known[0] if known else -1)
                if salient_positions is None
                else salient_positions[number],
                "salience_error": None,
            }
        )
    about = {
        "format_version": FORMAT_VERSION,
        "clvq_version": "0",
        "model_fingerprint": name,
        "host_name_or_path": "made up",
        "lower_layer": 1,
        "codebook_size": codebook_size,
        "label_names": list(label_names),
        "salience": {"method": "by hand"},
    }
    return ConceptTable(
        Dataset.from_list(tokens, features=TOKEN_FEATURES),
        Dataset.from_list(rows, features=TEXT_FEATURES),
        {**about, **metadata},
    )
