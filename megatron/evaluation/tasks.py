"""lm_eval's part of an evaluation: find the tasks, score them, and say by what each score can be repeated."""

import contextlib
import functools
import hashlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
import yaml

from megatron.errors import SettingsError
from megatron.evaluation.scorer import Scorer
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.tokenizer.tokenizer import Tokenizer

_KEPT = ("versions", "n-shot", "n-samples", "higher_is_better", "configs", "group_subtasks")


@dataclass(frozen=True)
class TaskScores:
    """scores: task or group -> metric -> value, standard errors among them, under lm_eval's names.

    hashes: task -> sha256 of its settings, the prompt's template among them. details: lm_eval's versions, shots,
    numbers of documents and task settings. table: for people.
    """

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    table: str = ""


def score_tasks(scorer: Scorer, tokenizer: Tokenizer, args: NeoXArgs) -> TaskScores:
    """Run `eval_tasks` with the shots, limit and batch size of the settings; random generators stay as they are.

    Raises SettingsError for an unknown task, a missing lm_eval, or a task that asks for sampling.
    """
    names, manager = find_tasks(args.eval_tasks or ())
    import lm_eval
    from lm_eval.utils import make_table

    from megatron.evaluation.lm_eval_adapter import CheckpointLM

    batch_size = args.eval_batch_size or args.derived.micro_batch_size
    model = CheckpointLM(scorer, tokenizer, max_positions=args.max_position_embeddings, batch_size=batch_size)
    with contextlib.redirect_stdout(sys.stderr), _unchanged_generators():
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=names,
            task_manager=manager,
            num_fewshot=args.eval_num_fewshot,
            limit=args.eval_limit,
            batch_size=batch_size,
            bootstrap_iters=1000,
            log_samples=False,
        )
    assert found is not None, "lm_eval gives rank 0 its results"
    details = json.loads(json.dumps({key: found[key] for key in _KEPT if key in found}, default=str))
    hashes = {
        name: hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        for name, config in details.get("configs", {}).items()
    }
    scores = dict(found["results"]) | dict(found.get("groups", {}))
    return TaskScores(scores, hashes, details, make_table(found))


def find_tasks(tasks: Sequence[str]) -> tuple[list[str], Any]:
    """(names, lm_eval's task manager) of task names and paths of task files. Raises SettingsError."""
    names, folders = task_names(tasks)
    manager = _task_manager(tuple(folders), all(map(_is_file, tasks)))
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise SettingsError(
            f"eval_tasks: lm_eval knows no task {', '.join(map(repr, unknown))}. `lm_eval ls tasks` lists them; "
            "a task of your own is given by the path of its YAML file."
        )
    return names, manager


@functools.lru_cache(maxsize=1)
def _task_manager(folders: tuple[str, ...], only_these: bool) -> Any:
    """Kept from one evaluation to the next: to read all of lm_eval's own task files takes it 8 seconds."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it loads logs to the standard output
            from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SettingsError(f"eval_tasks needs the package lm_eval ({error}): pip install 'sepllm[eval]'.") from error
    return TaskManager(include_path=list(folders) or None, include_defaults=not only_these)


def task_names(tasks: Sequence[str]) -> tuple[list[str], list[str]]:
    """(names, folders to search): a path of a YAML file stands for the task it holds."""
    names, folders = [], []
    for task in tasks:
        if not _is_file(task):
            names.append(task)
            continue
        path = Path(task)
        if not path.is_file():
            raise SettingsError(f"eval_tasks: the task file {task} does not exist.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "task" not in content:
            raise SettingsError(f"eval_tasks: {task} is no lm_eval task, it has no key `task`.")
        names.append(content["task"])
        folders.append(str(path.resolve().parent))
    return names, sorted(set(folders))


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))


@contextlib.contextmanager
def _unchanged_generators() -> Iterator[None]:
    """lm_eval seeds all of them; a training run that is evaluated goes on with its own."""
    python, arrays = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(arrays)
