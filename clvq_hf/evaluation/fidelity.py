"""Code fidelity: what a host still says when each token is no more than its code."""

import sys
from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from scipy.stats import entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.batching import batches_by_length, split_batch
from ..data.tokenization import TextCollator, ensure_pad_token, tokenize_texts
from ..hosts import hooks
from ..hosts.readout import Readout
from ..hosts.resume import resume
from ..hosts.runner import HostRunner
from ..models.interventions import find_sinks
from ..models.modeling_concepts import ConceptModel
from ..tables.concept_table import ConceptTable
from .bottleneck import ratio_interval
from .code_statistics import CodeStatistics, nearest_vectors

# Tokens whose logits over a vocabulary are held at once: 200 MB in float32 for one of 50,000, a few times over.
MAX_VOCABULARY_TOKENS = 1024
# What stands in for a token: see `fidelity_texts`.
CONDITIONS = ("coded", "coded_all", "word", "random", "class", "mean")
# What estimates a token's upper state.
ESTIMATES = ("code", "cell", "word", "random", "class", "mean")


def fidelity_texts(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    statistics: CodeStatistics,
    *,
    readout: Readout | None = None,
    batch_size: int = 32,
) -> Dataset:
    """Replace each token's state at `lower_layer` by a mean state of training tokens, and let the host go on.

    Special tokens and attention sinks stay. What stands in for a token is, by condition:

    - `coded`: the mean state of the tokens with its code;
    - `coded_all`: the same, also for special tokens, which get the mean of all tokens with their code;
    - `word`: the mean state of its token type;
    - `random`: the mean state of the tokens that are nearest to the same of `K` random token states;
    - `class`: the mean state of the tokens of texts with the same prediction;
    - `mean`: the mean state of all tokens.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are, with a head.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the texts.
        statistics ([`CodeStatistics`][clvq_hf.evaluation.CodeStatistics]): Of training texts; `references.statistics`.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): What the host is asked; what the table's
            predictions answer if not given.
        batch_size (`int`): Texts per host forward.

    Returns:
        `datasets.Dataset`: One row per text: `text_id`, `num_tokens`, `codes` (of these tokens), and by condition
        `kl_…` (`KL(plain‖…)` in nats: of the row of logits, or of a host that is asked for the next token the mean over
        all tokens of the text; of a regression null, and there is `squared_change_…`). Sums over the tokens and
        dimensions of squared errors at `upper_layer`, in units of each dimension's variance: `residual_code`,
        `residual_cell` (code within the predicted class), `residual_word`, `residual_random`, `residual_class` and
        `residual_mean`. What is of classes is null if the host chooses none.

    Raises:
        ValueError: If table or statistics are of another model.
    """
    model.check_host(host)
    table.check_model(model)
    table.check_host(host, tokenizer)
    if statistics.fingerprint != model.fingerprint():
        raise ValueError("These statistics are of another model's codes. Make them again with fit_references.")
    readout = readout or table.readout or Readout.of(host)
    ensure_pad_token(tokenizer)
    config = model.config
    runner = HostRunner(host, config.stack, readout)
    ids = np.asarray(table.texts["text_id"][:])
    tokenized = tokenize_texts(table.texts, tokenizer, "text", table.metadata["max_length"])
    columns: dict[str, list] = defaultdict(list)
    whole = (batch for _, batch in batches_by_length(tokenized, TextCollator(tokenizer), batch_size))
    limit = MAX_VOCABULARY_TOKENS if readout.kind == "next_token" else sys.maxsize
    batches = (piece for batch in whole for piece in split_batch(batch, limit))
    with (
        torch.no_grad(),
        hooks.evaluation_mode(host),
        tqdm(desc="Coding texts", unit="text", total=len(tokenized)) as bar,
    ):
        for batch in batches:
            mask, token_mask = batch["attention_mask"].bool(), batch["token_mask"].bool()
            width = mask.shape[1]
            with hooks.capture(host, [config.upper_layer], stack=config.stack) as captured:
                run = resume(host, runner.inputs(batch), config.lower_layer, config.stack)
                upper = captured[config.upper_layer][:, :width].float().cpu()
            lower = run.state[:, :width]
            sinks = find_sinks(host, config.stack, config.lower_layer, lower, mask.to(lower.device)).cpu()
            counted = token_mask & ~sinks
            codes = model.encode(lower.to(model.device), mask.to(model.device)).cpu()
            answer = _answers(readout, run.output, mask, batch["token_mask"])
            of_text = None
            if statistics.num_classes:
                of_text = (
                    readout.predict(readout(run.output, mask, batch["token_mask"])).cpu()[:, None].expand_as(codes)
                )
            nearest = nearest_vectors(lower, statistics.random_states).cpu()
            states, estimates = _stand_ins(statistics, codes, batch["input_ids"], nearest, of_text)
            new: dict[str, list] = {
                "text_id": ids[batch["text_index"].numpy()].tolist(),
                "num_tokens": counted.sum(-1).tolist(),
                "codes": [row[here].tolist() for row, here in zip(codes, counted, strict=True)],
            }
            for name in CONDITIONS:
                if name not in states:
                    new |= {f"{kind}_{name}": [None] * len(mask) for kind in ("kl", "squared_change")}
                    continue
                where = mask & ~sinks if name == "coded_all" else counted
                output = run(run.with_texts(states[name], where))
                new |= _losses(readout, answer, _answers(readout, output, mask, batch["token_mask"]), mask, name)
            for name in ESTIMATES:
                if name not in estimates:
                    new[f"residual_{name}"] = [None] * len(mask)
                    continue
                errors = ((upper - estimates[name]) / statistics.upper_scale).square().sum(-1)
                new[f"residual_{name}"] = (errors.double() * counted).sum(-1).tolist()
            for name, values in new.items():
                columns[name] += values
            bar.update(len(mask))
    return Dataset.from_dict(columns).sort("text_id")


