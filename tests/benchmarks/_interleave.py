"""Times of calls that take turns in one process: what else the machine does meets all of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random
from statistics import median, quantiles
from typing import Any

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Seconds:
    """Wall and CPU time (of all threads) of one call."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    q1: float
    median: float
    q3: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Summarise one value or more."""
        return cls(*(quantiles(values, n=4) if len(values) > 1 else values * 3))


def seconds(*parts: tuple[Call, bool]) -> Seconds:
    """Call the parts in turn and return the time of those that are marked."""
    wall = cpu = 0.0
    for part, is_timed in parts:
        walls, cpus = time.perf_counter(), time.process_time()
        part()
        if is_timed:
            wall += time.perf_counter() - walls
            cpu += time.process_time() - cpus
    return Seconds(wall, cpu)


def synchronised(call: Call) -> Call:
    """Wait for the device after the call, if one is in use."""
    if not torch.cuda.is_initialized():
        return call

    def waiting() -> None:
        call()
        torch.cuda.synchronize()

    return waiting


@dataclass
class Turns:
    """One of the calls that take turns.

    A turn is as many calls as take ``MIN_TURN`` seconds, and a multiple of ``period``: after so
    many calls the costs repeat.
    """

    call: Call
    period: int
    once: float  # seconds
    times: dict[int, Seconds]  # of one call, by round

    MIN_TURN = 0.01
    LONG = 3.0

    @classmethod
    def warm(cls, call: Call, period: int, n_first: int = 1) -> "Turns":
        """Call ``n_first`` times, which allocates everything, and once more unless that is long."""
        for _ in range(n_first):
            once = seconds((synchronised(call), True)).wall
        if once < cls.LONG:
            once = seconds((synchronised(call), True)).wall
        return cls(call, period, once, {})

    @property
    def n_calls(self) -> int:
        """How many calls a turn has."""
        return ceil(self.MIN_TURN / self.once / self.period) * self.period

    @property
    def length(self) -> float:
        """How long a turn takes, in seconds."""
        return self.once * self.n_calls

    def take(self, number: int) -> None:
        """Take the turn of a round."""

        def turn() -> None:
            for _ in range(self.n_calls):
                self.call()

        took = seconds((synchronised(turn), True))
        self.times[number] = Seconds(took.wall / self.n_calls, took.cpu / self.n_calls)

    def ratios(self, base: "Turns", kind: str) -> list[float]:
        """Return the ratios to the other's time in the same round; of "wall" or "cpu" time."""
        return [
            getattr(took, kind) / getattr(base.times[number], kind)
            for number, took in self.times.items()
        ]


def fastest(calls: Sequence[Call]) -> int:
    """Return the index of the call whose quickest of three to fifty runs is the quickest."""
    best = []
    for call in map(synchronised, calls):
        call()
        times = [seconds((call, True)).wall for _ in range(3)]
        while sum(times) < 2 * Turns.MIN_TURN and len(times) < 50:
            times.append(seconds((call, True)).wall)
        best.append(min(times))
    return best.index(min(best))


SLOW = 4.0  # lengths of the first one's turn
SLOW_EVERY = 4  # rounds
MIN_ROUNDS, MAX_ROUNDS = 2 * SLOW_EVERY + 1, 100


def interleave(turns: Sequence[Turns], budget: float, n_rounds: int | None = None) -> None:
    """Let all take turns, in another order each round, for ``budget`` seconds or more.

    Whose turn is longer than ``SLOW`` times that of the first takes part in every
    ``SLOW_EVERY``-th round only, and no longer once it has had a quarter of the budget.
    ``n_rounds`` sets the rounds instead of the budget.
    """
    longest, random = SLOW * turns[0].length, Random(0)
    if n_rounds is None:
        length = sum(turn.length for turn in turns if turn.length <= longest)
        n_rounds = min(max(ceil(budget / length), MIN_ROUNDS), MAX_ROUNDS)
    for number in range(n_rounds):
        chosen = [
            turn
            for turn in turns
            if turn.length <= longest
            or (number % SLOW_EVERY == 0 and len(turn.times) * turn.length < budget / 4)
        ]
        random.shuffle(chosen)
        for turn in chosen:
            turn.take(number)


def middle(turns: Turns) -> float:
    """Return the median wall time of a call, in seconds."""
    return median(took.wall for took in turns.times.values())
