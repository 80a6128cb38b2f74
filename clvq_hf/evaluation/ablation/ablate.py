"""How much a host depends on the concepts that its predictions rest on: removal, with all controls.

One row per text, condition and draw; the `ablation_drop` metric computes every figure from these rows.

Conditions (what is removed), of which all but `other_code` are removed at the same positions as `salient`:

- `salient`: the concept of the text's salient token.
- `other_code`: another concept of the same text, the nearest in number of positions and removed norm. Under
  `positions="code"` at its own positions.
- `other_text_same`, `other_text_opposite`: the salient concept of another text with the same, with another prediction,
  if it is another concept.
- `random_direction`: a random direction, with the norm that `salient` removes from each token.
- `random_active_code`: the concept of a random token of another text (the paper's control).
- `mean_direction`: the direction of the codebook's mean, which the concepts share.
- `class_ceiling`: the directions in which the classes' mean states differ, on training texts.
- `class_residual`: the salient concept, made orthogonal to those.
- `leace`: everything from which a linear probe could predict the class (LEACE).
- `word_ceiling`: at each position the direction of its token's mean state in texts that are not measured: its word.
- `word_residual`: the salient concept, made orthogonal to that at each position: what it says beyond the word.
- `word_random`: a random direction orthogonal to the word's, with the norm that `word_residual` removes there.

The conditions of words change only positions whose token type occurs at least ten times in the texts that the means are
of, and leave out texts without such a position.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.texts import text_hash
from ...data.tokenization import ensure_pad_token
from ...hosts.readout import Readout
from ...models.interventions import POSITIONS, check_how, select_positions
from ...models.modeling_concepts import ConceptModel
from ...tables.concept_table import ConceptTable
from .conditions import CONDITIONS, Candidate, Source, TextBatch, check_conditions, choose_conditions
from .outcomes import removal_rows
from .probe import probe_texts
from .reader import Reader
from .references import AblationReferences
from .texts import OtherTexts, TextsOfTable

# How far the number of positions and the removed norm of a matched code may be off, as a factor.
POSITION_CALIPER, NORM_CALIPER = 1.5, 1.25


def ablate_texts(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    *,
    protocol: str = "in_model",
    positions: str = "code",
    how: str = "project",
    references: AblationReferences | None = None,
    readout: Readout | None = None,
    conditions: Sequence[str] = tuple(CONDITIONS),
    k: int = 1,
    variant: str | None = None,
    num_draws: int = 5,
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
        how (`str`): `"project"`: `x ← x - QᵀQ(x - c)`, from the model's `projection_centre`. `"swap"`: `x ← x - e + μ`,
            the mean state of the code's tokens makes way for that of all tokens: of the references' training texts, or
            of the table's texts without references. Of a code that no token has there, `e` is the state of the token at
            hand.
        references ([`AblationReferences`][clvq_hf.evaluation.AblationReferences], *optional*): From training
            texts. Without them the conditions of classes and words, and `leace`, are left out.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): What the host is asked; what the table's
            predictions answer if not given.
        conditions (`Sequence[str]`): Which of the above, `salient` among them; all if not given. The probe runs all but
            those of words: it reads representations of whole texts.
        k (`int`): Directions that are removed: those of the token's `k` strongest concepts.
        variant (`str`, *optional*): One of the model's `ablation_variants`; the first if not given.
        num_draws (`int`): Maximum number of draws per text, for conditions that are drawn.
        batch_size (`int`): Texts per host forward.
        seed (`int`): Seed of the draws; those of a text do not depend on the other texts' order.

    Returns:
        `datasets.Dataset`: One row per text, condition and draw: `text_id`, `condition`, `draw`, `code`, `label`,
        `prediction_plain`, `prediction`, `margin_plain`, `margin` (logit of the plain prediction minus the best other),
        `probability_plain`, `probability` (of the plain prediction), `gold_probability_plain`, `gold_probability`
        (-1 without a label), `kl` (`KL(plain‖ablated)`, nats), `probabilities_plain`, `probabilities` (empty for
        vocabularies), `num_positions`, `removed_norm`, `matched` (by the probe never). Of a regression margins are in
        units of the output, lists of probabilities are empty, and other probabilities and `kl` are null;
        in the model also `removed_energy`, the share of the squared norm at these positions, from the model's
        `projection_centre`, that was removed.

    Raises:
        ValueError: If the table is of another model or lacks salience, texts were trained on, or an argument is
            unknown.
    """
    readout = readout or table.readout
    _check(model, host, tokenizer, table, references, protocol, positions, how, num_draws, conditions, readout)
    if protocol == "probe":
        if variant is not None:
            raise ValueError("The probe protocol removes the default variant; leave variant out.")
        return probe_texts(model, host, tokenizer, table, k=k, num_draws=num_draws, batch_size=batch_size, seed=seed)
    readout = Readout.of(host) if readout is None else readout
    ensure_pad_token(tokenizer)
    texts = TextsOfTable(table, tokenizer)
    reader = Reader(model, host, tokenizer, texts, readout, how, k, variant, references, batch_size)
    salient, random, predictions = reader.sources(seed)
    chosen = choose_conditions(
        conditions,
        find_other_codes=lambda batch: [
            _find_other_codes(batch, place, texts, reader, num_draws) for place in range(len(batch.rows))
        ],
        salient=salient,
        random=random,
        other_texts=OtherTexts(texts, predictions, random.code, num_draws, seed),
        mean=model.mean_state.cpu(),
        references=references,
        find_words=None
        if references is None
        else lambda batch: references.words.directions(batch.input_ids[batch.where], batch.salient.centre),
        num_draws=num_draws,
        seed=seed,
    )
    columns: dict[str, list] = defaultdict(list)
    for inputs, upper, gradients in reader.batches(f"Ablating ({positions}, {how})"):
        plain = reader.read(upper.output, inputs).cpu()
        batch = _read_batch(inputs, upper.state, reader.sinks(inputs, upper), gradients, texts, salient, positions)
        energy = (batch.states - salient.centre).square().sum(-1)
        for condition in chosen:
            for removal in condition.removals(batch):
                with torch.no_grad():
                    logits = reader.read(upper(upper.with_texts(removal.states, batch.mask)), inputs).cpu()
                labels = texts.label[batch.rows]
                rows = removal_rows(condition.name, removal, batch, labels, plain, logits, readout)
                removed = (batch.states - removal.states).square().sum((1, 2))
                share = removed / (energy * removal.where).sum(-1).clamp(min=1e-12)
                rows["removed_norm"] = removed.sqrt()[removal.valid].tolist()
                rows["removed_energy"] = share[removal.valid].tolist()
                for name, values in rows.items():
                    columns[name] += values
    return Dataset.from_dict(columns)


