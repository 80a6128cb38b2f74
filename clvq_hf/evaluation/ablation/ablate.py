"""How much a host depends on the concepts that its predictions rest on: removal, with all controls.

One row per text, condition and draw; the `ablation_drop` metric computes every figure from these rows.

Conditions (what is removed), of which all but `other_code` are removed at the same positions as `salient`:

- `salient`: the concept of the text's salient token.
- `other_code`: another concept of the same text, the nearest in number of positions and removed norm. Under
  `positions="code"` at its own positions.
- `other_text_same`, `other_text_opposite`: the salient concept of another text with the same, with another prediction.
- `random_direction`: a random direction, with the norm that `salient` removes from each token.
- `random_active_code`: the concept of a random token of another text (the paper's control).
- `mean_direction`: the direction of the codebook's mean, which the concepts share.
- `class_ceiling`: the directions in which the classes' mean states differ, on training texts.
- `class_residual`: the salient concept, made orthogonal to those.
- `word_ceiling`: at each position the direction of its token's mean state on training texts: its word alone.
- `word_residual`: the salient concept, made orthogonal to that at each position: what it says beyond the word.
- `leace`: what tells the class linearly (LEACE).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ...data.texts import text_hash
from ...data.tokenization import ensure_pad_token
from ...hosts.readout import Readout
from ...hosts.resume import Resume
from ...models.interventions import check_how
from ...models.projections import orthonormal_rows, project
from ...tables.concept_table import ConceptTable
from .outcomes import outcome_columns
from .reader import Reader, Source
from .references import AblationReferences
from .texts import OtherTexts, TextsOfTable, text_generator

POSITIONS = ("code", "all", "cls", "last")
DRAWN = ("other_code", "other_text_same", "other_text_opposite", "random_direction", "random_active_code")
OF_WORDS = ("word_ceiling", "word_residual")
CONDITIONS = ("salient", *DRAWN, "mean_direction", "class_ceiling", "class_residual", "leace", *OF_WORDS)
# How far the number of positions and the removed norm of a matched code may be off, as a factor.
POSITION_CALIPER, NORM_CALIPER = 1.5, 1.25


@dataclass
class Removal:
    """One condition and draw for a batch.

    Attributes:
        condition (`str`): Its name.
        draw (`int`): Number of the draw.
        states (`torch.Tensor` of shape `(B, S, d)`): What the host goes on with.
        where (`torch.Tensor` of shape `(B, S)`, bool): Positions that are changed.
        code (`np.ndarray` of shape `(B,)`): The code that is removed, -1 if it is none.
        valid (`np.ndarray` of shape `(B,)`, bool): Texts that have this draw.
        matched (`np.ndarray` of shape `(B,)`, bool): Texts whose draw met the calipers.
    """

    condition: str
    draw: int
    states: torch.Tensor
    where: torch.Tensor
    code: np.ndarray
    valid: np.ndarray
    matched: np.ndarray


def ablate_texts(
    model: Any,
    host: Any,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    *,
    protocol: str = "in_model",
    positions: str = "code",
    how: str = "project",
    references: AblationReferences | None = None,
    readout: Readout | None = None,
    conditions: Sequence[str] = CONDITIONS,
    k: int = 1,
    variant: str | None = None,
    num_draws: int = 20,
    batch_size: int = 32,
    seed: int = 0,
) -> Dataset:
    """Remove the salient concept of each text, and everything it has to be compared with.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are, with a head.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        table ([`ConceptTable`][clvq_hf.ConceptTable]): Of the texts, with salience.
        protocol (`str`): `"in_model"`: the host goes on from the changed states. `"probe"`: a probe on the
            representation at `lower_layer` is asked, as in the paper; see
            [`probe_texts`][clvq_hf.evaluation.ablation.probe.probe_texts].
        positions (`str`): `"code"`: where the code occurs in its text (the headline). `"all"`: at every real token:
            mostly removes the class direction, so read it beside `class_ceiling`. `"cls"`, `"last"`.
        how (`str`): `"project"`: `x ← x - QᵀQx`. `"swap"`: `x ← x - e + μ`.
        references ([`AblationReferences`][clvq_hf.evaluation.ablation.references.AblationReferences], *optional*): From training
            texts. Without them the conditions of classes and words, and `leace`, are left out.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): What the host predicts; found if not given.
        conditions (`Sequence[str]`): Which of the above, `salient` among them; all if not given. The probe runs all but
            those of words: it reads representations of whole texts.
        k (`int`): Directions that are removed: those of the token's `k` strongest concepts.
        variant (`str`, *optional*): One of the model's `ablation_variants`; the first if not given.
        num_draws (`int`): Draws a text of the conditions that are drawn.
        batch_size (`int`): Texts a host forward.
        seed (`int`): Seed of the draws; those of a text do not depend on the other texts' order.

    Returns:
        `datasets.Dataset`: One row per text, condition and draw: `text_id`, `condition`, `draw`, `code`, `label`,
        `prediction_plain`, `prediction`, `margin_plain`, `margin` (logit of the plain prediction minus the best other),
        `probability_plain`, `probability` (of the plain prediction), `gold_probability_plain`, `gold_probability`
        (-1 without a label), `kl` (`KL(plain‖ablated)`, nats), `probabilities_plain`, `probabilities` (empty for
        vocabularies), `num_positions`, `removed_norm`, `matched`;
        in the model also `removed_energy`, the share of the squared norm at these positions that was removed.

    Raises:
        ValueError: If the table is of another model or lacks salience, texts were trained on, or an argument is
            unknown.
    """
    _check(model, host, table, references, protocol, positions, how, num_draws, conditions)
    if protocol == "probe":
        from .probe import probe_texts

        if variant is not None:
            raise ValueError("The probe protocol removes the default variant; leave variant out.")
        return probe_texts(model, host, tokenizer, table, k=k, num_draws=num_draws, batch_size=batch_size, seed=seed)
    readout = Readout.of(host) if readout is None else readout
    ensure_pad_token(tokenizer)
    texts = TextsOfTable(table, tokenizer)
    reader = Reader(model, host, tokenizer, texts, readout, how, k, variant, references, batch_size)
    salient, pool, predictions = reader.sources(seed)
    rows: dict[str, list] = {}
    plan = _Plan(texts, salient, pool, predictions, reader, positions, how, references, conditions, num_draws, seed)
    for batch, upper, gradients in reader.batches(f"Ablating ({positions}, {how})"):
        plain = readout(upper.output, batch["attention_mask"]).cpu()
        for removal in plan.removals(batch, upper, gradients):
            with torch.no_grad():
                logits = readout(upper(removal.states.to(upper.state.dtype)), batch["attention_mask"]).cpu()
            for name, column in _outcome(removal, batch, texts, plain, logits, upper).items():
                rows.setdefault(name, []).extend(column)
    return Dataset.from_dict(rows)


def _check(
    model: Any,
    host: Any,
    table: ConceptTable,
    references: AblationReferences | None,
    protocol: str,
    positions: str,
    how: str,
    num_draws: int,
    conditions: Sequence[str],
) -> None:
    if unknown := sorted(set(conditions) - set(CONDITIONS)):
        raise ValueError(f"There is no condition {unknown[0]!r}; there are {CONDITIONS}.")
    if "salient" not in conditions:
        raise ValueError("Every condition is compared with 'salient', which conditions must name.")
    for name, value, allowed in (
        ("protocol", protocol, ("in_model", "probe")),
        ("positions", positions, POSITIONS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
    check_how(model, how)
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}.")
    model.check_host(host)
    table.check_model(model)
    table.salient()
    if references is not None:
        trained = sum(text_hash(text) in references.text_hashes for text in table.texts["text"])
        if trained:
            raise ValueError(
                f"{trained} of the table's {len(table.texts)} texts are among the training texts of the references. "
                "Take them out first, with clvq_hf.data.texts.without_texts."
            )


class _Plan:
    """What is removed from the texts of a batch, condition by condition."""

    def __init__(
        self,
        texts: TextsOfTable,
        salient: Source,
        pool: Source,
        predictions: np.ndarray,
        reader: Reader,
        positions: str,
        how: str,
        references: AblationReferences | None,
        conditions: Sequence[str],
        num_draws: int,
        seed: int,
    ) -> None:
        self.conditions = set(conditions)
        self.texts, self.salient, self.pool, self.reader = texts, salient, pool, reader
        self.positions, self.how, self.references = positions, how, references
        self.num_draws, self.seed = num_draws, seed
        self.other_texts = OtherTexts(texts, predictions, pool.code, num_draws, seed)

    def removals(
        self, batch: Mapping[str, torch.Tensor], upper: Resume, gradients: torch.Tensor | None
    ) -> Iterator[Removal]:
        """Every condition and draw for a batch; draws that no text has are left out."""
        wanted = self.conditions
        rows = batch["text_index"].numpy()
        mask = batch["attention_mask"].bool()
        # Padding may hold anything, NaN at times.
        states = torch.where(mask[..., None], upper.state.float().cpu(), 0)
        codes = _padded([self.texts.codes[row] for row in rows], mask.shape[1])
        own = self.salient.code[rows]
        where = self._where(codes == torch.as_tensor(own)[:, None], mask)
        everyone, no_code = np.ones(len(rows), dtype=bool), np.full(len(rows), -1)
        basis = self.salient.basis[rows]

        def removal(condition: str, draw: int, new: torch.Tensor, at: torch.Tensor = where, **fields: Any) -> Removal:
            defaults = {"code": no_code, "valid": everyone, "matched": everyone}
            return Removal(condition, draw, new, at, **{**defaults, **fields})

        salient = self._removed(states, self.salient, rows, where)
        yield removal("salient", 0, salient, code=own)

        others = [
            self._other_codes(
                states[row],
                None if gradients is None else gradients[row],
                codes[row],
                mask[row],
                where[row],
                salient[row],
                rows[row],
            )
            for row in range(len(rows))
            if "other_code" in wanted
        ]
        for draw in range(min(self.num_draws, max(map(len, others), default=0))):
            valid = np.asarray([len(found) > draw for found in others])
            chosen = [found[min(draw, len(found) - 1)] if found else None for found in others]
            new, at = states.clone(), torch.zeros_like(mask)
            for row, candidate in enumerate(chosen):
                if valid[row]:
                    new[row], at[row] = candidate.state, candidate.where
            yield removal(
                "other_code",
                draw,
                new,
                at,
                code=np.asarray([-1 if found is None else found.code for found in chosen]),
                valid=valid,
                matched=np.asarray([found is not None and found.matched for found in chosen]),
            )

        for condition in ("other_text_same", "other_text_opposite", "random_active_code"):
            if condition not in wanted:
                continue
            source = self.pool if condition == "random_active_code" else self.salient
            for draw, chosen, valid in self.other_texts.draws(condition, rows):
                new = self._removed(states, source, chosen, where & torch.as_tensor(valid)[:, None])
                yield removal(condition, draw, new, code=np.where(valid, source.code[chosen], -1), valid=valid)

        norms, width = (states - salient).norm(dim=-1, keepdim=True), states.shape[-1]
        for draw in range(self.num_draws if "random_direction" in wanted else 0):
            directions = np.stack(
                [
                    text_generator(self.seed, self.texts.text_id[row], "random_direction", draw).normal(size=width)
                    for row in rows
                ]
            )
            directions = F.normalize(torch.as_tensor(directions, dtype=torch.float32), dim=-1)
            yield removal("random_direction", draw, states - norms * directions[:, None])

        if "mean_direction" in wanted:
            mean = F.normalize(self.reader.model.mean_state.cpu(), dim=-1)
            yield removal("mean_direction", 0, project(states, mean[None], where))
        if self.references is None:
            return
        if wanted & set(OF_WORDS):
            for condition, new in self._of_words(states, batch["input_ids"], rows, where).items():
                if condition in wanted:
                    yield removal(condition, 0, new, code=own if condition == "word_residual" else no_code)
        if self.references.class_basis is None:
            return
        classes = self.references.class_basis
        if "class_ceiling" in wanted:
            yield removal("class_ceiling", 0, project(states, classes, where))
        if "class_residual" in wanted:
            residual = orthonormal_rows(torch.cat([classes.expand(len(rows), -1, -1), basis], dim=1))
            residual = residual[:, len(classes) :]
            yield removal("class_residual", 0, project(states, residual, where), code=own)
        if "leace" in wanted:
            erased = self.references.eraser(states.double()).float()
            yield removal("leace", 0, torch.where(where[..., None], erased, states))

    def _where(self, with_code: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.positions == "code":
            return mask & with_code
        if self.positions == "all":
            return mask
        order = mask.cumsum(-1)
        return mask & (order == (1 if self.positions == "cls" else order[:, -1:]))

    def _removed(self, states: torch.Tensor, source: Source, rows: np.ndarray, where: torch.Tensor) -> torch.Tensor:
        if self.how == "project":
            return project(states, source.basis[rows], where)
        return states + source.shift[rows][:, None] * where[..., None]

    def _of_words(
        self, states: torch.Tensor, input_ids: torch.Tensor, rows: np.ndarray, where: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The states without the words' directions, and without what the salient concepts are beside them."""
        owners = where.nonzero()[:, 0].numpy()
        here, everywhere = states[where][:, None], torch.ones(len(owners), 1, dtype=torch.bool)
        words = self.references.word_directions(input_ids[where])[:, None]
        beyond = orthonormal_rows(torch.cat([words, self.salient.basis[rows[owners]]], dim=1))[:, 1:]
        removed = {}
        for condition, basis in zip(OF_WORDS, (words, beyond), strict=True):
            removed[condition] = states.clone()
            removed[condition][where] = project(here, basis, everywhere)[:, 0]
        return removed

    def _other_codes(
        self,
        state: torch.Tensor,
        gradients: torch.Tensor | None,
        codes: torch.Tensor,
        mask: torch.Tensor,
        where: torch.Tensor,
        salient: torch.Tensor,
        row: int,
    ) -> list["_Candidate"]:
        """Other codes of one text, nearest in number of positions and removed norm; one unmatched if none matches."""
        present, firsts = self.texts.other_codes(row)
        if len(present) == 0:
            return []
        # The first token of each code stands for it.
        places = torch.as_tensor(firsts)
        source = self.reader.source(firsts, present, state[places], None if gradients is None else gradients[places])
        places = torch.stack([self._where(codes[None] == int(code), mask[None])[0] for code in present])
        new = self._removed(state.expand(len(present), -1, -1), source, np.arange(len(present)), places)
        count = places.sum(-1) / where.sum()
        norm = (state - new).flatten(1).norm(dim=-1) / (state - salient).norm().clamp(min=1e-12)
        off = count.log().abs() + norm.clamp(min=1e-12).log().abs()
        matched = (count.log().abs() <= np.log(POSITION_CALIPER)) & (norm.log().abs() <= np.log(NORM_CALIPER))
        order = off.argsort(stable=True)
        chosen = order[matched[order]][: self.num_draws] if matched.any() else order[:1]
        return [_Candidate(new[i], places[i], int(present[i]), bool(matched[i])) for i in chosen.tolist()]


