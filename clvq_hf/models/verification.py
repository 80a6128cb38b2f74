"""Is this the host that a codebook was learned from? Texts whose codes are known tell, and if not, why not.

A codebook fits every host of its width, and gives codes for any states: nothing but known answers tells whether host,
layer and normalisation are the right ones.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ..files import read_json
from ..hosts import hooks
from ..hosts.readout import Readout
from ..hosts.runner import HostRunner
from ..hub.provenance import tokenizer_fingerprint
from .modeling_base import BaseConceptModel

FORMAT_VERSION = 1
# Of nobody's data: what a push publishes must not be a training text.
REFERENCE_TEXTS = (
    "The train to the coast leaves at half past seven, if it leaves at all.",
    "A wonderful film: warm, funny and a little sad, with two actors who never miss a note.",
    "I waited forty minutes for cold soup and a bill that was wrong twice.",
    "Shares of the company fell 12.5% on Monday after it cut its forecast for 2024.",
    "Researchers report that the vaccine halved infections among 3,000 volunteers.",
    "She scored in the final minute, and the whole stadium held its breath.",
    "Please stop editing this page; your changes do not cite any source.",
    "Der Regen hat aufgehört. Il pleut encore. Ha dejado de llover.",
)
MAX_TOKENS = 64
# Rounding in another dtype, or on another device, moves tokens that lie between two codes.
MIN_AGREEMENT = 0.95
# Relative difference of states that no rounding explains: bfloat16 has 8 bits, over many layers.
TOLERANCE = 0.05
# Numbers that a state is remembered by: its projections on this many random sign vectors.
SKETCH_SIZE = 4


@dataclass(frozen=True)
class ReferenceText:
    """A text and what the right host makes of it.

    Attributes:
        text (`str`): The text.
        input_ids (`list[int]`): Its S tokens.
        codes (`list[int]`): The concept of each.
        lower_sketch (`list[list[float]]`): Four projections of each token's state at `lower_layer`, see
            [`sketch`][clvq_hf.models.verification.sketch].
        upper_sketch (`list[list[float]]`): … and at `upper_layer`.
        prediction (`int` or `None`): The class or token that the host predicts, if it predicts one.
    """

    text: str
    input_ids: list[int]
    codes: list[int]
    lower_sketch: list[list[float]]
    upper_sketch: list[list[float]]
    prediction: int | None


@dataclass(frozen=True)
class Reference:
    """Reference texts of a concept model.

    Attributes:
        model_fingerprint (`str`): Of the model whose codes these are.
        texts (`list[ReferenceText]`): The texts.
    """

    model_fingerprint: str
    texts: list[ReferenceText]

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        file.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> "Reference":
        """Read what `save` has written.

        Raises:
            ValueError: If the file is damaged, or of a newer format.
        """
        content = read_json(file)
        if content.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{file} has the format {content.get('format_version')!r}; this version of clvq_hf reads "
                f"{FORMAT_VERSION}. Install a newer one."
            )
        try:
            texts = [ReferenceText(**text) for text in content["texts"]]
            for text in texts:
                shapes = {np.shape(text.lower_sketch), np.shape(text.upper_sketch)}
                if shapes != {(len(text.codes), SKETCH_SIZE)} or len(text.input_ids) != len(text.codes) > 0:
                    raise ValueError("tokens, codes and sketches are not alike in number")
            if not texts:
                raise ValueError("it holds no text")
            return cls(content["model_fingerprint"], texts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is damaged: {error}.") from error


@dataclass(frozen=True)
class Verification:
    """What [`ConceptModel.verify`][clvq_hf.ConceptModel.verify] found; true if the host is the right one.

    Attributes:
        host (`str`): What was verified.
        agreement (`float`): Share of the reference tokens that got their code; 0 if they could not be run.
        num_tokens (`int`): Number of these tokens.
        reasons (`list[str]`): Why it is not the right host; empty if it is.
        notes (`list[str]`): What could not be looked at.
    """

    host: str
    agreement: float
    num_tokens: int
    reasons: list[str]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether host, layer, normalisation and, if given, tokenizer are the right ones."""
        return not self.reasons

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        outcome = "verified" if self.ok else "NOT the right host"
        lines = [f"{self.host}: {outcome}; {self.agreement:.1%} of {self.num_tokens} reference tokens got their code."]
        return "\n".join(
            [*lines, *(f"- {reason}" for reason in self.reasons), *(f"  ({note})" for note in self.notes)]
        )

    def raise_if_wrong(self) -> None:
        """Raise if it is not the right host.

        Raises:
            ValueError: With everything that was found.
        """
        if not self.ok:
            raise ValueError(str(self))


@dataclass(frozen=True)
class _States:
    """What a host makes of reference texts: states by layer `(B, S, d)`, predictions `(B,)` or `None`."""

    layers: dict[int, torch.Tensor]
    predictions: list[int] | None


