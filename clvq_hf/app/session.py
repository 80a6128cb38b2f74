"""`Explorer`: what the live app can ask of a concept model and its host. No page and no Gradio in here."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars, enable_progress_bars, is_progress_bar_enabled
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..extras import is_installed
from ..hosts import hooks
from ..hosts.readout import Readout, class_names, label_number, margins
from ..hosts.runner import HostRunner
from ..models.interventions import find_sinks
from ..models.modeling_concepts import ConceptModel, load_with_host
from ..tables.concept_table import ConceptTable
from ..tables.concepts import Concept
from ..tables.masking import called_toxic
from .readings import Bar, Continuation, Control, Effect, Reading, Token

logger = logging.get_logger(__name__)

# More than anyone reads on a page.
MAX_TOKENS = 512
MAX_NEW_TOKENS = 64
# Of a text, so many characters for each token that is read; the rest is never tokenized. Most tokens have fewer.
CHARACTERS_PER_TOKEN = 32
# So many classes are all shown; of more, and of a vocabulary, the likeliest ones.
MAX_CLASSES = 8
NUM_LIKELIEST = 5
# Texts of the table that a mean state is of: a second's work for a small host.
NUM_TEXTS_OF_MEANS = 32
# Words that stand for a concept.
NUM_WORDS = 5
# Texts of the table to begin with, and how many characters they should have: their buttons show 60.
NUM_EXAMPLES, EXAMPLE_LENGTH, LONGEST_EXAMPLE = 5, 50, 160
# Steps of integrated gradients, and the relative error up to which its scores count as certain.
NUM_STEPS, MAX_STEPS, MAX_ERROR = 32, 64, 0.05


class Explorer:
    """A concept model, its host, and what is known of its concepts, for somebody who looks at texts of their own.

    Calls may come from several threads: they run one after the other, so that no change of the host leaks into another
    call.

    Args:
        model ([`ConceptModel`][clvq_hf.ConceptModel]): Whose concepts are looked at.
        host (`PreTrainedModel`): The model that they are of.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, a fast one.
        table ([`ConceptTable`][clvq_hf.ConceptTable], *optional*): Where words, labels and sentences of concepts come
            from.
        max_length (`int`): Longest text in tokens; longer ones are cut, after 32 characters for each of them at the
            latest.

    Raises:
        ValueError: If host, tokenizer or table do not belong to the model, or the model was never fitted.
    """

    def __init__(
        self,
        model: ConceptModel,
        host: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        table: ConceptTable | None = None,
        max_length: int = MAX_TOKENS,
    ) -> None:
        model.check_host(host)
        if not model.is_initialized:
            raise ValueError("The concepts of this model were never fitted to data; train it first.")
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not map tokens to characters. Load the fast one: "
                "AutoTokenizer.from_pretrained(…, use_fast=True)."
            )
        if table is not None:
            table.check_model(model)
        self.model = model
        self.host = host
        self.tokenizer = tokenizer
        self.table = table
        self.readout = _readout(host, table)
        limit = hooks.max_length(host, tokenizer, max_length + self.max_new_tokens)
        # Room for what is generated after it.
        self.max_length = max(limit - self.max_new_tokens, 1)
        self._runner = HostRunner(host, model.config.stack)
        self._lock = threading.Lock()
        self._concepts: dict[int, Concept] = {}
        # Of the tokens of the table's texts, and of those of a concept; for swaps.
        self._mean: torch.Tensor | None = None
        self._member_means: dict[int, torch.Tensor] = {}
        # Of the last text: whoever changes it has read it before.
        self._last_salience: tuple[str, tuple[int | None, bool]] | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        host: str | None = None,
        table: str | Path | None = None,
        max_length: int = MAX_TOKENS,
        gguf_file: str | None = None,
    ) -> "Explorer":
        """Load everything by name.

        Args:
            name (`str`): Folder or Hub id of the concept model.
            host (`str`, *optional*): Folder or Hub id of the host; the one that the model names if not given.
            table (`str` or `Path`, *optional*): Folder of a concept table; the one that was pushed with the model if
                not given. Without either a warning is logged.
            max_length (`int`): Longest text in tokens.
            gguf_file (`str`, *optional*): File of the host, if its weights are in that format.

        Raises:
            OSError: If something cannot be found or downloaded.
            ValueError: If the parts do not belong together.
        """
        if table is not None:
            table = ConceptTable.load_from_disk(table)
        model, host_model, tokenizer = load_with_host(name, host, gguf_file)
        if table is None:
            try:
                table = model.concepts
            except (ValueError, OSError) as error:  # which the app can do without
                logger.warning(f"Concepts are shown without words and sentences: {error}")
        return cls(model, host_model, tokenizer, table, max_length)

    # ------------------------------------------------------------------------------------------------- what it is like

    @property
    def generates(self) -> bool:
        """Whether the host is a causal language model, which goes on with a text."""
        return self.readout is not None and self.readout.kind == "next_token"

    @property
    def swaps(self) -> bool:
        """Whether concepts can be swapped: the mean states of their tokens are known, or a table tells them."""
        model = self.model
        return model.codes_are_states and (model.member_means is not None or self.table is not None)

    @property
    def max_new_tokens(self) -> int:
        """The most tokens that are generated after a text."""
        return MAX_NEW_TOKENS if self.generates else 0

    @property
    def label_names(self) -> list[str]:
        """Names of the classes; empty if the host has none."""
        if (names := class_names(self.host)) is None:
            return [] if self.readout is None else list(self.readout.class_names)
        of_table = [] if self.table is None else self.table.label_names
        unnamed = all(label_number(name) == label for label, name in enumerate(names))
        return list(of_table) if unnamed and len(of_table) == len(names) else names

    def concept(self, code: int) -> Concept | None:
        """What the table knows of a concept, without sentences; `None` without a table.

        Raises:
            ValueError: If there is no such concept.
        """
        self._check_code(code)
        if self.table is None:
            return None
        if code not in self._concepts:
            self._concepts[code] = self.table.concept(code, num_words=NUM_WORDS, num_examples=0)
        return self._concepts[code]

    @property
    def examples(self) -> list[str]:
        """Short texts of the table with different predictions; none whose label or prediction is called toxic."""
        table = self.table
        if table is None:
            return []
        hidden = called_toxic([*table.label_names, *self.label_names])
        by_prediction: dict[object, list[str]] = {}
        for row in table.texts.select_columns(["text", "label", "prediction"]):
            text, prediction = row["text"].strip(), row["prediction"]
            names = {table.label_name(row["label"]), table.prediction_name(prediction)}
            if text and len(text) <= LONGEST_EXAMPLE and not names & hidden:
                by_prediction.setdefault(prediction, []).append(text)
        for texts in by_prediction.values():
            texts.sort(key=lambda text: abs(len(text) - EXAMPLE_LENGTH))
        # One of each prediction, then a second one of each, …
        turns = [texts[turn : turn + 1] for turn in range(NUM_EXAMPLES) for texts in by_prediction.values()]
        return list(dict.fromkeys(text for turn in turns for text in turn))[:NUM_EXAMPLES]

    # -------------------------------------------------------------------------------------------------- what it can do

    def read(self, text: str) -> Reading:
        """The concepts of a text, and what the host predicts.

        Raises:
            ValueError: If it is empty.
        """
        text = self._beginning(text)
        with self._lock:
            encoded, is_cut = self._encode(text)
            codes, logits = self._run(encoded)
            salient = self._salient(text, len(codes))
        return self._reading(text, encoded, is_cut, codes, logits, *salient)

    def ablate(
        self, text: str, code: int, positions: str = "code", how: str = "project", max_new_tokens: int = 20
    ) -> Effect:
        """What the host predicts of a text without a concept, and without another one of the same text.

        Args:
            text (`str`): The text.
            code (`int`): The concept.
            positions (`str`): Where it is removed, as in [`ConceptModel.ablate`][clvq_hf.ConceptModel.ablate].
            how (`str`): `"project"` or `"swap"`, as there.
            max_new_tokens (`int`): How many tokens a causal language model generates, at most 64.

        Raises:
            ValueError: If the text is empty, the code does not exist, or an argument is unknown or means nothing for
                this model.
        """
        self._check_code(code)

        def change(removed: int = code) -> hooks.Edit:
            return self._ablation(removed, positions, how)

        # To swap another concept too would take the mean state of its tokens, from many texts.
        return self._effect(text, code, positions, max_new_tokens, change, has_control=how == "project")

    def steer(self, text: str, code: int, strength: float, positions: str = "all", max_new_tokens: int = 20) -> Effect:
        """What the host predicts of a text if it is pushed towards a concept.

        Args:
            text (`str`): The text.
            code (`int`): The concept.
            strength (`float`): In units of each token's norm; negative pushes away.
            positions (`str`): Where, as in [`ConceptModel.steer`][clvq_hf.ConceptModel.steer].
            max_new_tokens (`int`): How many tokens a causal language model generates, at most 64.

        Raises:
            ValueError: If the text is empty, the code does not exist, or the positions are unknown.
        """
        self._check_code(code)
        return self._effect(
            text, code, positions, max_new_tokens, lambda *_: self.model.steer(self.host, code, strength, positions)
        )

    # ------------------------------------------------------------------------------------------------------ how it does

    def _check_code(self, code: int) -> None:
        size = self.model.config.codebook_size
        if not isinstance(code, int) or not 0 <= code < size:
            raise ValueError(f"Choose a concept: click a token, or enter a number from 0 to {size - 1}.")

    def _ablation(self, code: int, positions: str, how: str) -> hooks.Edit:
        model = self.model
        if how != "swap" or not model.codes_are_states or model.member_means is not None:
            return model.ablate(self.host, code, positions, how)
        if self.table is None:
            raise ValueError(
                "A swap needs the mean state of the concept's tokens, which only a concept table tells. Open the app "
                "with one (--table), or remove the concept."
            )
        if self._mean is None:
            self._mean = self._mean_state(range(min(NUM_TEXTS_OF_MEANS, len(self.table.texts))))
        if code not in self._member_means:
            has = (self.table.column("code") == code) & ~self.table.column("special")
            owners = np.unique(self.table.column("text_id")[has])[:NUM_TEXTS_OF_MEANS]
            self._member_means[code] = self._mean_state(map(self.table.text_row, owners.tolist()), code)
        return model.ablate(self.host, code, positions, how, mean=self._mean, member_mean=self._member_means[code])

    @torch.no_grad()
    def _mean_state(self, rows: Iterable[int], code: int | None = None) -> torch.Tensor:
        """Mean state `(d,)` at `lower_layer` of the content tokens of rows of the table's texts, or of those of a code.

        With the lock held.

        Raises:
            ValueError: If there are no such tokens.
        """
        config, found = self.model.config, []
        for row in rows:
            encoded, _ = self._encode(self.table.texts[row]["text"])
            with hooks.evaluation_mode(self.host):
                layers = [config.lower_layer]
                states = hooks.run(self.host, self._runner.inputs(encoded), layers, stack=config.stack)[layers[0]]
            real = encoded["attention_mask"].bool().to(states.device)
            chosen = real & ~find_sinks(self.host, config.stack, config.lower_layer, states, real)
            chosen &= ~encoded["special_tokens_mask"].bool().to(states.device)
            if code is not None:
                device = self.model.device
                chosen &= (self.model.encode(states.to(device), real.to(device)) == code).to(states.device)
            found.append(states[chosen].float().cpu())
        if not sum(map(len, found)):
            raise ValueError("No text of the concept table has this concept, so it can only be removed, not swapped.")
        return torch.cat(found).mean(0)

    @property
    def _max_characters(self) -> int:
        return CHARACTERS_PER_TOKEN * self.max_length

    def _beginning(self, text: str) -> str:
        """What is kept of a text: as much as is read, and one character that tells that more followed."""
        return text[: self._max_characters + 1]

    def _encode(self, text: str) -> tuple[BatchEncoding, bool]:
        """The tokens of a text, and whether it had more of them than are read.

        With the lock held: a fast tokenizer keeps the length to which it cuts, for all threads.
        """
        beginning = text[: self._max_characters]
        if not beginning.strip():
            raise ValueError("There is no text. Type one first.")

        def encode(limit: int) -> BatchEncoding:
            return self.tokenizer(
                beginning,
                truncation=True,
                max_length=limit,
                return_attention_mask=True,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
                return_tensors="pt",
            )

        # One token more than allowed tells a text that is cut from one that just fits.
        encoded = encode(self.max_length + 1)
        if encoded["special_tokens_mask"].all():
            raise ValueError("The tokenizer leaves nothing of this text. Type another one.")
        has_more_tokens = encoded["input_ids"].shape[1] > self.max_length
        return encode(self.max_length) if has_more_tokens else encoded, has_more_tokens or len(text) > len(beginning)

    @torch.no_grad()
    def _run(self, encoded: BatchEncoding) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Codes `(S,)`, and logits `(C,)` of the classes or the next token."""
        with hooks.evaluation_mode(self.host), self.model.attach(self.host, keep_states=False) as tap:
            output = self.host(**self._runner.inputs(encoded))
        logits = None
        if self.readout is not None:
            counted = 1 - encoded["special_tokens_mask"]
            logits = self.readout(output, encoded["attention_mask"], counted)[0].cpu()
        return tap.codes[0].cpu(), logits

    @torch.no_grad()
    def _generate(self, encoded: BatchEncoding, max_new_tokens: int) -> list[int]:
        """The tokens that the host most likely goes on with."""
        inputs = {name: encoded[name].to(self._runner.device) for name in ("input_ids", "attention_mask")}
        with hooks.evaluation_mode(self.host):
            # What a checkpoint says of sampling is of no use here, and would warn.
            generated = self.host.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                # Nothing is padded in a batch of one.
                pad_token_id=self.tokenizer.pad_token_id or 0,
            )
        return generated[0, inputs["input_ids"].shape[1] :].tolist()

    def _effect(
        self,
        text: str,
        code: int,
        positions: str,
        max_new_tokens: int,
        change: Callable[..., AbstractContextManager[Any]],
        has_control: bool = False,
    ) -> Effect:
        text = self._beginning(text)
        max_new_tokens = min(max_new_tokens, self.max_new_tokens)
        outcomes, other, instead = [], None, None
        with self._lock:
            encoded, is_cut = self._encode(text)
            for changed in (nullcontext, change):
                with changed():
                    codes, logits = self._run(encoded)
                    generated = self._generate(encoded, max_new_tokens) if max_new_tokens else []
                outcomes.append((codes, logits, generated))
            if has_control and (other := self._other_code(text, encoded, outcomes[0][0], code)) is not None:
                with change(other):
                    _, instead = self._run(encoded)
            salient = self._salient(text, len(outcomes[0][0]))
        (codes, before, first), (_, after, second) = outcomes
        reading = self._reading(text, encoded, is_cut, codes, before, *salient)

        def changed_at(concept: int) -> int:
            return {"code": int((codes == concept).sum()), "all": len(codes)}.get(positions, 1)

        num_tokens = changed_at(code)
        continuations = (
            (self._continuation(first, second), self._continuation(second, first)) if self.generates else None
        )
        if before is None or after is None:
            return Effect(reading, num_tokens, [], None, None, continuations)
        predicted = before.argmax(keepdim=True)
        numbers = self._select_outputs(before, after)
        shares = [None if logits is None else logits.softmax(-1) for logits in (before, after, instead)]
        control = None
        if other is not None and instead is not None:
            margin = float(margins(instead[None], predicted))
            control = Control(other, changed_at(other), self._name(int(instead.argmax())), margin)
        return Effect(
            reading,
            num_tokens,
            [
                Bar(self._name(number), *(None if share is None else float(share[number]) for share in shares))
                for number in numbers
            ],
            (self._name(int(predicted)), self._name(int(after.argmax()))),
            (float(margins(before[None], predicted)), float(margins(after[None], predicted))),
            continuations,
            control,
        )

    def _other_code(self, text: str, encoded: BatchEncoding, codes: torch.Tensor, code: int) -> int | None:
        """Another concept of the text, with the most similar number of tokens; of several one drawn by the text."""
        counts = Counter(codes.tolist())
        content = codes[encoded["special_tokens_mask"][0] == 0].tolist()
        wanted = max(counts[code], 1)
        distances = {other: abs(counts[other] - wanted) for other in sorted(set(content) - {code})}
        nearest = [other for other, distance in distances.items() if distance == min(distances.values())]
        return random.Random(f"{code} {text}").choice(nearest) if nearest else None

    def _salient(self, text: str, num_tokens: int) -> tuple[int | None, bool]:
        """Place of the token that supports the prediction most, and whether that is certain. With the lock held."""
        if self.readout is None or not is_installed("captum"):
            return None, True
        if self._last_salience is not None and self._last_salience[0] == text:
            return self._last_salience[1]
        with _without_bars():
            salience = self.model.salient_tokens(
                self.host,
                self.tokenizer,
                Dataset.from_dict({"text": [text]}),
                text_column="text",
                n_steps=NUM_STEPS,
                max_steps=MAX_STEPS,
                max_error=MAX_ERROR,
                max_length=self.max_length,
            )
        [row] = salience.to_list()
        place = row["salient_position"]
        found = place if 0 <= place < num_tokens else None, row["error"] <= MAX_ERROR
        self._last_salience = text, found
        return found

    def _reading(
        self,
        text: str,
        encoded: BatchEncoding,
        is_cut: bool,
        codes: torch.Tensor,
        logits: torch.Tensor | None,
        salient: int | None,
        salient_is_certain: bool,
    ) -> Reading:
        names = self.tokenizer.convert_ids_to_tokens(encoded["input_ids"][0].tolist())
        spans, special = encoded["offset_mapping"][0].tolist(), encoded["special_tokens_mask"][0].tolist()
        tokens = [
            Token(start, end, name, code, bool(mark))
            for (start, end), name, code, mark in zip(spans, names, codes.tolist(), special, strict=True)
        ]
        probabilities = []
        if logits is not None:
            numbers = self._select_outputs(logits)
            shares = logits.softmax(-1)[numbers].tolist()
            probabilities = [(self._name(number), share) for number, share in zip(numbers, shares, strict=True)]
        limit = self.max_length if is_cut else None
        return Reading(text, tokens, limit, probabilities, salient, salient_is_certain)

    def _select_outputs(self, *logits: torch.Tensor) -> list[int]:
        """The classes or tokens that are shown: all if they are few, else the likeliest of each."""
        if not self.generates and len(logits[0]) <= MAX_CLASSES:
            return list(range(len(logits[0])))
        likeliest = torch.cat([row.topk(min(NUM_LIKELIEST, len(row))).indices for row in logits]).tolist()
        return sorted(dict.fromkeys(likeliest), key=lambda number: -float(logits[0][number]))

    def _name(self, number: int) -> str:
        return self.tokenizer.decode([number]) if self.generates else self.label_names[number]

    def _continuation(self, tokens: list[int], others: list[int]) -> Continuation:
        shared = 0
        while shared < min(len(tokens), len(others)) and tokens[shared] == others[shared]:
            shared += 1
        return Continuation(*self._decode(tokens, shared, shared + 1))

    def _decode(self, tokens: list[int], *cuts: int) -> list[str]:
        """The text of tokens, cut before some of them."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        # Each part is decoded with all before it. A character may have several tokens: cut in two it ends a part as �.
        ends = [self.tokenizer.decode(tokens[:cut], **options).rstrip("\ufffd") for cut in cuts]
        ends.append(self.tokenizer.decode(tokens, **options))
        return [end[len(before) :] for before, end in zip(["", *ends], ends, strict=False)]


@contextmanager
def _without_bars() -> Generator[None]:
    """Bars of `datasets` for a single text say nothing."""
    was_enabled = is_progress_bar_enabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if was_enabled:
            enable_progress_bars()


def _readout(host: PreTrainedModel, table: ConceptTable | None) -> Readout | None:
    """What is shown of the host's predictions: what it is asked in the table, if something must be chosen."""
    readout = Readout.of_or_none(host)
    if readout is not None or table is None or (asked := table.readout) is None:
        return readout
    try:
        Readout.of(host, target=asked.target)
    except ValueError:  # it was loaded without its head
        return None
    if not asked.has_probabilities:
        logger.warning(f"Predictions are not shown: the host answers with a number ({asked.title}).")
        return None
    return asked


__all__ = ["Explorer"]
