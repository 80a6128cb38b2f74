"""What an explanation holds: tokens, concepts, two removals, and whether to rely on it."""

from dataclasses import dataclass, field, is_dataclass
from io import StringIO
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..rendering.pages import fragment_style, render_page
from ..rendering.terminal import open_console
from ..rendering.text_tables import signed
from ..tables.names import BY_MODEL

# Concepts that are shown; `to_dict` has them all.
NUM_SHOWN = 8
# Of `to_dict`, and so of the lines of `clvq-hf explain -o`; docs/explain.md describes it.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ExplainedToken:
    """A token of the text, special ones left out.

    Attributes:
        text (`str`): Its characters.
        start, end (`int`): Where they are in the text.
        word (`int`): Number of its word in the text.
        code (`int`): Its concept.
        score (`float`): Its contribution to the target, in the units of the explanation.
    """

    text: str
    start: int
    end: int
    word: int
    code: int
    score: float


@dataclass(frozen=True)
class ExplainedConcept:
    """A concept of the text.

    Attributes:
        code (`int`): Its number.
        contribution (`float`): Sum of the scores of its tokens.
        words (`list[str]`): The words of this text that have it, in order, repeated ones once.
        positions (`list[int]`): Its tokens, as numbers in `tokens`.
        top_words (`list[str]`): Its most frequent words in the concept table; empty without a table.
        name (`str` or `None`): What it is called, if anything; by whom is in `named_by`.
        label (`str` or `None`): Label that most of its tokens in the table have.
        purity (`float` or `None`): Share of its tokens with that label.
        num_texts (`int` or `None`): Number of texts of the table in which it occurs.
        named_by (`str` or `None`): Who named it, in words: `"named by a model"`, or a person and a date.
        fits (`bool` or `None`): Whether its strongest token is as near to it as the training tokens were; `None` if
            their distances are not known.
    """

    code: int
    contribution: float
    words: list[str]
    positions: list[int]
    top_words: list[str] = field(default_factory=list)
    name: str | None = None
    label: str | None = None
    purity: float | None = None
    num_texts: int | None = None
    named_by: str | None = None
    fits: bool | None = None

    @property
    def title(self) -> str:
        """`str`: The concept in words: number, name if it has one, and its words."""
        words = ", ".join(self.top_words[:4] or self.words[:4])
        if self.name is None:
            return f"Concept {self.code} ({words})"
        marked = f"{BY_MODEL}; {words}" if self.named_by == BY_MODEL else words  # nobody has checked what a model says
        return f"Concept {self.code} “{self.name}” ({marked})"

    @property
    def known(self) -> str:
        """`str`: What the concept table knows of it; empty without a table."""
        if self.num_texts is None:
            return ""
        label = "" if self.label is None else f"{self.label} ({self.purity:.0%}), "
        return f"{', '.join(self.top_words)} – {label}{self.num_texts:,} texts"


@dataclass(frozen=True)
class Removal:
    """The prediction without a concept.

    Attributes:
        code (`int`): The concept, removed wherever it occurs in the text.
        num_tokens (`int`): Number of tokens from which it was removed.
        removed_norm (`float`): Length of what was removed, over all tokens.
        prediction (`str`): What the host predicts without it.
        margin (`float`): Lead of the target over the best other answer without it.
        change (`float`): That margin minus the one of the whole text: negative if the concept supported the target.
        flips (`bool`): Whether the prediction is another one.
        matched (`bool` or `None`): Of the control: whether it has about as many tokens and as large a removed part as
            the salient concept. `None` for the salient concept itself.
    """

    code: int
    num_tokens: int
    removed_norm: float
    prediction: str
    margin: float
    change: float
    flips: bool
    matched: bool | None = None