def make_reference(
    model: BaseConceptModel, host: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] = REFERENCE_TEXTS
) -> Reference:
    """Run texts through a host and keep their codes.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): The concepts.
        host (`PreTrainedModel`): The model whose concepts these are.
        tokenizer (`PreTrainedTokenizerBase`): The host's.
        texts (`Sequence[str]`): They will be published with the model; ours are of nobody's data.

    Raises:
        ValueError: If the host does not fit, or a text is empty.
    """
    model.check_host(host)
    config = model.config
    ids = [_tokenized(tokenizer, text) for text in texts]
    if not ids or not all(ids):
        raise ValueError("Reference texts must have tokens; at least one text has none.")
    states = _run(host, config.stack, ids, [config.lower_layer, config.upper_layer])
    lower, upper = (states.layers[layer] for layer in (config.lower_layer, config.upper_layer))
    codes = model.encode(lower.to(model.device), _mask(ids).to(model.device)).cpu()
    return Reference(
        model.fingerprint(),
        [
            ReferenceText(
                text=text,
                input_ids=row_ids,
                codes=codes[row, : len(row_ids)].tolist(),
                lower_sketch=_rounded(sketch(lower[row, : len(row_ids)])),
                upper_sketch=_rounded(sketch(upper[row, : len(row_ids)])),
                prediction=None if states.predictions is None else states.predictions[row],
            )
            for row, (text, row_ids) in enumerate(zip(texts, ids, strict=True))
        ],
    )


def verify_host(
    model: BaseConceptModel, reference: Reference, host: Any, tokenizer: PreTrainedTokenizerBase | None = None
) -> Verification:
    """See [`ConceptModel.verify`][clvq_hf.ConceptModel.verify]."""
    config, texts = model.config, reference.texts
    ids = [text.input_ids for text in texts]
    num_tokens = sum(map(len, ids))
    # Wrappers, such as DDP, have no config.
    name = f"{type(host).__name__} {getattr(getattr(host, 'config', None), '_name_or_path', '')}".strip()
    reasons, notes = _tokenizer_findings(config, texts, tokenizer)
    try:
        model.check_host(host)
        vocabulary = hooks.unwrap(host).get_input_embeddings().weight.shape[0]
        if (highest := max(map(max, ids))) >= vocabulary:
            raise ValueError(f"It knows {vocabulary} tokens, and the reference texts contain number {highest}.")
    except ValueError as error:
        return Verification(name, 0.0, num_tokens, [*reasons, str(error)], notes)

    try:
        states = _run(host, config.stack, ids, [config.lower_layer, config.upper_layer])
    except (ValueError, RuntimeError, IndexError) as error:
        reason = f"It cannot read the reference texts: {type(error).__name__}: {error}"
        return Verification(name, 0.0, num_tokens, [*reasons, reason], notes)
    mask = _mask(ids)
    expected = torch.cat([torch.tensor(text.codes) for text in texts])

    def agreement(layer_states: torch.Tensor) -> float:
        codes = model.encode(layer_states.to(model.device), mask.to(model.device)).cpu()
        return float((codes[mask] == expected).float().mean())

    lower, upper = (states.layers[layer] for layer in (config.lower_layer, config.upper_layer))
    share = agreement(lower)
    dtype = str(hooks.unwrap(host).dtype).removeprefix("torch.")
    rounded = dtype != (config.host_dtype or dtype)
    wanted = torch.tensor([row for text in texts for row in text.lower_sketch])
    if share < MIN_AGREEMENT or difference(sketch(lower[mask]), wanted) > TOLERANCE:
        reasons.append(_why(model, host, ids, lower[mask], wanted, share))
        if rounded:
            reasons.append(f"It runs in {dtype}; the codes were learned in {config.host_dtype}.")
    elif (
        difference(sketch(upper[mask]), torch.tensor([row for text in texts for row in text.upper_sketch])) > TOLERANCE
    ):
        reasons.append(
            f"The codes are right, but the states at the upper layer {config.upper_layer} are others: the blocks above "
            f"layer {config.lower_layer} are not those of the host that was trained on."
        )
    if not reasons:
        reasons += _prediction_findings(texts, states.predictions, rounded, notes)
    return Verification(name, share, num_tokens, reasons, notes)


def _tokenizer_findings(
    config: Any, texts: list[ReferenceText], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[str], list[str]]:
    if tokenizer is None:
        return [], ["no tokenizer was given: the stored token ids were used"]
    reasons = []
    if config.tokenizer_fingerprint not in (None, tokenizer_fingerprint(tokenizer)):
        reasons.append("The tokenizer has another vocabulary than the one that was trained with.")
    different = [text.text for text in texts if _tokenized(tokenizer, text.text) != text.input_ids]
    if different:
        reasons.append(
            f"The tokenizer splits {len(different)} of {len(texts)} reference texts otherwise: {different[0]!r}."
        )
    return reasons, []


