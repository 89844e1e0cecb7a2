"""The privacy budget on the terminal: a sentence, a table by study, a picture over time."""

from datetime import datetime

from rich.console import Console
from rich.table import Table

from f2b_client.budget import MOST_ROUNDS_AHEAD, Budget, StudyBudget
from f2b_client.commands.chart import block_chart

AXIS = 8
"""Characters left of the picture."""


def print_budget(console: Console, budget: Budget) -> None:
    """Everything about one cohort."""
    console.print(
        f"[bold]{budget.cohort}[/]: epsilon [bold]{budget.spent:.2f}[/] of {budget.limit:g} spent, "
        f"[bold]{budget.left:.2f}[/] left, at delta {budget.delta:g}."
    )
    if budget.studies:
        console.print(_table(budget.studies))
        console.print(
            "'spent' counts (RDP); PLD is the same by a tighter accountant. 'limit' is the stricter of study and "
            "policy, 'left' what all studies together leave of it.",
            style="dim",
        )
    else:
        console.print("No study is approved here, and none has spent anything.")
    if budget.history:
        _print_picture(console, budget)
    elif budget.studies:
        console.print("Nothing was spent: no round was trained with differential privacy here.")


def _table(studies: tuple[StudyBudget, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("study", overflow="ellipsis", no_wrap=True, max_width=22)
    for name in ("rounds", "spent", "PLD", "limit", "left", "next", "covers"):
        table.add_column(name, justify="right", no_wrap=True)
    for study in studies:
        name = study.name or f"{study.study_hash[:8]}…, unapproved"
        spent = (str(study.rounds), f"{study.spent:.2f}", f"{study.spent_pld:.2f}")
        table.add_row(name, *spent, *_ahead(study))
    return table


def _ahead(study: StudyBudget) -> tuple[str, ...]:
    """Limit, what is left, the next round's cost and how many such rounds are covered."""
    if not study.private:
        return ("no DP",)
    if not study.name:
        return ()
    cost = "unknown" if study.next_round is None else f"+{study.next_round:.2f}"
    return f"{study.limit:g}", f"{study.left:.2f}", cost, _covers(study)


def _covers(study: StudyBudget) -> str:
    if study.rounds_left is None:
        return ""
    if study.rounds_left >= MOST_ROUNDS_AHEAD:
        return f"{MOST_ROUNDS_AHEAD}+ more"
    return f"{study.rounds_left} more"


def _print_picture(console: Console, budget: Budget) -> None:
    """Epsilon after each charge, up to the limit."""
    values = [spending.epsilon for spending in budget.history]
    top = max(budget.limit, values[-1])
    lines = block_chart(values, top, console.width - AXIS - 2)
    console.print("\nEpsilon after each round", style="bold")
    for index, line in enumerate(lines):
        label = f"{top:g}" if index == 0 else ""
        console.print(f"{label:>{AXIS}}┤{line}" if label else f"{'':>{AXIS}}│{line}", markup=False)
    console.print(f"{'0':>{AXIS}}└{'─' * len(lines[0])}", markup=False)
    first, last = (_day(budget.history[index].at) for index in (0, -1))
    span = first if len(values) == 1 else f"{first} to {last}"
    console.print(
        f"{'':>{AXIS}} {span}; the top is {'the limit' if top == budget.limit else top}.", markup=False
    )


def _day(at: str) -> str:
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M}"
