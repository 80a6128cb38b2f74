"""One cell of the grid: fit a method, build its table, measure everything, write one JSON."""

import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..checksums import read_metadata, read_rows, write_metadata, write_rows
from ..evaluation.ablation.ablate import ablate_texts
from ..evaluation.ablation.references import AblationReferences, fit_references
from ..evaluation.bottleneck import bottleneck_figures, splice_texts
from ..evaluation.code_decoder import fit_code_decoder
from ..evaluation.evaluate import EvaluationSettings, evaluate_concepts
from ..files import replaced
from ..hosts.identity import check_identity
from ..hub.provenance import library_versions
from ..metrics.ablation_drop.numerics import ablation_drop
from ..metrics.stability.numerics import stability
from ..models.modeling_concepts import ConceptModel
from ..reading import check_object
from ..tables.concept_table import ConceptTable
from ..version import __version__
from .grid import Cell, Grid, digest
from .methods import Method, fit, make_model, of_its_layers
from .prepared_hosts import REMEDY, PreparedHost, open_host
from .sources import Sources

RESULT_NAME = "cell.json"
# Fields of a prepared host's record that a cell has fields of its own for.
_NOT_OF_THE_HOST = ("digest", "settings", "identity", "content")
AGAIN = "Run the same command again."
# What a k-sweep needs of an ablation: its headline.
SWEPT = ("salient", "other_code")


def cell_folder(output_dir: Path, cell: Cell) -> Path:
    """Return the folder of a finished cell: its JSON, concepts without decoder, concept table, outcomes per text."""
    return output_dir / "cells" / cell.name


def open_cell(grid: Grid, cell: Cell, output_dir: Path, sources: Sources | None = None) -> dict[str, Any] | None:
    """Read the results of a finished cell, `None` if it has yet to run.

    Raises:
        ValueError: If one is there that was run with other settings, or, if `sources` are given, with others of these
            or with another prepared host than the one that is there.
    """
    file = cell_folder(output_dir, cell) / RESULT_NAME
    if not file.is_file():
        return None
    result = check_object(read_metadata(file, REMEDY)[0], str(file), {"digest": str}, REMEDY)
    if result["digest"] != digest(grid.cell_settings(cell)):
        raise ValueError(f"{file.parent} was run with other settings than the grid's. {REMEDY}")
    if sources is not None:
        given = sources.of_cell(cell)
        prepared = open_host(grid, cell.host, cell.dataset, grid.methods[cell.method].host, output_dir)
        if prepared is not None and "content" in prepared.record:
            given["prepared"] = prepared.record["content"]
        check_identity(result.get("identity"), given, f"The cell {file.parent}", REMEDY)
    return result


def lacks_stability(grid: Grid, cell: Cell, result: dict[str, Any]) -> bool:
    """Whether a finished cell was never compared with the first seed, whose cell had failed when it ran."""
    first = grid.seeds[0]
    return cell.seed != first and ("stability" not in result or result.get("first_seed") != first)


def run_cell(grid: Grid, cell: Cell, output_dir: Path) -> dict[str, Any]:
    """Run a cell whose host is prepared; its folder is there when it is complete.

    Of a finished one only the comparison with the first seed is added, if that has been done since.

    Args:
        grid ([`Grid`][clvq_hf.comparison.Grid]): The grid.
        cell ([`Cell`][clvq_hf.comparison.Cell]): Which.
        output_dir (`Path`): The grid's folder.

    Returns:
        `dict`: What `cell.json` holds.

    Raises:
        ValueError: If the method does not fit the host or its texts.
    """
    folder = cell_folder(output_dir, cell)
    reference = cell_folder(output_dir, replace(cell, seed=grid.seeds[0]))
    if (result := open_cell(grid, cell, output_dir)) is not None:
        if lacks_stability(grid, cell, result) and (reference / RESULT_NAME).is_file():
            result |= {"stability": _stability(folder, reference), "first_seed": grid.seeds[0]}
            write_metadata(folder / RESULT_NAME, result)
        return result
    with replaced(folder) as building:
        return _run_in(building, grid, cell, output_dir, reference)