def _prediction_findings(
    texts: list[ReferenceText], found: list[int] | None, rounded: bool, notes: list[str]
) -> list[str]:
    expected = [text.prediction for text in texts]
    if None in expected:
        return []
    if found is None:
        notes.append("the host was loaded without its head: its predictions were not compared")
        return []
    wrong = sum(a != b for a, b in zip(expected, found, strict=True))
    if not wrong:
        return []
    if rounded and wrong <= len(texts) // 4:  # a text between two classes may fall to either side
        notes.append(f"{wrong} of {len(texts)} texts are predicted otherwise, which another dtype may explain")
        return []
    return [
        f"The states are right, but {wrong} of {len(texts)} reference texts are predicted otherwise: it has another "
        "head, or was fine-tuned since."
    ]


def _why(
    model: BaseConceptModel,
    host: Any,
    ids: list[list[int]],
    lower: torch.Tensor,
    wanted: torch.Tensor,
    share: float,
) -> str:
    """The first explanation that brings the states back: another layer, a scale, a normalisation; else the weights."""
    config = model.config
    if (here := difference(sketch(lower), wanted)) <= TOLERANCE:
        return (
            f"{share:.1%} of the reference tokens got their code, though the states differ by {here:.1%} alone: the "
            "codes lie close together, and rounding moves tokens between them. Run the host in the dtype that was "
            "trained with."
        )
    told = f"{share:.1%} of the reference tokens got their code, and the states are others than they were."
    stream = hooks.residual_stream(host, config.stack)
    layers = [n for n in range(stream.num_blocks + 1) if stream.hidden_sizes[n] == config.hidden_size]
    mask = _mask(ids)
    found = {n: states[mask] for n, states in _run(host, config.stack, ids, layers).layers.items()}
    distances = {n: difference(sketch(states), wanted) for n, states in found.items()}
    if distances[best := min(distances, key=distances.get)] <= TOLERANCE:
        return (
            f"{told} At layer {best} they are the same: layers are counted differently, or the wrong one is configured "
            f"(lower_layer={config.lower_layer})."
        )
    projections = sketch(lower)
    scale = float((projections * wanted).sum() / wanted.square().sum())
    if scale > 0 and difference(projections / scale, wanted) <= TOLERANCE:
        return f"{told} Divided by {scale:.3g} they are the same: the states are scaled otherwise."
    unit, wanted_unit = (F.normalize(each, dim=-1) for each in (projections, wanted))
    if difference(unit, wanted_unit) <= TOLERANCE:
        return f"{told} Their directions are the same, their lengths are not: they are normalised otherwise."
    return (
        f"{told} Neither another layer nor another scale or normalisation explains it: it has other weights than the "
        f"host that was trained on ({config.host_name_or_path}"
        + (f" at {config.host_revision[:8]})." if config.host_revision else ").")
    )


def sketch(states: torch.Tensor) -> torch.Tensor:
    """A state in four numbers: its products with fixed random sign vectors, divided by `√d`.

    Their mean square is that of the state's coordinates, in expectation, and so it is for differences of states
    (Johnson and Lindenstrauss): what is far apart stays apart.

    Args:
        states (`torch.Tensor` of shape `(…, d)`): Host states.

    Returns:
        `torch.Tensor` of shape `(…, 4)`, float32.
    """
    # The old generator of NumPy, whose numbers never change.
    signs = np.random.RandomState(0).randint(2, size=(states.shape[-1], SKETCH_SIZE)) * 2 - 1
    return states.float() @ torch.from_numpy(signs).float() / states.shape[-1] ** 0.5


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative difference of two sets of sketches `(N, 4)`: the median over tokens, so that no single state rules."""
    typical = wanted.norm(dim=-1).median().clamp(min=1e-12)
    return float((found - wanted).norm(dim=-1).median() / typical)


@torch.no_grad()
def _run(host: Any, stack: str | None, ids: list[list[int]], layers: list[int]) -> _States:
    """Each text alone and unpadded: heads may read padding, or refuse it where no padding token is set."""
    runner, readout = HostRunner(host, stack), Readout.of_or_none(host)
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    predictions: list[int] = []
    for row in ids:
        batch = {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.int64)}
        # What reads nothing need not be run: a head may want more than a text (T5's decoder does).
        stop = readout is None
        with hooks.evaluation_mode(host), hooks.capture(host, sorted(found), stack=stack, stop=stop) as states:
            output = host(**runner.inputs(batch))
        for layer in found:
            found[layer].append(states[layer][0].float().cpu())
        if readout is not None:
            predictions.append(int(readout(output, batch["attention_mask"])[0].argmax()))
    padded = {layer: pad_sequence(states, batch_first=True) for layer, states in found.items()}
    return _States(padded, predictions if readout is not None else None)


def _tokenized(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]


def _mask(ids: list[list[int]]) -> torch.Tensor:
    lengths = torch.tensor([len(row) for row in ids])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _rounded(numbers: torch.Tensor) -> list[list[float]]:
    return [[float(f"{number:.6g}") for number in row] for row in numbers.tolist()]


__all__ = ["REFERENCE_TEXTS", "Reference", "ReferenceText", "Verification", "make_reference", "verify_host"]
