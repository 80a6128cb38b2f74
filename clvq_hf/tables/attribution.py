"""Which token of a text supports the host's prediction: integrated gradients at a hidden state, or cheaper methods."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetInfo, Features, List, Value
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.batching import batches_by_length, in_order
from ..data.extraction import attention_sinks, check_finite
from ..data.readouts import text_limit, text_readout
from ..data.texts import texts_fingerprint
from ..data.tokenization import TextCollator, check_texts, ensure_pad_token, tokenize_texts
from ..extras import require
from ..hosts import hooks
from ..hosts.host import without_parameter_gradients
from ..hosts.identity import host_identity, tokenizer_fingerprint
from ..hosts.readout import Readout
from ..hosts.resume import resume
from ..hosts.runner import HostRunner

logger = logging.get_logger(__name__)

METHODS = ("integrated_gradients", "gradient_x_input", "occlusion")
SIGNS = ("positive", "abs")
BASELINES = ("zero", "mean")

FEATURES = Features(
    {
        "text_index": Value("int64"),
        "prediction": Value("int64"),
        "logit": Value("float32"),
        "scores": List(Value("float32")),
        "word_scores": List(Value("float32")),
        "salient_position": Value("int32"),
        "salient_word": Value("int32"),
        "error": Value("float32"),
        "absolute_error": Value("float32"),
        "n_steps": Value("int32"),
    }
)


def salient_tokens(
    host: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    layer: int,
    *,
    stack: str | None = None,
    method: str = "integrated_gradients",
    sign: str = "positive",
    readout: Readout | None = None,
    target: str | int | None = None,
    positions: Sequence[int] | None = None,
    baseline: str | torch.Tensor = "zero",
    special_tokens: bool = False,
    n_steps: int = 32,
    max_steps: int = 500,
    max_error: float = 0.05,
    max_length: int | None = None,
    text_column: str = "text",
    batch_size: int = 32,
) -> Dataset:
    """Attribute the host's prediction for each text to its tokens' hidden states at a layer.

    Integrated gradients give a token the score `Σ_d (x_d - b_d) ∫₀¹ ∂f/∂x_d(b + α(x - b)) dα`: `f` is the logit of the
    predicted class (see `Readout.support` for other heads), `x` the states of
    all real tokens, `b` the baseline. A text's scores add up to `f(x) - f(b)`. The integral is
    captum's Gauss-Legendre quadrature. The blocks up to `layer` run once; each step runs only those above. The
    completeness error is reported per text, and texts that miss `max_error` are run again with twice the steps, up to
    `max_steps`.

    `"gradient_x_input"` is `(x - b) · ∂f/∂x` at the state itself (one step). `"occlusion"` is the fall of `f` when the
    state of one token is replaced by the baseline (as many steps as the longest text of a batch has tokens).

    Args:
        host (`PreTrainedModel`): A classifier of texts or tokens, a regression or a causal language model; it is left
            as it was.
        tokenizer (`PreTrainedTokenizerBase`): The host's, a fast one.
        dataset (`datasets.Dataset`): The texts; empty ones are left out.
        layer (`int`): Layer of the states, 0 to L.
        stack (`str`, *optional*): `"encoder"` (default) or `"decoder"` of an encoder-decoder host. With `"decoder"` the
            decoder reads the same tokens as the encoder, unshifted, which is what the prediction is then made of.
        method (`str`): `"integrated_gradients"`, `"gradient_x_input"` or `"occlusion"`.
        sign (`str`): `"positive"`: the salient word is the one that supports the prediction most (or opposes it least,
            where none supports it). `"abs"`: the one with the largest absolute score.
        readout ([`Readout`][clvq_hf.hosts.readout.Readout], *optional*): What the host is asked. Default: the class of
            a classification head, one label of a multi-label head, whether the output of a regression is above the
            median of these texts, the class that a token most surely has, or the next token of a causal language model
            after the last token of the text.
        target (`str` or `int`, *optional*): The label of a multi-label head, or the output of a regression with
            several; the first if not given.
        positions (`Sequence[int]`, *optional*): One per row of `dataset`: attribute the class of the token at this
            position, or the token that follows it. For token classification and causal language models.
        baseline (`str` or `torch.Tensor` of shape `(d,)`): The uninformative state: `"zero"`, `"mean"` (of all
            real tokens of these texts), or one of your own. Use `"mean"` for hosts that normalize each block's input
            (Llama, GPT-2): they distinguish a tiny state from zero, but not from a large one, so that the path from
            zero begins with a jump.
        special_tokens (`bool`): Whether special tokens can be salient, each as a word of its own. Attention sinks (a
            state ten times longer than the median one of its text) never are.
        n_steps (`int`): Initial number of steps of integrated gradients.
        max_steps (`int`): Maximum number of steps.
        max_error (`float`): Error above which a text is run again, relative to `|f(x) - f(b)|`.
        max_length (`int`, *optional*): In tokens; the host's limit if not given.
        text_column (`str`): Column of the texts.
        batch_size (`int`): Texts per batch; texts of similar length share one.

    Returns:
        `datasets.Dataset`: One row per text that is not empty, in the order of `dataset`:

        - `text_index` (int64): row of `dataset`
        - `prediction` (int64): the class, the number of the label word, or the id of the next token
        - `logit` (float32): `f` at the text: what the host's answer says for the prediction
        - `scores` (list of float32): one per token. Special tokens have theirs too, whether they can be salient or not
          (without them the sum is not complete); `"occlusion"` leaves excluded ones at 0.
        - `word_scores` (list of float32): the score of each token's word, which is that of its token of largest
          absolute score, excluded ones apart; 0 on excluded tokens
        - `salient_position` (int32): the token that gives the salient word its score, -1 if there is none
        - `salient_word` (int32): number of that word in the text (`word_id` of
          [`tokenize_texts`][clvq_hf.data.tokenization.tokenize_texts]), -1 if there is none, or for a special token
        - `error`, `absolute_error` (float32): of completeness, relative and in logits; null for the other methods
        - `n_steps` (int32): number of steps; null for the other methods

    Raises:
        UnsupportedHostError: If the host's residual stream cannot be found with certainty.
        ValueError: If an argument is out of range, the host predicts nothing that can be read, or an attribution is NaN
            or Inf (the message names the texts).

    Example:
        ```python
        salience = salient_tokens(host, tokenizer, dataset, layer=6)
        salience["salient_word"]
        ```
    """
    _check(method, sign, n_steps, max_steps, max_error, batch_size)
    stream = hooks.residual_stream(host, stack)
    stream.check_layer(layer)
    _check_baseline(baseline, stream.hidden_sizes[layer], layer)
    check_texts(dataset, text_column)
    ensure_pad_token(tokenizer)
    readout = text_readout(
        host,
        tokenizer,
        dataset,
        readout,
        target=target,
        stack=stack,
        text_column=text_column,
        max_length=max_length,
        batch_size=batch_size,
    )
    runner = HostRunner(host, stack, readout)
    limit = text_limit(host, tokenizer, max_length, readout)
    tokenized = tokenize_texts(dataset, tokenizer, text_column, limit, special_tokens, with_words=True)
    at = _at(positions, readout, dataset, tokenized)
    collate = TextCollator(tokenizer)
    rows: dict[int, dict[str, Any]] = {}
    num_jumps = 0
    pending, steps = list(range(len(tokenized))), n_steps
    with (
        hooks.evaluation_mode(host),
        without_parameter_gradients(host),
        tqdm(total=len(tokenized), desc="Attributing predictions", unit="text", disable=len(tokenized) < 2) as bar,
    ):
        if isinstance(baseline, torch.Tensor):
            vector = baseline.detach().float()
        elif baseline == "mean":
            vector = _mean_state(runner, layer, batches_by_length(tokenized, collate, batch_size))
        else:
            vector = torch.zeros(stream.hidden_sizes[layer])
        while pending:
            again: list[int] = []
            for numbers, batch in batches_by_length(tokenized, collate, batch_size, pending):
                path = _Path(runner, readout, layer, batch, vector, None if at is None else at[numbers])
                texts = tokenized.select(numbers).to_list()
                rows.update(zip(numbers, _rows(path, method, steps, texts, sign), strict=True))
                missed = [place for place, number in enumerate(numbers) if (rows[number]["error"] or 0) > max_error]
                retried: list[int] = []
                if missed and steps < max_steps:
                    jumps = path.jumps(max_error)
                    retried = [numbers[place] for place in missed if not jumps[place]]
                    num_jumps += len(missed) - len(retried)
                again += retried
                bar.update(len(numbers) - len(retried))
            pending, steps = again, min(2 * steps, max_steps)
    ordered = in_order(rows)
    _warn(ordered, max_error, max_steps, num_jumps)
    name = baseline if isinstance(baseline, str) else "given"
    description = f"{method} of {readout.title} at layer {layer}, baseline {name}, sign {sign}"
    identity = {
        "host": host_identity(host),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "layer": layer,
        "stack": stream.stack,
        "max_length": limit,
        "texts": texts_fingerprint(dataset, [text_column]),
        "readout": readout.to_dict(),
        "positions": None if positions is None else list(map(int, positions)),
    }
    info = DatasetInfo(description=f"{description}\n{json.dumps(identity)}", features=FEATURES)
    return Dataset.from_list(ordered, features=FEATURES, info=info)


def read_description(salience: Dataset) -> tuple[str, dict[str, Any] | None]:
    """How a salience was computed, in words; and of what: host, tokenizer, layer, … (`None` of earlier versions)."""
    words, _, identity = (salience.info.description or "").partition("\n")
    return words, json.loads(identity) if identity else None


def _at(
    positions: Sequence[int] | None, readout: Readout, dataset: Dataset, tokenized: Dataset
) -> torch.Tensor | None:
    """The positions that are asked about, of the texts that are not empty."""
    if positions is None:
        return None
    if readout.of_texts:
        raise ValueError(f"positions=… needs a host that answers at every token, and this one is a {readout.kind}.")
    if len(positions) != len(dataset):
        raise ValueError(f"There are {len(positions)} positions and {len(dataset)} texts: give one for each.")
    at = torch.as_tensor([int(positions[row]) for row in tokenized["text_index"]])
    lengths = torch.as_tensor(tokenized["length"][:])
    if (outside := (at < 0) | (at >= lengths)).any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"The text in row {tokenized['text_index'][row]} has {lengths[row]} tokens and no position {at[row]}."
        )
    return at


class _Path:
    """The states of one batch, the baseline, and the support of the prediction anywhere between them.

    Attributes:
        text_index: `(B,)` int64: rows of the dataset.
        state: `(B, S, d)`, float32, at the layer.
        baseline: `(B, S, d)`; the state itself on padding and on a continuation, which stay where they are and get
            exactly nothing.
        counted: `(B, S)` bool: tokens that can be salient.
        target: `(B,)` int64, the predicted class.
        logit: `(B,)` float32, the support of the target at the state.
    """

    def __init__(
        self,
        runner: HostRunner,
        readout: Readout,
        layer: int,
        batch: Mapping[str, torch.Tensor],
        baseline: torch.Tensor,
        positions: torch.Tensor | None = None,
    ) -> None:
        self._readout, self.text_index = readout, batch["text_index"]
        self._token_mask, self._positions = batch["token_mask"], positions
        if positions is None:
            inputs, self._mask = runner.inputs_of_answers(batch)
        else:
            inputs, self._mask = runner.inputs(batch), batch["attention_mask"]
        self._upper = resume(runner.host, inputs, layer, runner.stack)
        self.state = self._upper.state.float()
        real, counted = (
            F.pad(batch[name].bool().to(self.state.device), (0, readout.num_added))
            for name in ("attention_mask", "token_mask")
        )
        usual_norms = hooks.residual_stream(runner.host, runner.stack).usual_norms[layer]
        sinks = attention_sinks(self.state, real, usual_norms)
        self.counted = counted & ~sinks
        self.baseline = torch.where(real[..., None], baseline.to(self.state.device), self.state)
        rows = self._rows(self._upper.output)
        self.target = readout.predict(rows)
        self.logit = readout.support(rows, self.target)

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        """`(B,)`: the target's support if the host goes on with `state`."""
        return self._readout.support(self._rows(self._upper(state)), self.target)

    def _rows(self, output: Any) -> torch.Tensor:
        return self._readout(output, self._mask, self._token_mask, self._positions)

    @cached_property
    @torch.no_grad()
    def baseline_logit(self) -> torch.Tensor:
        """`(B,)`: the target's logit at the baseline."""
        return self(self.baseline)

    def integrate(self, n_steps: int) -> torch.Tensor:
        """`(B, S)`: integrated gradients from the baseline to the state."""
        # At use: it loads matplotlib.
        from captum.attr import IntegratedGradients

        # One step a call, for the host goes on with the whole batch or not at all.
        gradients = IntegratedGradients(self).attribute(
            self.state, self.baseline, n_steps=n_steps, internal_batch_size=len(self.state)
        )
        return gradients.detach().sum(-1)

    def gradient(self) -> torch.Tensor:
        """`(B, S)`: the gradient at the state, times the way from the baseline."""
        with torch.enable_grad():
            state = self.state.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self(state).sum(), state)
        return (gradient * (self.state - self.baseline)).sum(-1)

    @torch.no_grad()
    def occlude(self) -> torch.Tensor:
        """`(B, S)`: the fall of the logit when one counted token is replaced by the baseline; 0 on other tokens."""
        scores = torch.zeros_like(self.state[..., 0])
        for position in self.counted.any(0).nonzero()[:, 0].tolist():
            state = self.state.clone()
            state[:, position] = self.baseline[:, position]
            scores[:, position] = (self.logit - self(state)).to(scores.device)
        return scores * self.counted

    @torch.no_grad()
    def jumps(self, max_error: float) -> list[bool]:
        """Whether each text's logit jumps at the baseline by more than quadrature may miss of its whole change."""
        # A step this short ends before the first point of any quadrature in use: of 500 steps, it lies at 5.8e-6.
        jump = self(self.baseline + 1e-6 * (self.state - self.baseline)) - self.baseline_logit
        # Below a hundredth it might be rounding.
        return (jump.abs() > max(max_error, 0.01) * (self.logit - self.baseline_logit).abs()).tolist()