def _check(
    model: ConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: ConceptTable,
    references: AblationReferences | None,
    protocol: str,
    positions: str,
    how: str,
    num_draws: int,
    conditions: Sequence[str],
    readout: Readout | None,
) -> None:
    check_conditions(conditions)
    for name, value, allowed in (("protocol", protocol, ("in_model", "probe")), ("positions", positions, POSITIONS)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
    check_how(model, how)
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}.")
    model.check_host(host)
    table.check_model(model)
    table.salient()
    table.check_host(host, tokenizer)
    if references is not None:
        references.check_source(model, host, how, readout)
        trained = sum(text_hash(text) in references.text_hashes for text in table.texts["text"])
        if trained:
            raise ValueError(
                f"{trained} of the table's {len(table.texts)} texts are among the training texts of the references. "
                "Remove them first, with clvq_hf.data.texts.without_texts."
            )


@dataclass(frozen=True)
class _HostBatch(TextBatch):
    """Texts as the host reads them; tensors of shape `(B, S)`, gradients `(B, S, d)` if the variant needs them."""

    input_ids: torch.Tensor
    mask: torch.Tensor
    sinks: torch.Tensor
    codes: torch.Tensor
    gradients: torch.Tensor | None
    positions: str


def _read_batch(
    inputs: Mapping[str, torch.Tensor],
    states: torch.Tensor,
    sinks: torch.Tensor,
    gradients: torch.Tensor | None,
    texts: TextsOfTable,
    salient: Source,
    positions: str,
) -> _HostBatch:
    rows = inputs["text_index"].numpy()
    mask = inputs["attention_mask"].bool()
    # Padding may hold anything, NaN at times.
    states = torch.where(mask[..., None], states[:, : mask.shape[1]].float().cpu(), 0)
    codes = torch.full(mask.shape, -1)
    for place, row in enumerate(rows):
        codes[place, : len(texts.codes[row])] = torch.tensor(texts.codes[row])
    where = select_positions(positions, mask, sinks, lambda: codes == torch.as_tensor(salient.code[rows])[:, None])
    return _HostBatch(
        rows=rows,
        text_id=texts.text_id[rows],
        states=states,
        where=where,
        salient=salient,
        without_salient=salient.remove(states, rows, where),
        input_ids=inputs["input_ids"],
        mask=mask,
        sinks=sinks,
        codes=codes,
        gradients=gradients,
        positions=positions,
    )


def _find_other_codes(
    batch: _HostBatch, place: int, texts: TextsOfTable, reader: Reader, num_draws: int
) -> list[Candidate]:
    """Other codes of one text, nearest in number of positions and removed norm; one unmatched if none matches."""
    state, mask, sinks, codes = batch.states[place], batch.mask[[place]], batch.sinks[[place]], batch.codes[place]
    present, firsts = texts.other_codes(batch.rows[place], sinks[0].numpy())
    chosen = [
        select_positions(batch.positions, mask, sinks, lambda code=code: codes == int(code))[0] for code in present
    ]
    # At a position that is a sink nothing is removed.
    somewhere = [number for number, where in enumerate(chosen) if where.any()]
    if not somewhere:
        return []
    present, firsts = present[somewhere], firsts[somewhere]
    where = torch.stack([chosen[number] for number in somewhere])
    # The first token of each code stands for it.
    tokens = torch.as_tensor(firsts)
    source = reader.source(present, state[tokens], None if batch.gradients is None else batch.gradients[place, tokens])
    new = source.remove(state.expand(len(present), -1, -1), np.arange(len(present)), where)
    removed_norm = (state - batch.without_salient[place]).norm().clamp(min=1e-12)
    count = where.sum(-1) / batch.where[place].sum().clamp(min=1)
    norm = (state - new).flatten(1).norm(dim=-1) / removed_norm
    distance = count.log().abs() + norm.clamp(min=1e-12).log().abs()
    matched = (count.log().abs() <= np.log(POSITION_CALIPER)) & (norm.log().abs() <= np.log(NORM_CALIPER))
    order = distance.argsort(stable=True)
    nearest = order[matched[order]][:num_draws] if matched.any() else order[:1]
    return [Candidate(new[i], where[i], int(present[i]), bool(matched[i])) for i in nearest.tolist()]


__all__ = ["ablate_texts"]
