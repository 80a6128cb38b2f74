"""Tables with a row for each host and dataset, a column for each method, and cells that are templates."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..rendering.text_tables import NOTHING, ReportTable, interval, number, percent
from .summary import Record, Summary

_FIELD = re.compile(r"\{([\w.]+)(?::([^}]*))?\}")


def fill(template: str, figures: Mapping[str, Any], section: str = "") -> str:
    """Fill a template in; a dash stands for each figure that is missing.

    Args:
        template (`str`): `{name}` or `{name:format}`. The format is one of Python's, such as `.3f`; or `%` for a share,
            `[]` for a figure with its interval (`name_low`, `name_high`), `±` for one with its deviation (`name_sd`),
            and with its number (`name_count`) if that differs from `name_of`.
        figures (`Mapping[str, Any]`): By name.
        section (`str`): What precedes each name.

    Example:
        ```python
        >>> fill("{purity:.2f} ({null:.2f}); {share:%}", {"purity": 0.8, "share": 0.25})
        '0.80 (–); 25.0 %'

        ```
    """

    def text(match: re.Match[str]) -> str:
        name, form = section + match[1], match[2] or ""
        value = figures.get(name)
        if pd.isna(value):
            return NOTHING
        if form == "[]":
            return interval(figures, name)
        if form == "±":
            count, expected = (figures.get(f"{name}_{part}") for part in ("count", "of"))
            few = "" if expected in (None, count) else f" (n = {count:.0f})"
            return f"{number(value, 3)} ± {number(figures[f'{name}_sd'], 3)}{few}"
        return percent(value) if form == "%" else format(value, form)

    return _FIELD.sub(text, template)


@dataclass(frozen=True)
class CellTable:
    """A table with a row for each host and dataset, and a column for each method that has a figure.

    Attributes:
        title (`str`): Heading.
        figure (`str`): The figure without which a cell stays empty.
        template (`str`): What a cell shows, for [`fill`]: names of figures of the same section.
        note (`str`): A sentence below the table.
        controls (`bool`): Whether sanity controls have columns too.
    """

    title: str
    figure: str
    template: str
    note: str
    controls: bool = False

    def build(self, summary: Summary) -> ReportTable:
        """Fill in the table."""
        section = self.figure.rpartition(".")[0] + "."

        def text(record: Record) -> str | None:
            return None if pd.isna(record.get(self.figure)) else fill(self.template, record, section)

        return setting_table(summary, self.title, text, self.note, self.controls)


TEXT_SPECIFICITY_TABLE = CellTable(
    "Text specificity",
    "ablation.code.text_specificity",
    "{text_specificity:[]}",
    "Change of the margin when the salient concept is removed, minus that of another text's salient concept with the "
    "same prediction, at the same tokens. What is left of token specificity if the place is the same: negative where "
    "the concept is this text's own.",
    controls=True,
)
FIDELITY_TABLES = [
    CellTable(
        "Code fidelity",
        "fidelity.code_fidelity",
        "{code_fidelity:[]} ({class_fidelity:.3f} / {word_fidelity:.3f} / {random_fidelity:.3f})",
        "What the host still answers if every token but special ones is the mean state of its code's training tokens: "
        "1 as before, 0 as if all tokens were the mean state, by KL. In brackets the same with the predicted class, "
        "the token type, and the nearest of as many random states.",
        controls=True,
    ),
    CellTable(
        "Code fidelity beyond the class",
        "fidelity.fidelity_beyond_class",
        "{fidelity_beyond_class:[]}",
        "The same, with 0 where every token is the mean state of the predicted class's tokens: what a dictionary says "
        "besides the class.",
        controls=True,
    ),
    CellTable(
        "Upper layer explained by codes",
        "fidelity.explained_variance",
        "{explained_variance:[]}; {explained_variance_within_class:[]} of {bits_per_token:.1f} bits",
        "Share of the variance at the upper layer that the mean states of codes explain on other texts, each "
        "dimension in units of its deviation; the same within the predicted class; entropy of the codes. For "
        "single-layer methods of the lower layer.",
        controls=True,
    ),
]
ABLATION_TABLES = [
    CellTable(
        "The paper's protocol: accuracy of a probe",
        "ablation.probe.accuracy",
        "{accuracy:.1%} → {salient_accuracy:.1%} ({random_active_code_accuracy:.1%})",
        "Plain → salient concept removed (a random active code removed), one direction, from the representation at the "
        "lower layer. Accuracies of a probe, not of the model; below chance labels flip.",
    ),
    CellTable(
        "Controls of the ablation",
        "ablation.code.salient_margin_change",
        "{salient_margin_change:.3f} / {random_active_code_margin_change:.3f} / {random_direction_margin_change:.3f} / "
        "{class_ceiling_margin_change:.3f}",
        "Change of the margin in logits, where the salient concept occurs: salient concept / random active code / "
        "random direction of the same norm / directions of the classes.",
    ),
]
TOKEN_TABLES = [
    CellTable(
        "Label purity and exclusive codes",
        "table.label_purity.cross_fitted_purity",
        "{cross_fitted_purity:.3f} ({null_purity:.3f}) of {coverage:%}; {exclusive_share:%}",
        "Cross-fitted purity (labels permuted by text) of the share of tokens whose code is frequent enough; share of "
        "the codes that have one label only. Methods score different tokens, so do not compare their purities here.",
    ),
    CellTable(
        "Label purity, compared on the same tokens",
        "common_purity.purity",
        "{purity:.3f} of {coverage:%}; {difference:[]}",
        "Cross-fitted purity on the tokens that all methods score, and their share; its difference to CLVQ-VAE, paired "
        "by text and split, with a 95 % interval.",
    ),
    CellTable(
        "Label purity beyond the word",
        "table.label_purity.within_word_gain",
        "{within_word_gain:[]} of {within_word_coverage:%}",
        "Cross-fitted purity of pairs of code and token type, less that of types alone, on the tokens of types with "
        "two frequent codes or more, and their share.",
    ),
    CellTable(
        "Routing: does a word go elsewhere under another label?",
        "table.routing_divergence.excess_jsd",
        "{excess_jsd:[]}",
        "Jensen–Shannon divergence in bits, minus its mean over permutations of the labels.",
    ),
    CellTable(
        "Overlap of the codes of two texts",
        "table.codebook_overlap.ratio",
        "{ratio:[]}",
        "Pairs with the same label ÷ pairs with different ones, of like TF-IDF similarity.",
    ),
    CellTable(
        "The host's prediction from five codes",
        "table.bag_of_codes.prediction_codes_5",
        "{prediction_codes_5:.3f}; {prediction_gain_5:[]} (dense {prediction_dense:.3f})",
        "Balanced accuracy of a logistic regression on how often five codes occur in a text, cross-fitted; less "
        "that of five token types; that of the mean state.",
    ),
    CellTable(
        "Senses: does a code say what another context of its word does?",
        "words.senses.sense_share",
        "{sense_share:[]}; {exchanged_share:[]} of {num_exchanged:.0f}/{num_tokens:.0f}",
        "Share of what another occurrence of a word does to the answer that an exchange of codes does too; the same "
        "for the tokens whose code was exchanged, and their number.",
    ),
    CellTable(
        "Cosine of the codes in use",
        "table.codebook_similarity.active_mean_cosine",
        "{active_mean_cosine:.3f} ({active_mean_centred_cosine:.3f})",
        "Mean over pairs; in brackets after the mean code is subtracted.",
    ),
    CellTable(
        "What passes the bottleneck",
        "bottleneck.splice_fidelity",
        "{splice_fidelity:.3f} / {code_leak:.3f} / {explained_variance:.3f}",
        "Splice fidelity / leak (the same with permuted codes; for methods of one code a token) / explained variance "
        "at the upper layer, for single-layer methods at the lower one.",
    ),
    CellTable(
        "What passes the bottleneck, with the same decoder for all methods",
        "equal_splice.splice_fidelity",
        "{splice_fidelity:[]} / {leak:.3f} / {explained_variance:.3f}",
        "The same figures with one decoder that is trained on the frozen codes of each method, as long, at the upper "
        "layer for all.",
    ),
]


def setting_table(
    summary: Summary, title: str, text: Callable[[Record], str | None], note: str, controls: bool = False
) -> ReportTable:
    """A row for each host and dataset, a column for each method that `text` has something to say of."""
    settings, names = summary.settings(), summary.methods()
    columns = {"host, dataset": [", ".join(setting) for setting in settings]}
    for method, name in {**names, **(summary.methods(control=True) if controls else {})}.items():
        records = [summary.record(*setting, method) for setting in settings]
        texts = [None if record is None else text(record) for record in records]
        if any(texts):
            columns[name] = [each or NOTHING for each in texts]
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return ReportTable(title, list(columns), rows if len(columns) > 1 else [], note)


__all__ = [
    "ABLATION_TABLES",
    "FIDELITY_TABLES",
    "TEXT_SPECIFICITY_TABLE",
    "TOKEN_TABLES",
    "CellTable",
    "fill",
    "setting_table",
]