def _rows(path: _Path, method: str, n_steps: int, texts: list[dict[str, Any]], sign: str) -> list[dict[str, Any]]:
    """Rows of the result for the texts of one batch.

    Raises:
        ValueError: If an attribution is NaN or Inf, naming the texts.
    """
    integrated = method == "integrated_gradients"
    absolute = relative = torch.zeros(len(texts))
    if integrated:
        scores = path.integrate(n_steps).double().cpu()
        change = (path.logit - path.baseline_logit).double().cpu()
        absolute = (scores.sum(-1) - change).abs()
        # A logit that does not change is no error if the scores add up to nothing.
        relative = torch.where(absolute == 0, 0.0, absolute / change.abs())
    else:
        scores = (path.gradient() if method == "gradient_x_input" else path.occlude()).double().cpu()
    check_finite(torch.cat([scores, path.logit.cpu()[:, None]], dim=1), path.text_index, "the attributions")
    rows = []
    for place, text in enumerate(texts):
        own = scores[place, : text["length"]].numpy()
        counted = path.counted[place, : text["length"]].cpu().numpy()
        word_scores, position, word = _salient_word(own, np.asarray(text["word_id"]), counted, sign)
        rows.append(
            {
                "text_index": text["text_index"],
                "prediction": int(path.target[place]),
                "logit": float(path.logit[place]),
                "scores": own,
                "word_scores": word_scores,
                "salient_position": position,
                "salient_word": word,
                "error": float(relative[place]) if integrated else None,
                "absolute_error": float(absolute[place]) if integrated else None,
                "n_steps": n_steps if integrated else None,
            }
        )
    return rows


