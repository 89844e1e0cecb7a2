"""The doctor's findings as a table for a terminal."""

from collections.abc import Sequence

from rich.console import Group as Stacked
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from f2b_client.doctor.finding import Finding, Verdict
from f2b_client.doctor.run import Examined, Group

STYLES = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def findings_table(found: Sequence[Examined], *, show_all: bool) -> Table:
    """A row for each finding that needs a person, by group; passes collapsed to one row a group unless `show_all`."""
    table = Table("", "check", "what is so, and what to do", show_lines=False, pad_edge=False, expand=False)
    for group in dict.fromkeys(one.group for one in found):
        of_group = [one.finding for one in found if one.group is group]
        shown = [one for one in of_group if show_all or one.verdict is not Verdict.PASS]
        for finding in shown:
            table.add_row(_mark(finding.verdict), f"{group} {finding.check}", _text(finding))
        passes = sum(one.verdict is Verdict.PASS for one in of_group)
        if not show_all and passes:
            table.add_row(
                _mark(Verdict.PASS), group.value, f"{passes} {'check' if passes == 1 else 'checks'} passed"
            )
        table.add_section()
    return table


def watch_view(table: Table | None, changed: Sequence[str], line: str) -> RenderableType:
    """The table, what changed since the pass before, and what is going on now."""
    parts: list[RenderableType] = [] if table is None else [table]
    parts.extend(Text(f"changed: {change}", style="bold") for change in changed)
    parts.append(Text(line, style="dim"))
    return Stacked(*parts)


def _mark(verdict: Verdict) -> str:
    return f"[{STYLES[verdict]}]{verdict.value}[/]"


def _text(finding: Finding) -> str:
    lines = [escape(finding.what)]
    if finding.where:
        lines.append(f"[dim]{escape(finding.where)}[/]")
    if finding.mend:
        lines.append(f"→ {escape(finding.mend)}")
    return "\n".join(lines)


def progress_line(group: Group, check: str) -> str:
    """What is being looked at."""
    return f"looking at {group.value}: {check} …"
