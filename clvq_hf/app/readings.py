"""Results of the app for a text: readings, and effects of changes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """A token of a text that was read.

    Attributes:
        start (`int`): Index of its first character in the text.
        end (`int`): Index after its last character. Equal to `start` for special tokens.
        name (`str`): The string of the tokenizer, such as `"##ing"`.
        code (`int`): Its concept.
        is_special (`bool`): Whether the tokenizer added it.
    """

    start: int
    end: int
    name: str
    code: int
    is_special: bool


@dataclass(frozen=True)
class Reading:
    """The concepts of a text and the host's prediction.

    Attributes:
        text (`str`): The text.
        tokens (`list[Token]`): Its tokens with their concepts, special ones included.
        limit (`int` or `None`): Number of tokens that were read, if the text was longer.
        probabilities (`list[tuple[str, float]]`): Probabilities of the classes, in order, or of the likeliest next
            tokens; empty if the host has no prediction head.
        salient (`int` or `None`): Place in `tokens` of the token that supports the prediction most; `None` without a
            prediction.
        salient_is_certain (`bool`): Whether the attribution that says so converged.
    """

    text: str
    tokens: list[Token]
    limit: int | None
    probabilities: list[tuple[str, float]]
    salient: int | None = None
    salient_is_certain: bool = True


@dataclass(frozen=True)
class Bar:
    """A class, or a next token, with its probability before and after a change.

    Attributes:
        name (`str`): Name of the class, or the token.
        before (`float`): Its probability without the change.
        after (`float`): Its probability with the change.
        control (`float` or `None`): Its probability if another concept of the text is removed instead.
    """

    name: str
    before: float
    after: float
    control: float | None = None


@dataclass(frozen=True)
class Control:
    """What the host predicts if another concept of the same text is removed, to compare a removal with.

    Attributes:
        code (`int`): The other concept: of those in the text, the one with the most similar number of tokens there.
        num_tokens (`int`): Tokens of the text whose states were changed.
        prediction (`str`): The likeliest class or next token.
        margin (`float`): Logit of what was predicted without a change, minus the best other one.
    """

    code: int
    num_tokens: int
    prediction: str
    margin: float


@dataclass(frozen=True)
class Continuation:
    """Generated text, split where it begins to differ from another one.

    Attributes:
        shared (`str`): The common beginning.
        different (`str`): The first token that differs; empty if there is none.
        rest (`str`): The text after it.
    """

    shared: str
    different: str
    rest: str

    @property
    def text(self) -> str:
        """The whole text."""
        return self.shared + self.different + self.rest


@dataclass(frozen=True)
class Effect:
    """The effect of a change of the host's states on its prediction.

    Attributes:
        reading ([`Reading`][clvq_hf.app.Reading]): The text as the host reads it without the change.
        num_tokens (`int`): Tokens of the text whose states were changed.
        bars (`list[Bar]`): Classes in order, or the likeliest next tokens before and after; empty without a
            prediction.
        prediction (`tuple[str, str]` or `None`): The likeliest before and after.
        margin (`tuple[float, float]` or `None`): Logit of what was predicted before, minus the best other one;
            before and after.
        continuations (`tuple[Continuation, Continuation]` or `None`): Text that a causal language model generates,
            before and after.
        control ([`Control`][clvq_hf.app.Control] or `None`): The removal of another concept of the text; `None` if
            the text has no other, if nothing is predicted, or if the concept is swapped or pushed towards.
    """

    reading: Reading
    num_tokens: int
    bars: list[Bar]
    prediction: tuple[str, str] | None
    margin: tuple[float, float] | None
    continuations: tuple[Continuation, Continuation] | None
    control: Control | None = None


__all__ = ["Bar", "Continuation", "Control", "Effect", "Reading", "Token"]