def _run_in(building: Path, grid: Grid, cell: Cell, output_dir: Path, reference: Path) -> dict[str, Any]:
    set_seed(cell.seed)
    trial = _Trial.begin(grid, cell, output_dir, building)
    method, model, prepared, clock = trial.method, trial.model, trial.prepared, trial.clock
    validation = fit(
        method, model, prepared.cache("train"), prepared.cache("validation"), building / "trainer", cell.seed
    )
    if not all(map(math.isfinite, validation.values())):
        raise ValueError(f"Training went astray: {validation}.")
    shutil.rmtree(building / "trainer", ignore_errors=True)
    model.codebook_only().save_pretrained(building / "model")
    clock.lap("fit")
    result = {
        "cell": {"host": cell.host, "dataset": cell.dataset, "method": cell.method, "seed": cell.seed},
        "title": method.title,
        "control": method.control,
        "digest": digest(grid.cell_settings(cell)),
        "clvq_version": __version__,
        "library_versions": library_versions(),
        "identity": {**Sources(grid).of_cell(cell), "prepared": prepared.record.get("content")},
        "host": {name: value for name, value in prepared.record.items() if name not in _NOT_OF_THE_HOST},
        "codebook_size": model.config.codebook_size,
        "first_seed": grid.seeds[0],
        "validation": validation,
    }
    if method.ablates and not trial.ablates:
        accuracy, majority = prepared.record["accuracy"], prepared.record["majority"]
        result["refused"] = (
            f"The host is at chance: it is right on {accuracy:.1%} of the test texts, and {majority:.1%} of them have "
            "one label. There is nothing that an ablation could take away."
        )
    result |= trial.measure()
    if cell.seed != grid.seeds[0] and (reference / RESULT_NAME).is_file():
        result["stability"] = _stability(building, reference)
        clock.lap("stability")
    result["seconds"] = clock.seconds
    result["settings"] = grid.cell_settings(cell)
    write_metadata(building / RESULT_NAME, result)
    return result


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(self.seconds.get(name, 0) + now - self._last, 2)
        self._last = now


