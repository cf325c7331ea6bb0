"""Which weights of a checkpoint a new run starts from: a plan by names and shapes, and all that does not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from megatron.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
_VOCABULARY = ("*word_embeddings*", "*final_linear*")
_SHOWN = 6


@dataclass(frozen=True)
class WarmStartPlan:
    """loaded: names that are taken over. fresh: name -> why not, for the model's others. unused: the checkpoint's."""

    loaded: tuple[str, ...]
    fresh: dict[str, str]
    unused: tuple[str, ...]
    loaded_weights: int
    all_weights: int

    def lines(self, folder: object) -> list[str]:
        """The report for people."""
        report = [
            f"Warm start from {folder}: {len(self.loaded)} of {len(self.loaded) + len(self.fresh)} tensors loaded, "
            f"{self.loaded_weights:,} of {self.all_weights:,} weights; step 0, fresh optimizer state."
        ]
        if self.fresh:
            report.append(f"Starts fresh: {_listed([f'{name} ({why})' for name, why in self.fresh.items()])}.")
        if self.unused:
            report.append(f"Not used of the checkpoint: {_listed(self.unused)}.")
        return report


def plan_warm_start(folder: object, saved: Shapes, model: Shapes, fresh: Sequence[str]) -> WarmStartPlan:
    """Match the tensors of a checkpoint with those of the model by name and shape.

    fresh: patterns (`*` stands for anything) of names that are not taken over although they may differ.
    Raises CheckpointError with all that does not fit and no pattern covers, and for a pattern that names nothing.
    """
    for pattern in fresh:
        if not any(fnmatchcase(name, pattern) for name in {*saved, *model}):
            raise CheckpointError(f"warm_start_fresh: {pattern!r} names no weight. Names are {_listed(sorted(model))}.")
    asked = {name for name in {*saved, *model} if any(fnmatchcase(name, pattern) for pattern in fresh)}
    reasons = {
        name: "not in the checkpoint"
        if name not in saved
        else f"{list(saved[name])} in the checkpoint, {list(shape)} here"
        if saved[name] != shape
        else "as asked"
        for name, shape in model.items()
        if name in asked or saved.get(name) != shape
    }
    unused = sorted(set(saved) - set(model))
    wrong = [f"{name}: {why}" for name, why in sorted(reasons.items()) if name not in asked]
    wrong += [f"{name}: only in the checkpoint" for name in unused if name not in asked]
    if wrong:
        names = [line.partition(":")[0] for line in wrong]
        raise CheckpointError(
            f"{folder} does not fit this model; {len(wrong)} tensors differ:\n"
            + "".join(f"  {line}\n" for line in wrong[:_SHOWN])
            + (f"  and {len(wrong) - _SHOWN} more\n" if len(wrong) > _SHOWN else "")
            + "Set the model as it was saved (state.json), or leave these out by name, for example "
            f"warm_start_fresh: ['{names[0]}']; * stands for anything."
        )
    loaded = tuple(sorted(set(model) - set(reasons)))
    return WarmStartPlan(
        loaded=loaded,
        fresh=dict(sorted(reasons.items())),
        unused=tuple(unused),
        loaded_weights=sum(prod(model[name]) for name in loaded),
        all_weights=sum(map(prod, model.values())),
    )


def check_vocabulary(folder: object, saved: str | None, present: str, plan: WarmStartPlan) -> None:
    """With another tokenizer an id means another token, so weights that stand for ids may not be taken over.

    saved, present: fingerprints of the tokenizers.
    """
    taken = [name for name in plan.loaded if any(fnmatchcase(name, pattern) for pattern in _VOCABULARY)]
    if saved != present and taken:
        raise CheckpointError(
            f"{folder} was trained with another tokenizer (vocabulary hash {str(saved)[:12]}, now {present[:12]}), and "
            f"{' and '.join(taken)} belong to its ids. Set vocab_file to the tokenizer of that run, or start these "
            f"fresh: warm_start_fresh: {list(_VOCABULARY)}."
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
