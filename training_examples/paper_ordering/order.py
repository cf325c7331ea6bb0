"""The expected order of the models held against the measured one, and which of the differences are more than chance."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scipy import stats

from training_examples.paper_ordering.cells import MODELS
from training_examples.paper_ordering.results import Trained

Losses = dict[str, dict[int, float]]  # of a model, with a seed: nats per token

# The loss of the left one is expected to be no larger.
EXPECTED = [
    ("full", "sepllm"),
    ("full", "sepllm-ht"),
    ("sepllm-ht", "sepllm"),
    ("sepllm", "fixllm"),
    ("sepllm", "streaming"),
]
# A pair that stood further back than the nearest tokens can be repeated only by a model that still sees it.
ORDERED: dict[str, Callable[[Trained], float]] = {
    "held-out loss": lambda one: one.loss,
    "loss of tokens that repeat a pair from beyond the nearest": lambda one: one.where["pairs far"],
}


@dataclass(frozen=True)
class Chance:
    """deviation: the standard deviation of a loss, nats per token, NaN where it is not known; degrees: of freedom."""

    deviation: float
    degrees: int

    def bound(self, seeds: int) -> float:
        """What the difference of two models, a mean over that many seeds, exceeds by chance in one case of 20.

        Student's t: a deviation known from few trainings is itself uncertain.
        """
        return float(stats.t.ppf(0.975, self.degrees)) * self.deviation * math.sqrt(2 / seeds)


def orders(trained: list[Trained]) -> list[dict[str, Any]]:
    """For each kind of loss: what chance makes of it, and every expected pair with its difference and verdict."""
    found = []
    for name, of in ORDERED.items():
        losses: Losses = {}
        for one in trained:
            losses.setdefault(one.cell.model, {})[one.cell.seed] = of(one)
        chance = by_chance(losses)
        met = [pair for pair in EXPECTED if set(losses.get(pair[0], {})) & set(losses.get(pair[1], {}))]
        pairs = [_compare(losses, left, right, chance) for left, right in met]
        deviation = chance.deviation if chance.degrees else None
        found.append({"of": name, "deviation": deviation, "degrees_of_freedom": chance.degrees, "pairs": pairs})
    return found


def by_chance(losses: Losses) -> Chance:
    """How far a loss lies from what its model and its seed explain.

    A seed decides initial weights and the order of the data for all models alike, so its effect is common to them and
    no error of their differences. Not known where fewer than two models were trained with the same two seeds.
    """
    seeds = sorted(set().union(*losses.values()))
    table = [[of_model[seed] for seed in seeds] for of_model in losses.values() if set(of_model) == set(seeds)]
    if len(table) < 2 or len(seeds) < 2:
        return Chance(math.nan, 0)
    of_seed = [statistics.fmean(column) for column in zip(*table, strict=True)]
    overall = statistics.fmean(of_seed)
    squares = sum(
        (loss - statistics.fmean(row) - mean + overall) ** 2
        for row in table
        for loss, mean in zip(row, of_seed, strict=True)
    )
    degrees = (len(table) - 1) * (len(seeds) - 1)
    return Chance(math.sqrt(squares / degrees), degrees)


def as_lines(order: dict[str, Any]) -> list[str]:
    """An order of `orders` as a list in Markdown."""
    noise = (
        "standard deviation not known, too few were trained with several seeds"
        if order["deviation"] is None
        else f"standard deviation {order['deviation']:.4f} nats ({order['degrees_of_freedom']} degrees of freedom), "
        "what all models share of a seed aside"
    )
    lines = [f"Expected order of the {order['of']}; {noise}:", ""]
    for pair in order["pairs"]:
        seeds = f"{pair['seeds']} seed{'s' if pair['seeds'] > 1 else ''}"
        names = f"{MODELS[pair['left']]} <= {MODELS[pair['right']]}"
        lines.append(f"- {names}: {pair['verdict']} ({pair['difference']:+.4f} nats, {seeds})")
    return lines


def _compare(losses: Losses, left: str, right: str, chance: Chance) -> dict[str, Any]:
    """By the seeds that both have; what chance alone exceeds in one case of 20 decides nothing."""
    common = sorted(set(losses[left]) & set(losses[right]))
    difference = statistics.fmean(losses[right][seed] - losses[left][seed] for seed in common)
    bound = chance.bound(len(common)) if chance.degrees else None
    if bound is None:
        verdict = "holds, error unknown" if difference >= 0 else "fails, error unknown"
    elif abs(difference) < bound:
        verdict = f"undecided, within ±{bound:.4f}"
    else:
        verdict = f"{'holds' if difference > 0 else 'fails'}, beyond ±{bound:.4f}"
    found = {"left": left, "right": right, "difference": difference, "seeds": len(common)}
    return found | {"bound": bound, "verdict": verdict}