@dataclass(frozen=True)
class _Trial:
    """The model of a cell on its host, and what is asked of it; `folder` is where all that it leaves goes."""

    cell: Cell
    method: Method
    prepared: PreparedHost
    model: ConceptModel
    host: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: EvaluationSettings
    ks: tuple[int, ...]
    ablates: bool
    folder: Path
    clock: _Clock

    @classmethod
    def begin(cls, grid: Grid, cell: Cell, output_dir: Path, folder: Path) -> Self:
        """Load the host, and make a model for it that is not fitted yet."""
        clock = _Clock()
        method, spec, (settings, ks) = grid.methods[cell.method], grid.hosts[cell.host], grid.measures(cell)
        prepared = open_host(grid, cell.host, cell.dataset, method.host, output_dir)
        ablates = method.ablates and not prepared.record["at_chance"]
        if not ablates:
            settings = replace(settings, protocols=())
        host, tokenizer = prepared.load()
        if torch.accelerator.is_available():
            host.to(torch.accelerator.current_accelerator())
        model = make_model(method, host, spec.lower_layer, spec.upper_layer, spec.stack)
        clock.lap("load")
        return cls(cell, method, prepared, model, host, tokenizer, settings, ks, ablates, folder, clock)

    def measure(self) -> dict[str, Any]:
        """Return all figures of the fitted model but for its stability."""
        model, host, tokenizer, settings = self.model, self.host, self.tokenizer, self.settings
        texts, train = self._texts(), self.prepared.texts("train") if self.ablates else None
        evaluation = self.folder / "evaluation"
        if not self.ablates:  # without salience, which an evaluation would look for
            model.concept_table(
                host,
                tokenizer,
                texts,
                dataset_name=self.cell.dataset,
                max_length=settings.max_length,
                batch_size=settings.batch_size,
                output_dir=evaluation / "concept_table",
            )
        self.clock.lap("table")
        references = None
        if self.ablates:
            cache = of_its_layers(self.prepared.cache("train"), model)
            references = fit_references(
                model,
                host,
                tokenizer,
                train,
                max_length=settings.max_length,
                batch_size=256,
                cache=cache,
                words=self.prepared.words,
            )
            self.clock.lap("references")
        results = evaluate_concepts(
            model,
            host,
            tokenizer,
            texts,
            evaluation,
            train=train,
            dataset_name=self.cell.dataset,
            settings=settings,
            salience=self.prepared.salience if self.ablates else None,
            references=references,
        )
        self.clock.lap("evaluate")
        splice = _shortened(results.get("bottleneck", {}).get("splice", {}))
        figures: dict[str, Any] = {
            "texts": results["texts"],
            "table": {name: _shortened(values) for name, values in results["table"].items()},
            "ablation": {name: _shortened(values) for name, values in results.get("ablation", {}).items()},
            "fidelity": results.get("fidelity", {}).get("codes", {}),
            "bottleneck": splice,
            "words": {name: _shortened(values) for name, values in results.get("words", {}).items()},
        }
        if figures["fidelity"]:
            figures["coded"] = _coded(read_rows(evaluation / "fidelity", AGAIN))
        if self.ablates:
            figures["equal_splice"] = self._equal_splice(evaluation)
            self.clock.lap("equal_splice")
        if "code" in settings.protocols:
            # Also without a sweep: its first entry holds the differences that methods are compared by.
            figures["sweep"] = self._sweep(evaluation, references)
            self.clock.lap("sweep")
            if "word_residual" in settings.conditions:
                figures["beyond_word"] = _beyond_word(read_rows(evaluation / "ablation-code", AGAIN))
        return figures

    def _equal_splice(self, evaluation: Path) -> dict[str, Any]:
        """The splice with a decoder that is the same for all methods, at the host's upper layer."""
        model, settings = self.model, self.settings
        decoder = fit_code_decoder(model, self.host, self.prepared.cache("train"), seed=settings.seed)
        outcome = splice_texts(
            model,
            self.host,
            self.tokenizer,
            ConceptTable.load_from_disk(evaluation / "concept_table"),
            upper_mean=decoder.upper_mean,
            decoder=decoder,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
        write_rows(outcome, evaluation / "equal_splice")
        return _shortened(bottleneck_figures(outcome))

    def _texts(self) -> Dataset:
        """The test texts; their labels permuted for the control that asks for it."""
        texts = self.prepared.texts("test")
        if not self.method.permute_labels:
            return texts
        labels = np.random.default_rng(self.cell.seed).permutation(texts["label"])
        feature = texts.features["label"]
        return texts.remove_columns("label").add_column("label", labels).cast_column("label", feature)

    def _sweep(self, evaluation: Path, references: AblationReferences) -> list[dict[str, Any]]:
        """The headline for other numbers of directions, and at the largest for the model's other variants."""
        model, settings, ks = self.model, self.settings, self.ks or (self.settings.k,)
        table = ConceptTable.load_from_disk(evaluation / "concept_table")
        default, *others = model.ablation_variants if self.ks else model.ablation_variants[:1]
        if model.config.hidden_size != model.config.target_hidden_size:
            others = [name for name in others if not name.startswith("decoder")]
        entries = []
        for variant, k in [(default, k) for k in ks] + [(name, max(ks)) for name in others]:
            if variant == default and k == settings.k:
                outcome = read_rows(evaluation / "ablation-code", AGAIN)
                outcome = outcome.select(np.flatnonzero(np.isin(outcome["condition"][:], SWEPT)))
            else:
                outcome = ablate_texts(
                    model,
                    self.host,
                    self.tokenizer,
                    table,
                    how=settings.how,
                    references=references,
                    conditions=SWEPT,
                    k=k,
                    variant=variant,
                    num_draws=settings.num_draws,
                    batch_size=settings.batch_size,
                    seed=settings.seed,
                )
            entries.append({"variant": variant, "k": k, **_headline(outcome, settings)})
        return entries


def _beyond_word(outcome: Dataset) -> dict[str, Any]:
    """What removing the salient concept costs each text beyond its word, so that methods can be compared in pairs.

    Returns:
        `dict`: `text_id` and `differences` (change of the margin) of the texts with a word whose mean state is known;
        `control`, what a random direction beside the word costs them, if that was measured; `salient_margin_change`,
        what the whole concept costs these texts; `text_share` and `position_share`, the share of these texts, and of
        these words at the concept's positions in them.
    """
    rows = outcome.to_pandas()
    rows["change"] = rows["margin"] - rows["margin_plain"]
    # Of several draws the mean.
    means = rows.groupby(["condition", "text_id"])[["change", "num_positions"]].mean()
    salient = means.loc["salient"]
    if "word_residual" not in means.index.get_level_values("condition"):
        return {"text_id": [], "differences": [], "text_share": 0.0, "position_share": None}
    residual = means.loc["word_residual"]
    record = {
        "text_id": residual.index.tolist(),
        "differences": residual["change"].round(5).tolist(),
        "salient_margin_change": float(salient["change"].loc[residual.index].mean()),
        "text_share": len(residual) / len(salient),
        "position_share": float((residual["num_positions"] / salient["num_positions"]).mean()),
    }
    if "word_random" in means.index.get_level_values("condition"):
        record["control"] = means.loc["word_random", "change"].round(5).tolist()
    return record


def _coded(outcome: Dataset) -> dict[str, Any]:
    """What each text loses when its tokens are their codes, so that methods can be compared in pairs."""
    names = [name for name in outcome.column_names if name.startswith(("kl_coded", "squared_change_coded"))]
    columns = {name: outcome[name][:] for name in ("text_id", *names)}
    # In units of what the mean leaves of a text on average, so that 1 - their mean is the explained variance.
    for name, residual, reference in (
        ("unexplained", "residual_code", "residual_mean"),
        ("unexplained_within_class", "residual_cell", "residual_class"),
    ):
        known = outcome[reference][:]
        scale = None if None in known else np.mean(known)
        if scale:
            columns[name] = [value / scale for value in outcome[residual][:]]
    return {
        name: [value if isinstance(value, int) else round(value, 6) for value in values]
        for name, values in columns.items()
        if None not in values
    }


def _headline(outcome: Dataset, settings: EvaluationSettings) -> dict[str, Any]:
    """Token specificity on matched draws, and on all texts, where the nearest other concept stands in."""
    rows = outcome.to_pandas()
    salient = rows[rows["condition"] == "salient"]
    matched = rows[(rows["condition"] == "salient") | rows["matched"]]
    options = {"num_bootstrap": settings.num_bootstrap, "seed": settings.seed, "details": True}
    figures = ablation_drop(rows.to_dict("list"), **options)
    strict = ablation_drop(matched.to_dict("list"), **options)
    per_text = figures["differences"]["token_specificity"]
    strictly = strict["differences"]["token_specificity"]
    of_matched = dict(zip(strictly["text_id"], strictly["margin_change"], strict=True))
    names = [f"token_specificity{end}" for end in ("", "_low", "_high")]
    return {
        **{name: figures[name] for name in names},
        **{name.replace("specificity", "specificity_matched"): strict[name] for name in names},
        "num_texts": len(salient),
        "num_matched": len(of_matched),
        "margin_change": figures["salient_margin_change"],
        "flip_rate": figures["salient_flip_rate"],
        **{name: float(salient[name].mean()) for name in ("num_positions", "removed_norm", "removed_energy")},
        # Of every text, so that methods can be compared in pairs; None where no draw matched.
        "text_id": per_text["text_id"],
        "differences": [round(value, 5) for value in per_text["margin_change"]],
        "matched_differences": [
            round(of_matched[text], 5) if text in of_matched else None for text in per_text["text_id"]
        ],
    }


def _stability(building: Path, reference: Path) -> dict[str, Any]:
    """Agreement with the cell of the first seed, on the same test tokens."""
    sides = []
    for folder in (building, reference):
        table = ConceptTable.load_from_disk(folder / "evaluation" / "concept_table")
        model = ConceptModel.from_pretrained(folder / "model")
        sides.append((table.metric_inputs()["codes"], model.codebook.detach().numpy()))
    (codes, codebook), (reference_codes, reference_codebook) = sides
    return _shortened(stability(codes, reference_codes, codebook, reference_codebook))


def _shortened(figures: dict[str, Any]) -> dict[str, Any]:
    """Numbers and a few examples; figures per code or text stay in the cell's folder."""
    plain = {name: value for name, value in figures.items() if not isinstance(value, list | dict)}
    return plain | {name: figures[name][:5] for name in ("examples",) if figures.get(name)}


__all__ = ["cell_folder", "lacks_stability", "open_cell", "run_cell"]