def _salient_word(
    scores: np.ndarray, word_id: np.ndarray, counted: np.ndarray, sign: str
) -> tuple[np.ndarray, int, int]:
    """Scores of each token's word, position of the salient word's strongest token, number of that word.

    Args:
        scores (`np.ndarray` of shape `(S,)`): Of the tokens.
        word_id (`np.ndarray` of shape `(S,)`): Number of each token's word; -1 if it is a word of its own.
        counted (`np.ndarray` of shape `(S,)`, bool): Tokens that can be salient.
        sign (`str`): `"positive"` or `"abs"`.
    """
    words = np.where(word_id < 0, -1 - np.arange(len(scores)), word_id)
    # A token that does not count represents its word only where no other does: such a word is left out.
    from_strongest = np.argsort(np.where(counted, -np.abs(scores), 1), kind="stable")
    _, first = np.unique(words[from_strongest], return_index=True)
    strongest = from_strongest[first]
    word_scores = np.where(counted, scores[strongest][np.unique(words, return_inverse=True)[1]], 0)
    candidates = np.sort(strongest[counted[strongest]])
    if len(candidates) == 0:
        return word_scores, -1, -1
    values = scores[candidates]
    position = int(candidates[np.argmax(np.abs(values) if sign == "abs" else values)])
    return word_scores, position, int(word_id[position])


