"""Answer budget: how many bytes one answer may take, and whether something was left out because of that."""

from threadkeep.base.problems import AnswerTooLarge


class AnswerBudget:
    """Counts what goes into an answer. The first thing that does not fit ends it, and is not in it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.is_cut = False
        """Something was left out."""

    def take(self, size: int, name: str) -> bool:
        """Count `size` bytes of the thing called `name`. False if they don't fit.

        AnswerTooLarge if they would not even fit into an empty answer and this one is: no page could ever hold the thing.
        """
        if not self.is_cut and self.used + size <= self.limit:
            self.used += size
            return True
        if self.used == 0:
            raise self._too_large(size, name)
        self.is_cut = True
        return False

    def take_all(self, size: int, name: str) -> None:
        """Count `size` bytes that can't be left out. AnswerTooLarge if they don't fit."""
        self.used += size
        if self.used > self.limit:
            raise self._too_large(self.used, name)

    def _too_large(self, size: int, name: str) -> AnswerTooLarge:
        return AnswerTooLarge(f"{name} takes {size:,} bytes; an answer holds at most {self.limit:,}")
