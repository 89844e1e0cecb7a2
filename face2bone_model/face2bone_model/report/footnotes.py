"""Footnotes of a table: each reason is told once below it and marked by a letter where it applies."""

import string
from collections.abc import Sequence

from markupsafe import Markup

from face2bone_model.metrics.estimate import Estimate
from face2bone_model.report.formats import estimate_cell


class Footnotes:
    """Collects reasons in the order they are first marked."""

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def mark(self, reason: str) -> Markup:
        """The letter of a reason, as a superscript."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        letter = string.ascii_lowercase[self._reasons.index(reason) % len(string.ascii_lowercase)]
        return Markup("<sup>{}</sup>").format(letter)

    def cell(self, estimate: Estimate, digits: int = 2) -> Markup:
        """An estimate with its interval; why it is missing or incomplete stands in the note."""
        if estimate.known:
            written = estimate_cell(estimate, digits)
        else:
            word = "withheld" if estimate.withheld else "not estimable"
            written = Markup('<span class="absent">{}</span>').format(word)
        return written + self.mark(estimate.reason) if estimate.reason else written

    def withheld(self, reason: str) -> Markup:
        """The cell of a count that no hospital released."""
        return Markup('<span class="absent">withheld</span>') + self.mark(reason)

    @property
    def notes(self) -> Sequence[tuple[str, str]]:
        """Letter and reason, in order."""
        return [(string.ascii_lowercase[index % 26], reason) for index, reason in enumerate(self._reasons)]
