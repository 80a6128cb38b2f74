"""The texts of a table that are ablated, and which other texts' concepts each of them is compared with."""

from collections.abc import Iterator

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ...data.texts import text_hash
from ...data.tokenization import tokenize_texts
from ...tables.concept_table import ConceptTable

logger = logging.get_logger(__name__)


def text_generator(seed: int, text_id: int, purpose: str, draw: int = 0) -> np.random.Generator:
    """The random numbers of one text, purpose and draw; they do not depend on other draws."""
    return np.random.default_rng([seed, int(text_id), draw, *purpose.encode()])


class TextsOfTable:
    """The texts of a table that can be ablated, tokenized again: unique ones with a salient token.

    Args:
        table ([`ConceptTable`][clvq_hf.ConceptTable]): With salience.
        tokenizer (`PreTrainedTokenizerBase`): The one that the table was made with.
        labelled (`bool`): Whether to leave out texts without a label.

    Raises:
        ValueError: If no text is left, or the tokenizer is another one.
    """

    def __init__(self, table: ConceptTable, tokenizer: PreTrainedTokenizerBase, labelled: bool = False) -> None:
        self.table = table
        texts = table.texts.with_format("numpy")
        position = texts["salient_position"][:]
        seen: set[str] = set()
        unique = []
        for text in table.texts["text"]:
            unique.append((key := text_hash(text)) not in seen)
            seen.add(key)
        kept = np.asarray(unique) & (position >= 0)
        if labelled:
            kept &= texts["label"][:] >= 0
        if not kept.any():
            raise ValueError(
                f"No text of the table has a salient token{' and a label' if labelled else ''}, so there is nothing to "
                "ablate."
            )
        if skipped := int((~kept).sum()):
            what = "repeated, without a content token" + (", or without a label" if labelled else "")
            logger.warning(f"Skipped {skipped} of {len(kept)} texts: {what}.")
        rows = np.flatnonzero(kept)
        self.text_id = texts["text_id"][:][rows]
        self.label = texts["label"][:][rows]
        self.position = position[rows]
        codes, ids, special = table.column("code"), table.column("token_id"), table.column("special")
        slices = [table.token_rows(int(text_id)) for text_id in self.text_id]
        self.codes = [codes[part] for part in slices]
        self.special = [special[part] for part in slices]
        chosen = table.texts.select_columns("text").select(rows)
        self.tokenized = tokenize_texts(chosen, tokenizer, "text", table.metadata["max_length"])
        for part, row in zip(slices, self.tokenized["input_ids"], strict=True):
            if ids[part].tolist() != list(row):
                raise ValueError(
                    "The tokenizer splits the texts differently than when the table was made: it is another one, or "
                    "its settings have changed."
                )

    def __len__(self) -> int:
        return len(self.text_id)

    @property
    def salient_code(self) -> np.ndarray:
        """`np.ndarray` of shape `(N,)`: the code of each text's salient token."""
        return np.asarray([codes[place] for codes, place in zip(self.codes, self.position, strict=True)])

    def other_codes(self, row: int, sinks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes of a text's content tokens except the salient code, and the position of the first token of each.

        Args:
            row (`int`): The text.
            sinks (`np.ndarray` of shape `(S,)`, bool): Its attention sinks, which stand for no code; what follows the
                text is left out.
        """
        content = self.content(row, sinks)
        codes, firsts = np.unique(self.codes[row][content], return_index=True)
        others = codes != self.codes[row][self.position[row]]
        return codes[others], content[firsts[others]]

    def random_place(self, row: int, seed: int, sinks: np.ndarray) -> int:
        """Position of a random content token that is no attention sink (see `other_codes`); the same in every call.

        A text without one has its salient token.
        """
        content = self.content(row, sinks)
        if len(content) == 0:
            return int(self.position[row])
        return int(text_generator(seed, self.text_id[row], "random_active_code").choice(content))

    def content(self, row: int, sinks: np.ndarray) -> np.ndarray:
        """Positions of a text's content tokens that are no attention sinks."""
        special = self.special[row]
        return np.flatnonzero(~special & ~sinks[: len(special)])


class OtherTexts:
    """Which other texts' concepts are removed from each text.

    `other_text_same` and `other_text_opposite` draw among the texts with the same, with another prediction whose
    salient code is another one; `random_active_code` among those whose random token has another code. A text never
    draws itself, and one without candidates lacks the condition.

    Args:
        texts ([`TextsOfTable`]): The N texts.
        predictions (`np.ndarray` of shape `(N,)`): Plain predictions.
        random_codes (`np.ndarray` of shape `(N,)`): Codes of the texts' random tokens.
        num_draws (`int`): Maximum number of draws per text.
        seed (`int`): Seed of the draws; those of a text do not depend on the other texts' order.
    """

    def __init__(
        self, texts: TextsOfTable, predictions: np.ndarray, random_codes: np.ndarray, num_draws: int, seed: int
    ) -> None:
        self._texts, self._predictions, self._random_codes = texts, predictions, random_codes
        self._salient_codes = texts.salient_code
        self._num_draws, self._seed = num_draws, seed

    def draws(self, condition: str, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Number of the draw, text drawn for each of `rows`, and which of them have this draw."""
        drawn = []
        for row in rows:
            candidates = self._candidates(condition, row)
            generator = text_generator(self._seed, self._texts.text_id[row], condition)
            drawn.append(generator.choice(candidates, size=min(self._num_draws, len(candidates)), replace=False))
        for draw in range(max(map(len, drawn))):
            valid = np.asarray([len(own) > draw for own in drawn])
            yield draw, np.asarray([own[draw] if len(own) > draw else 0 for own in drawn]), valid

    def _candidates(self, condition: str, row: int) -> np.ndarray:
        codes = self._random_codes if condition == "random_active_code" else self._salient_codes
        # The removal of the same concept is no control.
        others = codes != self._salient_codes[row]
        others[row] = False
        if condition == "random_active_code":
            return np.flatnonzero(others)
        same = self._predictions == self._predictions[row]
        return np.flatnonzero(others & (same if condition == "other_text_same" else ~same))


__all__ = ["OtherTexts", "TextsOfTable", "text_generator"]
