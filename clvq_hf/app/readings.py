"""What is found out about a text, for whoever shows it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """A token of a text that was read.

    Attributes:
        start (`int`): Its first character in the text.
        end (`int`): The one after its last. Equal to `start` for special tokens.
        name (`str`): What the tokenizer calls it, such as `"##ing"`.
        code (`int`): Its concept.
        is_special (`bool`): Whether the tokenizer has added it.
    """

    start: int
    end: int
    name: str
    code: int
    is_special: bool


@dataclass(frozen=True)
class Reading:
    """What a host and its concept model make of a text.

    Attributes:
        text (`str`): The text.
        tokens (`list[Token]`): Its tokens with their concepts, special ones included.
        limit (`int` or `None`): If the text was longer, how many tokens of it were read.
        probabilities (`list[tuple[str, float]]`): Of the classes, in order, or of the likeliest next tokens; empty
            if the host predicts nothing.
    """

    text: str
    tokens: list[Token]
    limit: int | None
    probabilities: list[tuple[str, float]]


@dataclass(frozen=True)
class Bar:
    """A class, or a next token, with its probability before and after a change.

    Attributes:
        name (`str`): Of the class, or the token.
        before (`float`): Its probability as the host is.
        after (`float`): Its probability under the change.
    """

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Continuation:
    """Generated text, parted where it begins to differ from another one.

    Attributes:
        shared (`str`): What both begin with.
        different (`str`): The first token that the other does not have; empty if there is none.
        rest (`str`): What follows.
    """

    shared: str
    different: str
    rest: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.shared + self.different + self.rest


@dataclass(frozen=True)
class Effect:
    """What a change of the host's states does to its prediction.

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
    """

    reading: Reading
    num_tokens: int
    bars: list[Bar]
    prediction: tuple[str, str] | None
    margin: tuple[float, float] | None
    continuations: tuple[Continuation, Continuation] | None


__all__ = ["Bar", "Continuation", "Effect", "Reading", "Token"]
