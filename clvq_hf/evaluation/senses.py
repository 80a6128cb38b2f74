"""Does a code say in which sense its word is used? A token's code is exchanged for another one of the same word."""

from collections import defaultdict

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from scipy.stats import t
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batching import batches_by_length
from ..data.tokenization import TextCollator, ensure_pad_token, tokenize_texts
from ..hosts import hooks
from ..hosts.readout import Readout
from ..hosts.resume import resume
from ..hosts.runner import HostRunner
from ..models.interventions import find_sinks
from ..models.modeling_concepts import ConceptModel
from ..tables.concept_table import ConceptTable
from .ablation.outcomes import MAX_CLASSES
from .ablation.texts import text_generator
from .occurrences import MIN_OF_CODE, Occurrences

# Tokens that are changed in each text, one at a time.
NUM_TOKENS = 4
CHANGES = ("exchange", "other", "same")
PRODUCTS = ("exchange_other", "exchange_same")


def exchange_senses(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    occurrences: Occurrences,
    *,
    readout: Readout | None = None,
    num_tokens: int = NUM_TOKENS,
    batch_size: int = 32,
    seed: int = 0,
) -> Dataset:
    """Replace single tokens by real occurrences of the same word, and exchange only what their codes say.

    Which tokens are changed, and which occurrence is put in the place of each, does not depend on the codes, so
    methods are asked about the same changes.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are, with a head.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the texts.
        occurrences ([`Occurrences`][clvq_hf.evaluation.Occurrences]): Of training texts:
            `fit_references(…).occurrences`.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): What the host is asked; what the table's
            predictions answer if not given.
        num_tokens (`int`): Tokens of each text that are changed at most, one at a time.
        batch_size (`int`): Texts per host forward.
        seed (`int`): Seed of all draws.

    Returns:
        `datasets.Dataset`: One row per token: `text_id`, `position`, `code`, `other_code` (of the occurrence in its
        place), `exchanged` (whether both codes are known of the word, and differ); the squared size of the change of
        the host's answer under `exchange` (`x - μ_cw + μ_c'w`; 0 where nothing is exchanged), `other` (the occurrence
        in its place) and `same` (an occurrence of the word with the token's own code; 0 if there is none), and the
        inner products `exchange_other` and `exchange_same`. The answer is the row of log-probabilities less its
        mean; the size a mean square over classes, and over a vocabulary weighted by the plain probabilities. Of a
        regression it is the output, less its mean with 0.

    Raises:
        ValueError: If the table is of another model or host.
    """
    model.check_host(host)
    table.check_model(model)
    table.check_host(host, tokenizer)
    readout = readout or table.readout or Readout.of(host)
    ensure_pad_token(tokenizer)
    config = model.config
    runner = HostRunner(host, config.stack, readout)
    tokenized = tokenize_texts(table.texts, tokenizer, "text", table.metadata["max_length"])
    ids, codes = np.asarray(table.texts["text_id"][:]), table.column("code")
    columns: dict[str, list] = defaultdict(list)
    batches = batches_by_length(tokenized, TextCollator(tokenizer), batch_size)
    with torch.no_grad(), hooks.evaluation_mode(host):
        for _, batch in tqdm(batches, desc="Exchanging senses", unit="batch", total=-(-len(tokenized) // batch_size)):
            mask = batch["attention_mask"].bool()
            upper = resume(host, runner.inputs(batch), config.lower_layer, config.stack)
            state = upper.state[:, : mask.shape[1]]
            sinks = find_sinks(host, config.stack, config.lower_layer, state, mask.to(state.device)).cpu()
            content = (batch["token_mask"].bool() & mask & ~sinks).numpy()
            texts = ids[batch["text_index"].numpy()]
            changes = [
                _changes_of_text(
                    int(text),
                    np.flatnonzero(own),
                    words.numpy(),
                    codes[table.token_rows(int(text))],
                    occurrences,
                    num_tokens,
                    seed,
                )
                for text, own, words in zip(texts, content, batch["input_ids"], strict=True)
            ]
            plain = readout(upper.output, mask, batch["token_mask"]).cpu().double()
            for number in range(max(map(len, changes))):
                rows = [row for row, own in enumerate(changes) if len(own) > number]
                chosen = [changes[row][number] for row in rows]
                places = torch.tensor([change["position"] for change in chosen])
                where = torch.zeros_like(mask)
                where[rows, places] = True
                effect = {}
                for name in CHANGES:
                    new = state.clone()
                    vectors = torch.stack([change[name] for change in chosen]).to(state)
                    # An exchange moves the token's own state; the others replace it.
                    new[rows, places] = new[rows, places] + vectors if name == "exchange" else vectors
                    missing = [not change[f"has_{name}"] for change in chosen]
                    logits = readout(upper(upper.with_texts(new, where)), mask, batch["token_mask"])
                    effect[name] = _change(plain[rows], logits.cpu().double()[rows], readout)
                    effect[name][missing] = 0
                columns["text_id"] += texts[rows].tolist()
                for name in ("position", "code", "other_code"):
                    columns[name] += [int(change[name]) for change in chosen]
                columns["exchanged"] += [change["has_exchange"] for change in chosen]
                for name in CHANGES:
                    columns[name] += effect[name].square().sum(-1).tolist()
                for name in CHANGES[1:]:
                    columns[f"exchange_{name}"] += (effect["exchange"] * effect[name]).sum(-1).tolist()
    if not columns:
        return Dataset.from_dict({name: [] for name in ("text_id", "exchanged", *CHANGES, *PRODUCTS)})
    return Dataset.from_dict(columns).sort(["text_id", "position"])


def _change(plain: torch.Tensor, logits: torch.Tensor, readout: Readout) -> torch.Tensor:
    """Changes `(B, C)` of the answers, from logits `(B, C)`, scaled so that squared sizes are weighted means."""
    if readout.has_probabilities:
        plain, logits = plain.log_softmax(-1), logits.log_softmax(-1)
    few = plain.shape[-1] <= MAX_CLASSES
    weights = torch.full_like(plain, 1 / plain.shape[-1]) if few else plain.exp()
    change = logits - plain
    return (change - (weights * change).sum(-1, keepdim=True)) * weights.sqrt()


def _changes_of_text(
    text_id: int,
    content: np.ndarray,
    words: np.ndarray,
    codes: np.ndarray,
    occurrences: Occurrences,
    num_tokens: int,
    seed: int,
) -> list[dict]:
    """What is put in the place of some tokens of a text, in the order of their positions."""
    generator = text_generator(seed, text_id, "senses")
    known = [place for place in content if (part := occurrences.of_word(int(words[place]))).stop > part.start]
    drawn = sorted(generator.permutation(known)[:num_tokens].astype(int).tolist())
    # Of all tokens first, so that these draws do not depend on codes.
    others = [int(generator.integers(part.start, part.stop)) for part in _parts(occurrences, words[drawn])]
    changes = []
    for place, other, part in zip(drawn, others, _parts(occurrences, words[drawn]), strict=True):
        own_codes, states = occurrences.codes[part], occurrences.states[part]
        code, other_code = int(codes[place]), int(occurrences.codes[other])
        same = np.flatnonzero((own_codes == code).numpy())
        alike = own_codes == other_code
        # Its own state is not in the mean, or an exchange would carry a part of it whatever codes say.
        alike[other - part.start] = False
        has_exchange = code != other_code and min(len(same), int(alike.sum())) >= MIN_OF_CODE
        changes.append(
            {
                "position": place,
                "code": code,
                "other_code": other_code,
                "exchange": states[alike].mean(0) - states[same].mean(0)
                if has_exchange
                else torch.zeros_like(states[0]),
                "other": occurrences.states[other],
                "same": states[generator.choice(same)] if len(same) else states[0],
                "has_exchange": has_exchange,
                "has_other": True,
                "has_same": len(same) > 0,
            }
        )
    return changes


def _parts(occurrences: Occurrences, words: np.ndarray) -> list[slice]:
    return [occurrences.of_word(int(word)) for word in words]


def sense_figures(outcome: Dataset) -> dict[str, float | int | None]:
    """Figures of [`exchange_senses`][clvq_hf.evaluation.exchange_senses], with 95 % intervals over texts.

    Args:
        outcome (`datasets.Dataset`): One row per token.

    Returns:
        `dict`: `sense_share`, how far an exchange moves the host's answer towards where another occurrence of the word
        moves it, less what it moves along the change by an occurrence with the same code, as a share of the lengths
        of the former changes: 0 if codes say nothing beyond the word, 1 if everything that the host reads; with
        `_low` and `_high`. `control_share`, what was subtracted. `exchanged_share`, the same over the tokens whose code
        was exchanged. None without any, as for a method with one code per word type. `exchange_effect`,
        `other_effect`, `same_effect`, mean lengths of the changes of these tokens; `num_tokens`, `num_exchanged`,
        `num_texts`.
    """
    frame = outcome.to_pandas()
    lengths = frame[[*CHANGES]].clip(lower=0) ** 0.5
    towards, along = (
        _projection(frame[name], longer, lengths["other"])
        for name, longer in (
            ("exchange_other", lengths["other"]),
            # A short change has hardly a direction, and no more weight than its length.
            ("exchange_same", lengths[["same", "other"]].max(axis=1)),
        )
    )
    chosen = frame["exchanged"].astype(bool)
    figures: dict[str, float | int | None] = {}
    parts = {"sense_share": (towards - along, chosen | True), "control_share": (along, chosen | True)}
    parts["exchanged_share"] = (towards - along, chosen)
    for name, (moved, rows) in parts.items():
        whole = lengths["other"][rows].groupby(frame["text_id"][rows]).sum().to_numpy()
        figures |= {name: None, f"{name}_low": None, f"{name}_high": None}
        if chosen.any() and whole.sum() > 0:
            carried = moved[rows].groupby(frame["text_id"][rows]).sum().to_numpy()
            low, high = _ratio_interval(carried, whole)
            figures |= {name: float(carried.sum() / whole.sum()), f"{name}_low": low, f"{name}_high": high}
    for name in CHANGES:
        figures[f"{name}_effect"] = float(lengths[name][chosen].mean()) if chosen.any() else None
    sizes = {"num_tokens": len(frame), "num_exchanged": int(chosen.sum())}
    return figures | sizes | {"num_texts": int(frame["text_id"].nunique())}


def _projection(product: pd.Series, length: pd.Series, limit: pd.Series) -> pd.Series:
    """Product ÷ length, 0 where there is no length; at most `limit` either way: who overshoots carries no more."""
    return (product / length.where(length > 0, np.inf)).clip(-limit, limit)


def _ratio_interval(values: np.ndarray, reference: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of Σ values ÷ Σ reference, of any sign: a jackknife over texts with Student's t."""
    size = len(values)
    remaining = reference.sum() - reference
    if size < 2 or remaining.min() <= 0:
        return None, None
    without = (values.sum() - values) / remaining
    half_width = t.ppf(0.975, size - 1) * np.sqrt((size - 1) * without.var())
    centre = values.sum() / reference.sum()
    return float(centre - half_width), float(centre + half_width)


__all__ = ["exchange_senses", "sense_figures"]