@dataclass(frozen=True, repr=False)
class Explanation:
    """Which concepts made a host decide, and whether it would still decide so without the strongest one.

    Attributes:
        text (`str`): The text.
        text_id (`int`): Its number among the texts that were given.
        target (`str`): The answer that is explained.
        prediction (`str`): The answer of the host.
        probability (`float` or `None`): Of the target; `None` if the host gives none.
        margin (`float`): Lead of the target over the best other answer; see `unit`.
        unit (`str`): Of margins and scores: `"logits"`, or that of the output of a regression host.
        tokens (`list[ExplainedToken]`): In the order of the text.
        concepts (`list[ExplainedConcept]`): In order of contribution, the strongest first.
        salient (`Removal` or `None`): The prediction without the first concept; `None` if none contributes.
        control (`Removal` or `None`): The prediction without another concept of the same text, as similar as possible
            in number of tokens and removed length; `None` if there is no other.
        reliable (`bool`): Whether there is no reason against it.
        reasons (`list[str]`): Why not.
        method (`str`): How the scores were computed.
        token (`int` or `None`): Of a token classifier: the token that is asked about, as a number in `tokens`.
        special_score (`float`): Sum of the scores of special tokens, which are no words of the text. With those of
            `tokens` they add up to what the lead loses if all concepts are removed.
        error (`float`): By how much the scores miss this change, relative to the sum of their absolute values.
        num_windows (`int`): Into how many windows the text was cut; their outputs are averaged.
        num_cut (`int`): Number of tokens that were not read.
    """

    text: str
    text_id: int
    target: str
    prediction: str
    probability: float | None
    margin: float
    unit: str
    tokens: list[ExplainedToken]
    concepts: list[ExplainedConcept]
    salient: Removal | None
    control: Removal | None
    reliable: bool
    reasons: list[str]
    method: str
    token: int | None = None
    special_score: float = 0.0
    error: float = 0.0
    num_windows: int = 1
    num_cut: int = 0

    @property
    def salient_concept(self) -> ExplainedConcept | None:
        """`ExplainedConcept` or `None`: The strongest concept, if any contributes."""
        return None if self.salient is None else self.concept(self.salient.code)

    def concept(self, code: int) -> ExplainedConcept:
        """The concept with this number.

        Raises:
            KeyError: If the text does not have it.
        """
        for concept in self.concepts:
            if concept.code == code:
                return concept
        raise KeyError(code)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, with the version of this schema in `"schema"`."""
        return {"schema": SCHEMA_VERSION, **_plain(self)}

    def sentences(self) -> list[str]:
        """The explanation in words: the answer, the concept behind it, and what becomes of the answer without it."""
        sure = "" if self.probability is None else f" ({self.probability:.0%})"
        where = "" if self.token is None else f" for “{self.tokens[self.token].text}”"
        told = [f"The host predicts {self.prediction}{where}{sure}."]
        if self.target != self.prediction and self.probability is not None:
            told = [f"The host predicts {self.prediction}{where}; this is about {self.target}{sure}."]
        if self.salient is None:
            return [*told, f"No concept of the text supports {self.target}."]
        told.append(f"{self.salient_concept.title} contributes most.")
        told.append(f"Without it, the host {self._outcome(self.salient)}.")
        if self.control is not None:
            other = self.concept(self.control.code).title
            alike = "" if self.control.matched else ", which is larger or smaller"
            told.append(f"Without {other[0].lower()}{other[1:]}{alike}, it {self._outcome(self.control)}.")
        return told

    def _outcome(self, removal: Removal) -> str:
        if self.probability is None:
            return f"predicts {removal.prediction}"
        becomes = f"predicts {removal.prediction}" if removal.flips else f"still predicts {self.prediction}"
        whose = "its lead" if self.target == self.prediction else f"the lead of {self.target}"
        return f"{becomes}; {whose} changes by {signed(removal.change)} {self.unit}"

    def __rich__(self) -> Group:
        """For a terminal: the text with the salient concept's words marked, the concepts, and the sentences."""
        first = self.salient_concept
        marked = (
            set()
            if first is None
            else {(self.tokens[place].start, self.tokens[place].end) for place in first.positions}
        )
        body = Text(self.text)
        for start, end in marked:
            body.stylize("bold reverse", start, end)
        grid = Table(box=None, pad_edge=False, title_justify="left")
        for column in ("contribution", "concept", "words here", "in the concept table"):
            grid.add_column(column, justify="right" if column == "contribution" else "left")
        for concept in self.concepts[:NUM_SHOWN]:
            grid.add_row(
                signed(concept.contribution),
                Text(str(concept.code)),
                Text(", ".join(concept.words)),
                Text(concept.known),
            )
        left = len(self.concepts) - NUM_SHOWN
        parts = [body, Text(""), *(Text(sentence) for sentence in self.sentences()), Text(""), grid]
        if left > 0:
            parts.append(Text(f"… and {left} more", style="dim"))
        verdict = "Reliable by all checks." if self.reliable else "Not reliable: " + " ".join(self.reasons)
        parts += [Text(""), Text(verdict, style="" if self.reliable else "yellow"), *map(Text, self.notes())]
        return Group(*parts)

    def notes(self) -> list[str]:
        """What was done to a long text, in sentences."""
        told = []
        if self.num_windows > 1:
            told.append(f"The text was read in {self.num_windows} windows, and their outputs averaged.")
        if self.num_cut:
            told.append(f"{self.num_cut} tokens were not read, because the text is longer than the host can read.")
        return told

    def __repr__(self) -> str:
        concept = None if self.salient_concept is None else self.salient_concept.title
        start = self.text if len(self.text) <= 40 else self.text[:39] + "…"
        return f"Explanation({start!r}, target={self.target!r}, salient={concept!r}, reliable={self.reliable})"

    def __str__(self) -> str:
        console = open_console(file=StringIO(), width=100, color_system=None)
        console.print(self)
        return console.file.getvalue()  # pyrefly: ignore[missing-attribute]

    def _repr_html_(self) -> str:
        largest = max((abs(token.score) for token in self.tokens), default=0.0)
        salient = set() if self.salient is None else set(self.salient_concept.positions)
        parts, last = [], 0
        for number, token in enumerate(self.tokens):
            start, end = max(token.start, last), max(token.end, last)  # tokens of one character share it
            parts.append(
                {
                    "before": self.text[last:start],
                    "text": self.text[start:end],
                    "title": f"{self.concept_title(token.code)}, {signed(token.score)}",
                    "strength": round(100 * abs(token.score) / largest) if largest else 0,
                    "colour": 0 if token.score >= 0 else 1,
                    "salient": number in salient,
                }
            )
            last = end
        return render_page(
            "report/explanation.html",
            style=fragment_style(),
            explanation=self,
            tokens=parts,
            rest=self.text[last:],
            concepts=[(signed(concept.contribution), concept) for concept in self.concepts[:NUM_SHOWN]],
            num_left=max(len(self.concepts) - NUM_SHOWN, 0),
        )

    def concept_title(self, code: int) -> str:
        """A concept in words, if the text has it where tokens can be salient; else its number."""
        return next((concept.title for concept in self.concepts if concept.code == code), f"Concept {code}")


class Explanations(list[Explanation]):
    """Explanations of several texts, classes or words, which a notebook shows one below the other."""

    def __str__(self) -> str:
        return "\n".join(str(explanation) for explanation in self)

    def _repr_html_(self) -> str:
        more = len(self) - NUM_SHOWN
        shown = "".join(explanation._repr_html_() for explanation in self[:NUM_SHOWN])
        return shown + (f"<p>… and {more} more</p>" if more > 0 else "")


def _plain(value: Any) -> Any:
    """What `dataclasses.asdict` returns, several times as fast, because it copies no strings."""
    if is_dataclass(value):
        return {name: _plain(own) for name, own in vars(value).items()}
    return [_plain(own) for own in value] if isinstance(value, list) else value


__all__ = ["SCHEMA_VERSION", "ExplainedConcept", "ExplainedToken", "Explanation", "Explanations", "Removal"]
