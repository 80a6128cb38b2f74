"""What people decide about the concepts of a table: names, merges, groups, and which are not listed."""

from collections.abc import Iterable, Mapping
from typing import Any

from .by_hand import ByHand, check_name
from .names import Called, ConceptName, called_by_model


class CuratedTable:
    """Names and decisions of a [`ConceptTable`][clvq_hf.ConceptTable], of machines and of people."""

    metadata: dict[str, Any]
    names: Mapping[int, ConceptName]
    by_hand: ByHand

    @property
    def codebook_size(self) -> int:
        """`int`: K, the number of concepts of the model."""
        return int(self.metadata["codebook_size"])

    def called(self, code: int) -> Called | None:
        """What a concept is called: by a person, else by a language model. Everything that shows a name asks here.

        Args:
            code (`int`): The concept. Those that are merged have one name.

        Returns:
            `Called` or `None`: The name, and who says so; `None` if it has no name.
        """
        code = self.by_hand.members(code)[0]
        if (decision := self.by_hand.names.get(code)) is not None:
            by = f"named by {decision.author}, {decision.date}"
            return Called(str(decision.name), by, by)
        return called_by_model(self.names[code]) if code in self.names else None

    def rename(self, code: int, name: str | None, *, author: str | None = None) -> None:
        """Give a concept a name, which is shown instead of one that a language model gave it.

        This and the other decisions change this object. `save_to_disk` saves them with the table, and
        [`write_by_hand`][clvq_hf.tables.write_by_hand] into a folder that has the table already.

        Args:
            code (`int`): The concept.
            name (`str` or `None`): One line of at most 100 characters; `None` takes the name back.
            author (`str`, *optional*): Who gives it. Default: the user of this machine.

        Raises:
            ValueError: If there is no such concept, or the name cannot be shown.
        """
        self._decide("rename", [code], name, undo=name is None, author=author)

    def merge(
        self, codes: Iterable[int], name: str | None = None, *, undo: bool = False, author: str | None = None
    ) -> None:
        """Show and count concepts as one, under the smallest of their numbers.

        Nothing else changes: tokens keep their codes, and figures that measure the model (`evaluate`) count codes.

        Args:
            codes (`Iterable[int]`): The concepts; those that are merged with them already stay so.
            name (`str`, *optional*): The name of the whole.
            undo (`bool`): Whether to separate all concepts that are merged with these instead.
            author (`str`, *optional*): Who decides. Default: the user of this machine.

        Raises:
            ValueError: If there is no such concept, only one, or the name cannot be shown.
        """
        codes = list(codes)
        if name is not None:
            check_name(name)  # before anything is decided
        self._decide("merge", codes, undo=undo, author=author)
        if name is not None and not undo:
            self.rename(codes[0], name, author=author)

    def group(self, codes: Iterable[int], name: str | None, *, undo: bool = False, author: str | None = None) -> None:
        """Put concepts into a group, whose name is shown beside theirs. They stay separate concepts.

        Args:
            codes (`Iterable[int]`): The concepts; each is in one group at most, the latest.
            name (`str`): The group, which may have others already.
            undo (`bool`): Whether to take these concepts out of their groups instead; `name` does not matter then.
            author (`str`, *optional*): Who decides. Default: the user of this machine.

        Raises:
            ValueError: If there is no such concept, or the name cannot be shown.
        """
        self._decide("group", codes, name, undo=undo, author=author)

    def hide(self, codes: Iterable[int], *, undo: bool = False, author: str | None = None) -> None:
        """Leave concepts out of lists of concepts. Texts and explanations that have them still show them.

        Args:
            codes (`Iterable[int]`): The concepts.
            undo (`bool`): Whether to list them again instead.
            author (`str`, *optional*): Who decides. Default: the user of this machine.

        Raises:
            ValueError: If there is no such concept.
        """
        self._decide("hide", codes, undo=undo, author=author)

    def _decide(
        self, kind: str, codes: Iterable[int], name: str | None = None, *, undo: bool, author: str | None
    ) -> None:
        self.set_by_hand(self.by_hand.decide(kind, codes, name, undo=undo, author=author))

    def set_by_hand(self, by_hand: ByHand) -> None:
        """Replace all decisions; counts are made again."""
        self.by_hand = by_hand


__all__ = ["CuratedTable"]
