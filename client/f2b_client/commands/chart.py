"""A small picture of numbers over time, drawn with block characters, for the terminal."""

from collections.abc import Sequence

EIGHTHS = " ▁▂▃▄▅▆▇█"
HEIGHT = 8


def block_chart(values: Sequence[float], top: float, width: int) -> list[str]:
    """Lines of a column chart, the highest first.

    Args:
        values: in order, none negative; where there are more than `width`, a column shows the last of its share.
        top: what a full column stands for.
        width: characters in a line; few values are drawn in wider columns.
    """
    thickness = max(1, min(6, width // len(values)))
    columns = min(len(values), width)
    picked = [values[(index + 1) * len(values) // columns - 1] for index in range(columns)]
    filled = [round(min(value / top, 1.0) * HEIGHT * 8) if top > 0 else 0 for value in picked]
    filled = [max(1, eighths) if value > 0 else 0 for eighths, value in zip(filled, picked, strict=True)]
    return [
        "".join(EIGHTHS[min(8, max(0, eighths - 8 * row))] * thickness for eighths in filled)
        for row in reversed(range(HEIGHT))
    ]
