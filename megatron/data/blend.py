"""Mix several sets by weight: which set stands at a position, and which of its samples. Integers only, no chance.

The rule is GPT-NeoX's: at each step take the set that lags furthest behind its share (ties: the first). In integers
the pattern repeats after as many steps as the weights add up to, so a short table answers for any position.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm
from typing import Protocol

import numpy as np

from megatron.errors import SettingsError

PARTS = 100_000  # the table's length at most; weights that need more are rounded to parts of this


class Mixture(Protocol):
    """Which set stands at a position.

    shares: of each set, adding up to one (where they change: at the start). size: positions there are; None: endless.
    """

    @property
    def shares(self) -> tuple[float, ...]: ...

    @property
    def size(self) -> int | None: ...

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Set number and position within the set for each position: two int64 arrays of the same shape."""
        ...


class Blend:
    """Positions of the mixture -> (set, position within that set), in constant time.

    weights: shares, any scale, 0 or more. They are met exactly when, in lowest terms, they add up to at most 100,000
    (all weights of up to five digits); otherwise each is rounded to a part in 100,000, and none above 0 to nothing.
    """

    size: int | None = None

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = integer_weights(weights)
        self.period = sum(self.weights)
        # The very first step has no lag to go by and differs from later rounds, hence two rounds.
        self._sets = greedy_sets(self.weights, 2 * self.period)
        self._ranks = np.empty(2 * self.period, dtype=np.int64)
        for k, weight in enumerate(self.weights):
            self._ranks[self._sets == k] = np.arange(2 * weight)

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(weight / self.period for weight in self.weights)

    def taken(self, steps: int) -> np.ndarray:
        """How many of the first `steps` positions each set has: int64 [sets]."""
        rounds = max(steps // self.period - 1, 0)
        table = np.bincount(self._sets[: steps - rounds * self.period], minlength=len(self.weights))
        return table + rounds * np.array(self.weights, dtype=np.int64)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Set number and position within the set for each position: two int64 arrays of the same shape."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise IndexError(f"position {positions.min()} is negative")
        rounds = np.maximum(positions // self.period - 1, 0)
        places = positions - rounds * self.period
        sets = self._sets[places]
        return sets, self._ranks[places] + rounds * np.array(self.weights, dtype=np.int64)[sets]


def greedy_sets(weights: Sequence[int], steps: int) -> np.ndarray:
    """The set taken at each step: int64 [steps]. Sets of weight 0 are never taken."""
    total = sum(weights)
    lags = [0] * len(weights)  # weight * step - taken * total; exact
    first = max(range(len(weights)), key=lambda k: weights[k])
    candidates = [k for k, weight in enumerate(weights) if weight]
    sets = np.empty(steps, dtype=np.int64)
    for step in range(steps):
        chosen = max(candidates, key=lags.__getitem__) if step else first
        sets[step] = chosen
        for k in candidates:
            lags[k] += weights[k]
        lags[chosen] -= total
    return sets


def integer_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """The same shares as whole numbers in lowest terms that add up to at most `PARTS`."""
    if not weights or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise SettingsError(
            f"data weights: expected numbers of 0 or more, at least one above 0; found {list(weights)}."
        )
    exact = [Fraction(str(weight)) for weight in weights]  # 0.1 means a tenth, not the nearest binary number
    scale = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    whole = [weight // gcd(*whole) for weight in whole]
    if sum(whole) > PARTS:
        whole = [max(1, round(Fraction(weight * PARTS, sum(whole)))) if weight else 0 for weight in whole]
        # Rounding may miss the total by a few parts, which the largest set evens out.
        whole[whole.index(max(whole))] += PARTS - sum(whole)
    return tuple(whole)