@dataclass(frozen=True)
class _Candidate:
    state: torch.Tensor
    where: torch.Tensor
    code: int
    matched: bool


def _padded(rows: list[np.ndarray], length: int) -> torch.Tensor:
    padded = torch.full((len(rows), length), -1)
    for row, codes in enumerate(rows):
        padded[row, : len(codes)] = torch.as_tensor(codes)
    return padded


def _outcome(
    removal: Removal,
    batch: Mapping[str, torch.Tensor],
    texts: TextsOfTable,
    plain: torch.Tensor,
    logits: torch.Tensor,
    upper: Resume,
) -> dict[str, list]:
    valid = removal.valid
    rows = batch["text_index"].numpy()[valid]
    mask = batch["attention_mask"].bool()
    states = torch.where(mask[..., None], upper.state.float().cpu(), 0)
    changed = torch.where(mask[..., None], states - removal.states, 0)
    removed = changed.square().sum((1, 2))
    total = (states.square().sum(-1) * removal.where).sum(-1)
    return {
        "text_id": texts.text_id[rows].tolist(),
        "condition": [removal.condition] * len(rows),
        "draw": [removal.draw] * len(rows),
        "code": removal.code[valid].tolist(),
        **outcome_columns(plain[valid], logits[valid], texts.label[rows]),
        "num_positions": removal.where.sum(-1)[valid].tolist(),
        "removed_norm": removed.sqrt()[valid].tolist(),
        "removed_energy": (removed / total.clamp(min=1e-12))[valid].tolist(),
        "matched": removal.matched[valid].tolist(),
    }


__all__ = ["CONDITIONS", "ablate_texts"]
