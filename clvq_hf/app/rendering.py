"""What the app shows of a text, a concept and a change, as HTML. Everything from data is escaped."""

from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from ..hub.provenance import is_hub_id
from ..rendering.pages import fragment_style, read_asset, render_page, visible
from ..tables.html import concept_html, concept_title
from ..tables.shading import NUM_COLOURS, shade
from .readings import Bar, Effect, Reading
from .session import Explorer

# Between the hues of neighbouring numbers, in degrees: the golden angle, so that they are told apart.
HUE_STEP = 137.508


@dataclass(frozen=True)
class Piece:
    """A token as a button, its concept in words, and the text between the token before and this one."""

    before: str
    text: str
    code: int
    word: str
    title: str
    style: str
    is_special: bool
    is_salient: bool


def header_html(explorer: Explorer) -> str:
    """What is looked at, what it cannot show, and the style of everything here."""
    config = explorer.model.config
    return render_page(
        "app/header.html",
        style=fragment_style() + Markup(read_asset("app/app.css")),
        name=_short(config.name_or_path) or type(explorer.model).__name__,
        host=_short(config.host_name_or_path) or "a host without a name",
        layer=config.lower_layer,
        size=config.codebook_size,
        predicts=explorer.readout is not None,
        has_table=explorer.table is not None,
    )


def reading_html(explorer: Explorer, reading: Reading, selected: int | None = None) -> str:
    """A text whose tokens are buttons in their concept's colour, and the prediction; needs the header's style."""
    labels = [] if explorer.table is None else explorer.table.label_names
    pieces = _pieces(explorer, reading)
    return render_page(
        "app/reading.html",
        pieces=pieces,
        rest="" if reading.limit else reading.text[max(token.end for token in reading.tokens) :].rstrip(),
        selected=selected,
        limit=reading.limit,
        num_colours=NUM_COLOURS,
        legend=[(name, number % NUM_COLOURS) for number, name in enumerate(labels)],
        bars=[Bar(_name(explorer, name), share, share) for name, share in reading.probabilities],
        caption="Next token" if explorer.generates else "Prediction",
        predicts=explorer.readout is not None,
        salient=None if reading.salient is None else pieces[reading.salient],
        is_certain=reading.salient_is_certain,
        has_words=explorer.table is not None,
    )


def concept_words(explorer: Explorer, code: int) -> str:
    """A concept as a visitor can understand it: by its name or its words, with its number."""
    concept = explorer.concept(code)
    if concept is None:
        return f"concept {code}"
    if concept.called is not None:
        return f"{concept.called.quoted} (concept {concept.number})"
    words = ", ".join(word for word, _ in concept.top_words)
    return f"“{words}” (concept {concept.number})" if words else f"concept {concept.number}"


def card_html(explorer: Explorer, code: int) -> str:
    """What is known of a concept: words, labels and sentences of the table.

    Raises:
        ValueError: If there is no such concept.
    """
    if explorer.concept(code) is None:
        return render_page("app/no_card.html", code=code)
    return concept_html(explorer.table, code)


def effect_html(explorer: Explorer, effect: Effect, change: str, removes: bool = False) -> str:
    """Prediction and generated text before and after a change, which is given in words; needs the header's style."""
    return render_page(
        "app/effect.html",
        change=change,
        effect=effect,
        bars=[replace(bar, name=_name(explorer, bar.name)) for bar in effect.bars],
        control=effect.control,
        removes=removes,
        other="" if effect.control is None else concept_words(explorer, effect.control.code),
        other_prediction="" if effect.control is None else _name(explorer, effect.control.prediction),
        prediction=[_name(explorer, name) for name in effect.prediction or ()],
        total=len(effect.reading.tokens),
        caption="Next token" if explorer.generates else "Prediction",
    )


def _pieces(explorer: Explorer, reading: Reading) -> list[Piece]:
    pieces, last, space = [], 0, ""
    for place, token in enumerate(reading.tokens):
        start, end = max(token.start, last), max(token.end, last)  # tokens of one character share it
        before, text = space + reading.text[last:start], reading.text[start:end]
        # Some tokenizers count the space beside a word as part of it.
        shown = text.strip()
        if shown:
            before += text[: text.index(shown)]
            space = text[text.index(shown) + len(shown) :]
        else:  # white space alone, a further part of a character, or nothing
            shown = token.name if token.is_special else visible(text)
            space = text
        title, style = _concept(explorer, token.code)
        word, is_salient = _other_word(explorer, token.code, shown), place == reading.salient
        pieces.append(Piece(before, shown, token.code, word, title, style, token.is_special, is_salient))
        last = end
    return pieces


def _other_word(explorer: Explorer, code: int, token: str) -> str:
    """What stands below a token: the concept's most frequent word that is another one; its number if none is known."""
    concept = explorer.concept(code)
    words = [] if concept is None else [word for word, _ in concept.top_words]
    others = [word for word in words if word.casefold() != token.casefold()]
    return next(iter([*others, *words]), str(code))


def _concept(explorer: Explorer, code: int) -> tuple[str, str]:
    """A concept in a few words, and its colour."""
    concept = explorer.concept(code)
    if concept is None or not explorer.table.label_names:
        # Only numbers tell them apart: neighbours get hues that differ.
        return f"concept {code}", f"--colour: hsl({code * HUE_STEP % 360:.0f} 60% 50%); --strength: 60%"
    shown = shade(concept, explorer.table.label_names)
    colour = "" if shown.colour is None else f"--colour: var(--label-{shown.colour}); --strength: {shown.strength}%"
    return concept_title(concept), colour


def _name(explorer: Explorer, name: str) -> str:
    """Name of a class as it is, of a next token with its white space."""
    return visible(name) if explorer.generates else name


def _short(name: str | None) -> str | None:
    """A Hub id as it is; of a folder its name, not where it lies."""
    if not name or is_hub_id(name):
        return name
    path = Path(name)
    # That of the demo lies in its model's folder.
    return f"{path.parent.name}/host" if path.name == "host" else path.name


__all__ = ["card_html", "concept_words", "effect_html", "header_html", "reading_html"]
