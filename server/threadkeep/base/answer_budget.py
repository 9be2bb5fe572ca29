"""Answer budget: limits the bytes of one response, and records whether something was left out."""

from threadkeep.base.problems import AnswerTooLarge


class AnswerBudget:
    """Counts the bytes of a response. The first item that does not fit ends the response and is left out."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.is_cut = False
        """Whether an item was left out."""

    def take(self, size: int, name: str) -> bool:
        """Count `size` bytes of the item `name`. Return False if they do not fit.

        Raise AnswerTooLarge if the response is still empty, because then no page could contain the item.
        """
        if not self.is_cut and self.used + size <= self.limit:
            self.used += size
            return True
        if self.used == 0:
            raise self._too_large(size, name)
        self.is_cut = True
        return False

    def take_all(self, size: int, name: str) -> None:
        """Count `size` bytes that must not be left out. Raise AnswerTooLarge if they do not fit."""
        self.used += size
        if self.used > self.limit:
            raise self._too_large(self.used, name)

    def _too_large(self, size: int, name: str) -> AnswerTooLarge:
        return AnswerTooLarge(f"{name} takes {size:,} bytes: an answer may have at most {self.limit:,}")
