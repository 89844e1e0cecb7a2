"""Seconds per round without training: our stack beside Flower's own, three sites over TLS, in one run, interleaved.

Flower's side: its SuperLink with SQLite, its SuperExec, SuperNodes and FedAvg on one array, warm executors. Ours:
SuperLink with its edge, the centre's executor, SuperNodes and executors as a hospital has them; only the work is left
out. Figures are medians; what else the machine does weighs on both alike. NVFLARE's ratio to stock Flower was measured
beside it on one machine (2.77 s of 6.3 s at 8 MB, 6.2 s of 21 s at 94 MB).
"""

import statistics
import sys

import pytest
from latency_stacks import our_stack, stock_stack

BAR = 0.5
NVFLARE = {8_000_000: 0.44, 94_000_000: 0.29}
ROUNDS = {8_000_000: 4, 94_000_000: 2}
BLOCKS = 2


def measure(stack, size, count):
    """Seconds of each round but the first, and processor seconds a round by part."""
    before = stack.cpu()
    seconds = stack.rounds(size, count + 1)
    spent = {part: (now - before[part]) / (count + 1) for part, now in stack.cpu().items()}
    return seconds[1:], spent


def line(name, seconds, spent):
    parts = ", ".join(f"{part} {used:.1f}" for part, used in spent.items())
    spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
    return f"  {name:6} {statistics.median(seconds):6.2f} s a round ({spread}); CPU s: {parts}\n"


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_a_round_takes_less_than_half_of_flowers_own(tmp_path):
    ratios, said = {}, []
    with our_stack(tmp_path / "ours") as ours, stock_stack(tmp_path / "stock") as stock:
        for size, count in ROUNDS.items():
            seconds = {stack.name: [] for stack in (ours, stock)}
            spent = {}
            for _ in range(BLOCKS):
                for stack in (ours, stock):
                    more, spent[stack.name] = measure(stack, size, count)
                    seconds[stack.name] += more
            ratio = statistics.median(seconds["ours"]) / statistics.median(seconds["stock"])
            work = sum(spent["ours"].values()) / sum(spent["stock"].values())
            ratios[size] = ratio
            said.append(f"\n{size / 1e6:.0f} MB:\n")
            said += [line(name, seconds[name], spent[name]) for name in seconds]
            said.append(
                f"  ratio {ratio:.2f} (bar {BAR}; NVFLARE's {NVFLARE[size]}); of processor seconds {work:.2f}\n"
            )
    sys.stderr.write("".join(said))
    assert all(ratio <= BAR for ratio in ratios.values()), ratios
    assert all(ratio <= NVFLARE[size] for size, ratio in ratios.items()), ratios
