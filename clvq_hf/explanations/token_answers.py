"""Which words a token classifier gives a class to, as questions about single windows."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from ..data.windows import WindowedText
from .group import Reading


@torch.no_grad()
def find_token_answers(
    reading: Reading, texts: Mapping[int, WindowedText], wanted: Collection[int]
) -> Iterator[tuple[int, tuple[WindowedText, int, int]]]:
    """Find the words with these classes, each by its first token in the window where it has the most context.

    Yields:
        `tuple[int, tuple[WindowedText, int, int]]`: Number of the text; this window of it, the token's position there,
        and the class that the host gives it.
    """
    for number, text in texts.items():
        best: dict[int, tuple[int, int, int, int]] = {}
        for window, place in enumerate(text.places):
            batch = reading.collate([text.windows[window]])
            classes = reading.host(**reading.runner.inputs(batch)).logits[0].argmax(-1).tolist()
            words = text.word_id[place]
            for position in np.flatnonzero(np.diff(words, prepend=-1) != 0).tolist():
                room = min(position, len(place) - 1 - position)
                if words[position] >= 0 and (room, -window) > best.get(int(words[position]), (-1, 0))[:2]:
                    best[int(words[position])] = (room, -window, position, classes[position])
        for _, (_, window, position, chosen) in sorted(best.items()):
            if chosen in wanted:
                yield number, (_only(text, -window), position, chosen)


def _only(text: WindowedText, window: int) -> WindowedText:
    """One window of a text, as a text of its own: what the host says of a token depends on nothing else."""
    place = text.places[window]
    by_token = {name: getattr(text, name)[place] for name in ("token_ids", "start", "end", "word_id", "special")}
    return replace(
        text,
        **by_token,
        windows=[text.windows[window]],
        places=[np.arange(len(place))],
        weights=np.ones(1),
        num_cut=text.num_cut + len(text) - len(place),
    )


__all__ = ["find_token_answers"]
