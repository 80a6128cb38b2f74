"""`Folded`: an edit as a plain model of transformers, in its weights or distilled, and how far it is from the hook."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checksums import read_metadata, write_metadata
from ..data.batching import batches_by_length
from ..data.readouts import text_limit
from ..data.texts import split_texts, texts_fingerprint
from ..data.tokenization import TextCollator, ensure_pad_token, tokenize_texts
from ..files import replaced, write_whole
from ..hosts import hooks
from ..hosts.distillation import Batch, compare_logits, distil
from ..hosts.folding import fold_into_embedding, fold_into_readers
from ..hosts.readout import Readout
from ..hosts.runner import HostRunner
from ..hub.provenance import is_hub_id
from ..hub.repositories import CARD_NAME, CONFIG_NAME, EDITS_NAME, TOKENIZER_FILES, WEIGHTS, matches_any
from ..rendering.markdown import escape_markdown
from ..rendering.text_tables import ReportTable, number, percent, to_markdown

# Of the texts: trained on, looked at to stop in time, and measured.
SHARES = {"fold": 0.7, "stop": 0.1, "measure": 0.2}
# By other digits than files and their parts are cut by, of which the texts may be one.
FIRST_DIGIT = 8
MIN_TEXTS = 20
# An exact fold differs from the hook by rounding only: relative to the largest logit.
ROUNDING = 1e-4
# Files of a folder that may be replaced: what an edit and its retest write.
OWN_FILES = (
    *(EDITS_NAME, "retest.json", "retest.html", CARD_NAME, CONFIG_NAME, "generation_config.json"),
    *(*WEIGHTS, *TOKENIZER_FILES),
)
# A copy whose answers differ so little from the hook's (nats) has nothing to learn.
NOTHING_TO_LEARN = 1e-4


@dataclass(frozen=True, repr=False)
class Folded:
    """A host that has an edit in its weights.

    Attributes:
        host (`PreTrainedModel`): A plain model of transformers.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        facts (`dict`): What was edited, and under `folded`: `method` (`"weights"` or `"distilled"`), its settings, the
            texts, and `differences` from the hook on texts that it was not trained on: of all of them, of those
            `with_concept`, and for comparison `unedited`, those of the host without the edit.
    """

    host: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: dict[str, Any]

    @property
    def is_exact(self) -> bool:
        """`bool`: Whether the weights do what the hook does, up to rounding."""
        return self.facts["folded"]["method"] == "weights"

    @property
    def differences(self) -> dict[str, Any]:
        """`dict`: Between the hook and this host, on texts that it was not trained on."""
        return self.facts["folded"]["differences"]["all"]

    def sentences(self) -> list[str]:
        """What was done, and how far the result is from the hook."""
        folded = self.facts["folded"]
        how = (
            "The edit is in the weights exactly, up to rounding."
            if self.is_exact
            else f"The edit is distilled: {folded['settings']['best_step']} steps on {folded['num_texts']['fold']:,} "
            "texts."
        )
        told = [how]
        for name, where in (("all", "held-out texts"), ("with_concept", "of them with the concept")):
            found = folded["differences"][name]
            if found is None:
                told.append("None of the held-out texts has the concept, so this says nothing about them.")
                continue
            same = "" if found["agreement"] is None else f"{percent(found['agreement'])} equal predictions; "
            largest = (
                f"largest difference of the output {found['largest_logit']:.3g}"
                if found["largest_probability"] is None
                else f"probabilities differ by {found['mean_probability']:.4f} on average and "
                f"{found['largest_probability']:.4f} at most; KL {found['kl']:.2g}"
            )
            told.append(f"Hook and folded model on {found['num_rows']:,} {where}: {same}{largest}.")
        return told

    def __repr__(self) -> str:
        return f"Folded({type(self.host).__name__}, {' '.join(self.sentences())!r})"

    def save(self, folder: str | Path) -> None:
        """Write a folder that transformers loads without this library: weights, config, tokenizer, card, `edits.json`.

        An earlier folder is replaced when this one is complete.

        Raises:
            ValueError: If the folder exists, and holds something else than an earlier edit.
        """
        check_replaceable_by_edit(folder)
        with replaced(folder) as building:
            self.write(building)

    def write(self, folder: Path) -> None:
        """Write the files into a folder that exists."""
        self.host.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_whole(folder / CARD_NAME, edited_card(self))
        write_metadata(folder / EDITS_NAME, self.facts, [file.name for file in sorted(folder.glob("*.safetensors"))])


def check_replaceable_by_edit(folder: str | Path) -> None:
    """Refuse a folder with files that are no earlier edit's.

    Raises:
        ValueError: If it is one.
    """
    folder = Path(folder)
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(name for name in names if not matches_any(name, OWN_FILES))
    # `edit.save` may have put its file beside a model that is not its own.
    if others or (names and EDITS_NAME not in names) or (CONFIG_NAME in names and not _is_folded(folder)):
        what = others[0] if others else "another model" if CONFIG_NAME in names else "other files"
        raise ValueError(f"{folder} holds {what}, which would be lost. Choose another folder.")


def _is_folded(folder: Path) -> bool:
    return "folded" in read_metadata(folder / EDITS_NAME, "Choose another folder.")[0]


def fold(
    edit: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Dataset,
    *,
    text_column: str = "text",
    max_length: int | None = None,
    max_steps: int = 150,
    learning_rate: float = 5e-5,
    batch_size: int = 16,
    seed: int = 0,
) -> Folded:
    """See [`ConceptEdit.fold`][clvq_hf.models.ConceptEdit.fold]; the edit must not be applied."""
    if hasattr(edit.host, "peft_config"):
        raise ValueError("The host has an adapter (PEFT), whose weights are apart. Fold into host.merge_and_unload().")
    host = hooks.unwrap(edit.host)
    readout = Readout.default(host)
    ensure_pad_token(tokenizer)
    parts = split_texts(texts, SHARES, text_column, start=FIRST_DIGIT)
    if min(map(len, parts.values())) < 2 or len(texts) < MIN_TEXTS:
        raise ValueError(
            f"{len(texts)} texts are too few to fold an edit and to measure the result; give some hundreds of the kind "
            "that the host reads."
        )
    limit = text_limit(host, tokenizer, max_length, readout)
    batches = _Batches(edit, tokenizer, readout, limit, batch_size)
    read = {name: batches.read(part, text_column) for name, part in parts.items()}

    def teach(inputs: Mapping[str, Any]) -> torch.Tensor:
        with edit:
            return host(**inputs).logits

    def plain(model: PreTrainedModel) -> Callable[[Mapping[str, Any]], torch.Tensor]:
        return lambda inputs: model(**inputs).logits

    with hooks.evaluation_mode(host):
        measured = read["measure"]
        folded = _exactly(edit, measured.batches()[0][0])
        method, settings = "weights", {}
        if folded is not None:
            found = compare_logits(teach, plain(folded), measured.batches(), readout.kind)
            if found.largest_logit > ROUNDING * max(1.0, _largest(teach, measured.batches())):
                folded = None  # something else reads these states, or a sink stays in the hook
        if folded is None:
            method = "distilled"
            if not read["fold"].has_concept.any():
                raise ValueError(
                    f"None of the {len(read['fold']):,} texts that the copy would be trained on has the concept, so it "
                    "could learn nothing. Give texts that have it with texts=… (--fold-texts)."
                )
            folded, settings = distil(
                *(host, teach, read["fold"].drawn(seed), read["stop"].batches(), readout.kind),
                max_steps=max_steps,
                learning_rate=learning_rate,
            )
            if settings["best_step"] == 0 and settings["held_out_loss"] > NOTHING_TO_LEARN:
                raise ValueError(
                    f"After {settings['steps']} steps the copy is no nearer to the edit than the host itself. Train "
                    "longer (max_steps=…), with another learning_rate=…, or on more texts that have the concept."
                )
            settings |= {
                "max_steps": max_steps,
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "seed": seed,
            }
        differences = {
            "all": compare_logits(teach, plain(folded), measured.batches(), readout.kind),
            "with_concept": compare_logits(teach, plain(folded), measured.batches(True), readout.kind)
            if measured.has_concept.any()
            else None,
            "unedited": compare_logits(teach, plain(host), measured.batches(), readout.kind),
        }
    facts = {
        "method": method,
        "settings": settings,
        "texts": texts_fingerprint(texts, (text_column,)),
        "num_texts": {name: len(part) for name, part in read.items()},
        "num_with_concept": {name: int(part.has_concept.sum()) for name, part in read.items()},
        "differences": {name: None if found is None else found.to_dict() for name, found in differences.items()},
    }
    return Folded(folded, tokenizer, {**edit.facts(), "folded": facts})


def _exactly(edit: Any, inputs: Mapping[str, Any]) -> PreTrainedModel | None:
    """A copy of the host with the edit in its weights, if there is a way that could be exact."""
    config = edit.model.config
    if edit.how == "project" and edit.positions == "all":
        found = fold_into_readers(edit.host, inputs, config.lower_layer, edit.basis, edit.centre, stack=config.stack)
        if found is not None:
            return found
    if config.lower_layer == 0:
        return fold_into_embedding(edit.host, inputs, lambda *args: edit.changed(*args)[0], stack=config.stack)
    return None


def _largest(teach: Callable[[Mapping[str, Any]], torch.Tensor], batches: Sequence[Batch]) -> float:
    with torch.no_grad():
        return max(float(teach(inputs).abs().max()) for inputs, _ in batches)


class _Batches:
    """Reads texts for the host."""

    def __init__(
        self, edit: Any, tokenizer: PreTrainedTokenizerBase, readout: Readout, limit: int | None, batch_size: int
    ) -> None:
        self.edit, self.tokenizer, self.readout = edit, tokenizer, readout
        self.runner = HostRunner(edit.host, edit.model.config.stack, readout)
        self.collate, self.limit, self.batch_size = TextCollator(tokenizer), limit, batch_size

    def read(self, texts: Dataset, text_column: str) -> "_Texts":
        return _Texts(self, tokenize_texts(texts, self.tokenizer, text_column, self.limit))

    def batch(self, rows: Mapping[str, torch.Tensor]) -> Batch:
        mask = rows["attention_mask"].bool()
        where = torch.ones(len(mask), dtype=torch.bool) if self.readout.of_texts else mask
        return self.runner.inputs(rows), where


class _Texts:
    """Some texts, and which of them have the concept."""

    def __init__(self, batches: _Batches, tokenized: Dataset) -> None:
        self._batches, self._tokenized = batches, tokenized
        self.has_concept = np.zeros(len(tokenized), dtype=bool)
        edit, config = batches.edit, batches.edit.model.config
        with torch.no_grad():
            for numbers, rows in batches_by_length(tokenized, batches.collate, batches.batch_size):
                inputs = batches.runner.inputs(rows)
                states = hooks.run(edit.host, inputs, [config.lower_layer], stack=config.stack)[config.lower_layer]
                codes = edit.codes(states, rows["attention_mask"].bool().to(states.device)).cpu().numpy()
                # As in an audit and a retest, special tokens do not count.
                self.has_concept[numbers] = (np.isin(codes, edit.forbid) & rows["token_mask"].bool().numpy()).any(-1)

    def __len__(self) -> int:
        return len(self._tokenized)

    def batches(self, with_concept: bool = False) -> list[Batch]:
        """All of them, or those with the concept, once."""
        rows = np.flatnonzero(self.has_concept) if with_concept else None
        made = batches_by_length(self._tokenized, self._batches.collate, self._batches.batch_size, rows)
        return [self._batches.batch(batch) for _, batch in made]

    def drawn(self, seed: int) -> Iterator[Batch]:
        """Endless batches: every other text has the concept, however rare it is, because there the edit acts."""
        generator, size = np.random.default_rng(seed), self._batches.batch_size
        groups = [np.flatnonzero(self.has_concept == has_it) for has_it in (True, False)]
        streams = [_endless(group, generator) for group in groups if len(group)]
        while True:
            rows = [next(streams[place % len(streams)]) for place in range(size)]
            yield self._batches.batch(self._batches.collate(self._tokenized.select(rows).to_list()))


def _endless(rows: np.ndarray, generator: np.random.Generator) -> Iterator[int]:
    """Rows in random order, again and again."""
    while True:
        yield from generator.permutation(rows).tolist()


def edited_card(folded: Folded) -> str:
    """The card of the folder: what was edited, how it was folded, how far it is from the hook, and how it is loaded."""
    facts, name = folded.facts, folded.facts["host"]["name"]
    parts = facts["folded"]
    kind = type(folded.host).__name__
    data = ModelCardData(
        library_name="transformers",
        tags=["clvq-hf", "edited"],
        base_model=name if is_hub_id(name) else None,
        base_model_relation="finetune" if is_hub_id(name) else None,
    )
    rows = [
        [
            title,
            *(_cell(found, key) for key in ("num_rows", "agreement", "mean_probability", "largest_probability", "kl")),
        ]
        for title, found in (
            ("folded model", parts["differences"]["all"]),
            ("folded model, texts with the concept", parts["differences"]["with_concept"]),
            ("the host without the edit", parts["differences"]["unedited"]),
        )
        if found is not None
    ]
    header = ["beside the hook", "number", "equal predictions", "mean difference of p", "largest", "KL (nats)"]
    edited = ReportTable.from_rows(
        "What was edited",
        [
            {"name": title, "value": str(value)}
            for title, value in (
                ("host", name or "not named"),
                ("its weights", facts["host"]["weights"]),
                ("concept model", facts["concept_model"] or "not named"),
                ("its fingerprint", facts["fingerprint"][:16]),
                ("concepts", ", ".join(map(str, facts["forbid"]))),
                ("layer", facts["layer"]),
                ("how", facts["how"]),
                ("at", "tokens with these concepts" if facts["positions"] == "code" else "all tokens"),
                ("clvq-hf", facts["clvq_hf"]),
            )
        ],
    )
    text = "\n".join(
        [
            f"# {escape_markdown(name or kind)}, edited",
            "",
            "Concepts were removed from a model, and the result put into its weights. It is loaded without further "
            "libraries:",
            "",
            "```python",
            f"from transformers import AutoTokenizer, {kind}",
            "",
            f'model, tokenizer = {kind}.from_pretrained("…"), AutoTokenizer.from_pretrained("…")',
            "```",
            "",
            *(escape_markdown(sentence) for sentence in folded.sentences()),
            "",
            to_markdown([edited, ReportTable("How far it is from the hook", header, rows)]),
        ]
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _cell(found: Mapping[str, Any], key: str) -> str:
    value = found[key]
    if key == "num_rows":
        return f"{value:,}"
    return percent(value) if key == "agreement" else number(value, 4)


__all__ = ["Folded", "check_replaceable_by_edit", "fold"]
