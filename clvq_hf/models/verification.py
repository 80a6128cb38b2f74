"""Is this the host that a codebook was learned from? Reference texts with known codes answer it, and explain a no.

A codebook fits every host of its width and encodes any states, so nothing but known codes reveals a wrong host, layer
or normalisation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checksums import read_metadata, write_metadata
from ..hosts import hooks
from ..hosts.readout import Readout
from ..hosts.runner import HostRunner
from ..hub.provenance import tokenizer_fingerprint
from .configuration_concepts import ConceptConfig
from .modeling_base import BaseConceptModel

FORMAT_VERSION = 1
# Written for this purpose: a push publishes them, so they must not be training texts.
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
# Rounding in another dtype, or on another device, changes the codes of tokens between two entries.
MIN_AGREEMENT = 0.95
# A larger relative difference of states is not explained by rounding in bfloat16 over many layers.
TOLERANCE = 0.05
# Number of random sign vectors on which a state is projected.
SKETCH_SIZE = 4


@dataclass(frozen=True)
class ReferenceText:
    """A text with the tokens, codes, states and prediction of the right host.

    Attributes:
        text (`str`): The text.
        input_ids (`list[int]`): Its S tokens.
        codes (`list[int]`): The concept of each token.
        lower_sketch (`list[list[float]]`): Four projections of each token's state at `lower_layer`; see
            [`sketch`][clvq_hf.models.verification.sketch].
        upper_sketch (`list[list[float]]`): The same at `upper_layer`.
        prediction (`int` or `None`): The class or token that the host predicts, if it has a head.
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
        model_fingerprint (`str`): Fingerprint of the model whose codes these are.
        texts (`list[ReferenceText]`): The texts.
    """

    model_fingerprint: str
    texts: list[ReferenceText]

    def save(self, file: Path) -> None:
        """Write the texts as JSON, with a checksum."""
        write_metadata(file, {"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, file: Path) -> "Reference":
        """Read a file that `save` has written.

        Raises:
            ValueError: If the file is damaged, or has a newer format.
        """
        content, _ = read_metadata(file, "Get the model again, or record its host again (model.record_host).")
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
                    raise ValueError("the numbers of tokens, codes and sketches differ")
            if not texts:
                raise ValueError("it contains no text")
            return cls(content["model_fingerprint"], texts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is damaged: {error}.") from error


@dataclass(frozen=True)
class Verification:
    """Result of [`ConceptModel.verify`][clvq_hf.ConceptModel.verify]; true if the host is the right one.

    Attributes:
        host (`str`): Class and name of the host.
        agreement (`float`): Share of the reference tokens that got their code; 0 if they could not be run.
        num_tokens (`int`): Number of reference tokens.
        reasons (`list[str]`): Why it is not the right host; empty if it is.
        notes (`list[str]`): What could not be checked.
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
        """Raise `ValueError` with all reasons and notes if it is not the right host."""
        if not self.ok:
            raise ValueError(str(self))


@dataclass(frozen=True)
class _HostOutput:
    """States `(S, d)` of each text by layer, and the predictions, if the host has a head."""

    states: dict[int, list[torch.Tensor]]
    predictions: list[int] | None

    def sketches(self, layer: int) -> torch.Tensor:
        return sketch(torch.cat(self.states[layer]))


def make_reference(
    model: BaseConceptModel,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] = REFERENCE_TEXTS,
) -> Reference:
    """Run texts, which are published with the model, through a host and record their codes.

    Raises:
        ValueError: If the host does not fit, or a text is empty.
    """
    model.check_host(host)
    lower, upper = model.config.lower_layer, model.config.upper_layer
    ids = [_tokenize(tokenizer, text) for text in texts]
    if not ids or not all(ids):
        raise ValueError("Reference texts must have tokens; at least one text has none.")
    output = _run(host, model.config.stack, ids, [lower, upper])
    predictions = output.predictions or [None] * len(ids)
    return Reference(
        model.fingerprint(),
        [
            ReferenceText(
                text=text,
                input_ids=row,
                codes=_encode(model, output.states[lower][place]).tolist(),
                lower_sketch=_rounded(sketch(output.states[lower][place])),
                upper_sketch=_rounded(sketch(output.states[upper][place])),
                prediction=predictions[place],
            )
            for place, (text, row) in enumerate(zip(texts, ids, strict=True))
        ],
    )


