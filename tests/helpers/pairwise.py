"""Covering arrays: few cases in which any two options of different factors meet at least once."""

import itertools
from collections.abc import Callable, Mapping, Sequence

Case = dict[str, str]


def pairwise(factors: Mapping[str, Sequence[str]], allowed: Callable[[Case], bool] = lambda case: True) -> list[Case]:
    """Cases, one option per factor, that hold every pair of options which some allowed case can hold.

    Greedy: each case begins with a pair that is still missing, and takes for each other factor the option that adds
    most missing pairs. Deterministic.
    """
    names = list(factors)
    missing = {
        frozenset([(first, x), (second, y)])
        for first, second in itertools.combinations(names, 2)
        for x in factors[first]
        for y in factors[second]
    }
    cases: list[Case] = []
    for seed in sorted(missing, key=sorted):
        if seed not in missing:
            continue
        case = _grown(dict(sorted(seed)), names, factors, missing, allowed)
        if case is not None:
            missing -= {frozenset(pair) for pair in itertools.combinations(case.items(), 2)}
            cases.append(case)
    return cases


def _grown(
    case: Case,
    names: list[str],
    factors: Mapping[str, Sequence[str]],
    missing: set[frozenset[tuple[str, str]]],
    allowed: Callable[[Case], bool],
) -> Case | None:
    """The case with an option for every factor, by depth first search along the best options; None: not allowed."""
    if not allowed(case):
        return None
    open_names = [name for name in names if name not in case]
    if not open_names:
        return case
    name = open_names[0]

    def gain(option: str) -> int:
        return sum(frozenset([(name, option), item]) in missing for item in case.items())

    for option in sorted(factors[name], key=gain, reverse=True):
        if found := _grown({**case, name: option}, names, factors, missing, allowed):
            return found
    return None