def _stand_ins(
    statistics: CodeStatistics,
    codes: torch.Tensor,
    input_ids: torch.Tensor,
    nearest: torch.Tensor,
    of_text: torch.Tensor | None,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What stands in for each token at the lower layer, by condition, and what estimates its upper state."""
    # An id that no token has stands for the mean of all.
    none = torch.full_like(codes, -1)
    sources = {
        "code": (statistics.codes, codes),
        "word": (statistics.words, input_ids),
        "random": (statistics.random_codes, nearest),
        "mean": (statistics.codes, none),
    }
    if of_text is not None:
        sources["class"] = statistics.classes, of_text
    lower = {name: means.lower_of(ids) for name, (means, ids) in sources.items()}
    upper = {name: means.upper_of(ids) for name, (means, ids) in sources.items()}
    lower["coded"] = lower.pop("code")
    lower["coded_all"] = statistics.codes_with_special.lower_of(codes)
    if of_text is not None:
        # A code that never occurred in a class says no more than the class.
        rows = statistics.cells.rows(codes * statistics.num_classes + of_text)
        is_unseen = (rows == len(statistics.cells.ids))[..., None]
        upper["cell"] = torch.where(is_unseen, upper["class"], F.embedding(rows, statistics.cells.upper))
    return lower, upper


def _answers(readout: Readout, output: Any, mask: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """Logits `(B, 1, C)` of the answers, or `(B, S, V)` after every token of a host that is asked for the next one."""
    if readout.kind == "next_token":
        return output.logits[:, : mask.shape[1]].float()
    return readout(output, mask, token_mask)[:, None]


def _losses(
    readout: Readout, plain: torch.Tensor, changed: torch.Tensor, mask: torch.Tensor, name: str
) -> dict[str, list]:
    size = len(plain)
    if not readout.has_probabilities:
        change = (changed - plain).double().square().sum((-1, -2))
        return {f"kl_{name}": [None] * size, f"squared_change_{name}": change.tolist()}
    where = mask.to(plain.device) if plain.shape[1] == mask.shape[1] > 1 else torch.ones_like(plain[..., 0]).bool()
    wide = plain.double() if plain.shape[1] == 1 else plain
    kl = F.kl_div(changed.to(wide).log_softmax(-1), wide.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    kl = torch.where(where, kl, 0).double().sum(-1) / where.sum(-1).clamp(min=1)
    return {f"kl_{name}": kl.clamp(min=0).tolist(), f"squared_change_{name}": [None] * size}


def fidelity_figures(outcome: Dataset) -> dict[str, float | int | None]:
    """Figures of [`fidelity_texts`][clvq_hf.evaluation.fidelity_texts], with 95 % intervals over texts.

    Args:
        outcome (`datasets.Dataset`): One row per text.

    Returns:
        `dict`: `code_fidelity` = 1 - ΣKL(coded) / ΣKL(mean), 1 if codes say all that the host reads, 0 if no more than
        the mean state; `fidelity_beyond_class` = 1 - ΣKL(coded) / ΣKL(class), 0 if codes say no more than the class;
        `code_fidelity_all_tokens`, `word_fidelity`, `random_fidelity`, `class_fidelity`, of the other conditions;
        `bits_per_token`, the entropy of the codes; `explained_variance` of the upper states by codes (1 - residual ÷
        that of the mean), `explained_variance_within_class` (1 - residual of cells ÷ that of the class), and
        `word_…`, `random_…` and `class_explained_variance`; `num_texts`. What is of codes has `_low` and `_high`. None
        where the denominator is zero or the host chooses no classes. Of a regression they are of the squared change of
        the output, in place of KL.
    """
    frame = outcome.to_pandas()
    lost = "squared_change" if frame["kl_mean"].isna().all() else "kl"

    def ratio(name: str, numerator: str, denominator: str, interval: bool = False) -> dict[str, float | None]:
        ends = ("", "_low", "_high") if interval else ("",)
        values, reference = frame[numerator], frame[denominator]
        if values.isna().any() or reference.isna().any() or not reference.sum() > 0:
            return {f"{name}{end}": None for end in ends}
        low, high = ratio_interval(values.to_numpy(float), reference.to_numpy(float)) if interval else (0, 0)
        figures = (1 - values.sum() / reference.sum(), 1 - high, 1 - low)
        return {f"{name}{end}": float(figure) for end, figure in zip(ends, figures, strict=False)}

    codes = np.concatenate([*map(np.asarray, frame["codes"])]).astype(np.int64)
    figures: dict[str, float | int | None] = {
        **ratio("code_fidelity", f"{lost}_coded", f"{lost}_mean", True),
        **ratio("fidelity_beyond_class", f"{lost}_coded", f"{lost}_class", True),
        **ratio("code_fidelity_all_tokens", f"{lost}_coded_all", f"{lost}_mean", True),
        **{
            key: value
            for name in ("word", "random", "class")
            for key, value in ratio(f"{name}_fidelity", f"{lost}_{name}", f"{lost}_mean").items()
        },
        "bits_per_token": float(entropy(np.bincount(codes), base=2)) if len(codes) else None,
        **ratio("explained_variance", "residual_code", "residual_mean", True),
        **ratio("explained_variance_within_class", "residual_cell", "residual_class", True),
        **{
            key: value
            for name in ("word", "random", "class")
            for key, value in ratio(f"{name}_explained_variance", f"residual_{name}", "residual_mean").items()
        },
        "num_texts": len(frame),
    }
    return figures


__all__ = ["fidelity_figures", "fidelity_texts"]