def _check(method: str, sign: str, n_steps: int, max_steps: int, max_error: float, batch_size: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}.")
    if method == "integrated_gradients":
        require("Integrated gradients", "evaluation", packages=["captum"])
    if sign not in SIGNS:
        raise ValueError(f"sign must be one of {SIGNS}, got {sign!r}.")
    if not 1 <= n_steps <= max_steps:
        raise ValueError(f"n_steps must be at least 1 and at most max_steps={max_steps}, got {n_steps}.")
    if not max_error > 0:
        raise ValueError(f"max_error must be positive, got {max_error}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")


def _check_baseline(baseline: str | torch.Tensor, width: int, layer: int) -> None:
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(f"baseline must be one of {BASELINES} or a tensor, got {baseline!r}.")
    elif baseline.shape != (width,):
        raise ValueError(
            f"The baseline has shape {tuple(baseline.shape)}; the states of layer {layer} have ({width},)."
        )
    elif not baseline.isfinite().all():
        raise ValueError("The baseline holds NaN or Inf.")


@torch.no_grad()
def _mean_state(
    runner: HostRunner, layer: int, batches: Iterable[tuple[list[int], Mapping[str, torch.Tensor]]]
) -> torch.Tensor:
    """`(d,)`, float32: the mean over all real tokens at the layer."""
    total, count = 0.0, 0
    for _, batch in batches:
        real = batch["attention_mask"].bool()
        states = hooks.run(runner.host, runner.inputs(batch), [layer], runner.stack)[layer].cpu().double()
        states = states[:, : real.shape[1]]
        check_finite(states, batch["text_index"], f"the states of layer {layer}", real)
        total = total + states[real].sum(0)
        count += int(real.sum())
    return torch.as_tensor(total / count).float()


def _warn(rows: list[dict[str, Any]], max_error: float, max_steps: int, num_jumps: int) -> None:
    """Log how many texts miss the bound, and the remedy."""
    missed = sum((row["error"] or 0) > max_error for row in rows)
    if not missed:
        return
    remedies = []
    if missed > num_jumps:
        remedies.append(f"More steps may help (max_steps, at present {max_steps}).")
    if num_jumps:
        remedies.append(
            f"For {num_jumps} of them more steps would not help, because the host tells a state of zero from every "
            "other one, however small: measure from baseline='mean', or with method='occlusion'."
        )
    logger.warning(
        f"Integrated gradients did not converge for {missed} of {len(rows)} texts; their salient token is uncertain. "
        + " ".join(remedies)
    )


__all__ = ["read_description", "salient_tokens"]