def verify_host(
    model: BaseConceptModel,
    reference: Reference,
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Verification:
    """See [`ConceptModel.verify`][clvq_hf.ConceptModel.verify]."""
    config, texts = model.config, reference.texts
    ids = [text.input_ids for text in texts]
    # Wrappers, such as DDP, have no config.
    name = f"{type(host).__name__} {getattr(getattr(host, 'config', None), '_name_or_path', '')}".strip()
    reasons = [] if tokenizer is None else _tokenizer_reasons(config, texts, tokenizer)
    notes = ["no tokenizer was given: the stored token ids were used"] if tokenizer is None else []

    def result(agreement: float) -> Verification:
        return Verification(name, agreement, sum(map(len, ids)), reasons, notes)

    try:
        model.check_host(host)
        vocabulary = hooks.unwrap(host).get_input_embeddings().weight.shape[0]
        if (highest := max(map(max, ids))) >= vocabulary:
            raise ValueError(f"It knows {vocabulary} tokens, but the reference texts contain token {highest}.")
    except ValueError as error:
        reasons.append(str(error))
        return result(0.0)
    try:
        output = _run(host, config.stack, ids, [config.lower_layer, config.upper_layer])
    except (ValueError, RuntimeError, IndexError) as error:
        reasons.append(f"It cannot read the reference texts: {type(error).__name__}: {error}")
        return result(0.0)

    codes = torch.cat([_encode(model, states) for states in output.states[config.lower_layer]])
    expected_codes = torch.tensor([code for text in texts for code in text.codes])
    agreement = float((codes == expected_codes).float().mean())
    lower = torch.tensor([row for text in texts for row in text.lower_sketch])
    upper = torch.tensor([row for text in texts for row in text.upper_sketch])
    dtype = str(hooks.unwrap(host).dtype).removeprefix("torch.")
    other_dtype = dtype != (config.host_dtype or dtype)
    if agreement < MIN_AGREEMENT or difference(output.sketches(config.lower_layer), lower) > TOLERANCE:
        reasons.append(_explain(model, host, ids, output.sketches(config.lower_layer), lower, agreement))
        if other_dtype:
            reasons.append(f"It runs in {dtype}; the codes were learned in {config.host_dtype}.")
    elif difference(output.sketches(config.upper_layer), upper) > TOLERANCE:
        reasons.append(
            f"The codes are right, but the states at the upper layer {config.upper_layer} differ: the blocks above "
            f"layer {config.lower_layer} are not those of the host that was trained on."
        )
    if not reasons:
        _check_predictions(texts, output.predictions, other_dtype, reasons, notes)
    return result(agreement)


def _tokenizer_reasons(
    config: ConceptConfig, texts: list[ReferenceText], tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    reasons = []
    if config.tokenizer_fingerprint not in (None, tokenizer_fingerprint(tokenizer)):
        reasons.append("The tokenizer has another vocabulary than the one that was trained with.")
    different = [text.text for text in texts if _tokenize(tokenizer, text.text) != text.input_ids]
    if different:
        reasons.append(
            f"The tokenizer splits {len(different)} of {len(texts)} reference texts differently: {different[0]!r}."
        )
    return reasons


def _check_predictions(
    texts: list[ReferenceText],
    predictions: list[int] | None,
    other_dtype: bool,
    reasons: list[str],
    notes: list[str],
) -> None:
    """Add a reason or a note if predictions differ, or cannot be compared."""
    expected = [text.prediction for text in texts]
    if None in expected:
        return
    if predictions is None:
        notes.append("the host was loaded without its head: its predictions were not compared")
        return
    wrong = sum(a != b for a, b in zip(expected, predictions, strict=True))
    if other_dtype and 0 < wrong <= len(texts) // 4:  # a text near the decision boundary may cross it
        notes.append(f"{wrong} of {len(texts)} predictions differ, which the other dtype may explain")
    elif wrong:
        reasons.append(
            f"The states are right, but {wrong} of {len(texts)} predictions differ: the host has another head, or was "
            "fine-tuned since."
        )


def _explain(
    model: BaseConceptModel,
    host: PreTrainedModel,
    ids: list[list[int]],
    sketches: torch.Tensor,
    expected: torch.Tensor,
    agreement: float,
) -> str:
    """The first explanation that restores the states: another layer, a scale, a normalisation; else other weights."""
    config = model.config
    outcome = f"{agreement:.1%} of the reference tokens got their code"
    if (distance := difference(sketches, expected)) <= TOLERANCE:
        return (
            f"{outcome}, although the states differ by only {distance:.1%}: the codebook entries are close together, "
            "and rounding moves tokens between them. Run the host in the dtype that was trained with."
        )
    outcome += ", and the states have changed."
    stream = hooks.residual_stream(host, config.stack)
    layers = [n for n in range(stream.num_blocks + 1) if stream.hidden_sizes[n] == config.hidden_size]
    output = _run(host, config.stack, ids, layers)
    distances = {layer: difference(output.sketches(layer), expected) for layer in layers}
    best = min(layers, key=distances.__getitem__)
    if distances[best] <= TOLERANCE:
        return (
            f"{outcome} They are the same at layer {best}: layers are counted differently, or the wrong one is "
            f"configured (lower_layer={config.lower_layer})."
        )
    scale = float((sketches * expected).sum() / expected.square().sum())
    if scale > 0 and difference(sketches / scale, expected) <= TOLERANCE:
        return f"{outcome} Divided by {scale:.3g} they are the same: the states are scaled differently."
    if difference(F.normalize(sketches, dim=-1), F.normalize(expected, dim=-1)) <= TOLERANCE:
        return f"{outcome} Their directions are the same, but their lengths differ: they are normalised differently."
    commit = f" at {config.host_revision[:8]}" if config.host_revision else ""
    return (
        f"{outcome} Neither another layer nor another scale or normalisation explains it: the host has other weights "
        f"than the one that was trained on ({config.host_name_or_path}{commit})."
    )


def sketch(states: torch.Tensor) -> torch.Tensor:
    """Four numbers per state, `(…, d)` → `(…, 4)`, float32: products with fixed random sign vectors, divided by `√d`.

    Their mean square is in expectation that of the state's coordinates, and the same holds for differences of states
    (Johnson and Lindenstrauss), so that distant states have distant sketches.
    """
    # The legacy generator of NumPy, whose numbers never change.
    signs = np.random.RandomState(0).randint(2, size=(states.shape[-1], SKETCH_SIZE)) * 2 - 1
    return states.float() @ torch.from_numpy(signs).float() / states.shape[-1] ** 0.5


def difference(sketches: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative difference of two sets of sketches `(N, 4)`: the median over tokens, which no single state dominates."""
    typical = expected.norm(dim=-1).median().clamp(min=1e-12)
    return float((sketches - expected).norm(dim=-1).median() / typical)


@torch.no_grad()
def _run(host: PreTrainedModel, stack: str | None, ids: list[list[int]], layers: list[int]) -> _HostOutput:
    """Run each text by itself, without padding: a head may read padding, or refuse it if it has no padding token."""
    runner, readout = HostRunner(host, stack), Readout.of_or_none(host)
    states: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    predictions: list[int] = []
    for row in ids:
        batch = {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.int64)}
        # Without a readout the host stops early: its head may need more inputs (T5's decoder does).
        stop = readout is None
        with hooks.evaluation_mode(host), hooks.capture(host, sorted(states), stack=stack, stop=stop) as captured:
            output = host(**runner.inputs(batch))
        for layer in states:
            states[layer].append(captured[layer][0].float().cpu())
        if readout is not None:
            predictions.append(int(readout(output, batch["attention_mask"])[0].argmax()))
    return _HostOutput(states, predictions if readout is not None else None)


def _encode(model: BaseConceptModel, states: torch.Tensor) -> torch.Tensor:
    """Codes `(S,)` of the states `(S, d)` of a text."""
    mask = torch.ones(1, len(states), dtype=torch.bool, device=model.device)
    return model.encode(states[None].to(model.device), mask)[0].cpu()


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]


def _rounded(numbers: torch.Tensor) -> list[list[float]]:
    return [[float(f"{number:.6g}") for number in row] for row in numbers.tolist()]


__all__ = ["REFERENCE_TEXTS", "Reference", "ReferenceText", "Verification", "make_reference", "verify_host"]
