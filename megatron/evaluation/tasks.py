"""lm_eval tasks on a checkpoint: export it to a temporary folder, then lm_eval's own Hugging Face model."""

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from megatron.errors import SettingsError
from megatron.export.export import Source, export_checkpoint


def run_tasks(source: Source, tasks: Sequence[str], batch_size: int, device: str) -> dict[str, Any]:
    """Results per task, as lm_eval gives them: metric -> value.

    tasks: names that lm_eval knows, or paths of task YAML files (see local_tasks.py).
    Raises SettingsError for an unknown task, a missing lm_eval, or a model that has no Hugging Face form.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SettingsError(f"eval_tasks needs the package lm_eval ({error}): pip install 'sepllm[eval]'.") from error
    names, folders = task_names(tasks)
    manager = TaskManager(include_path=folders or None)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise SettingsError(
            f"eval_tasks: lm_eval knows no task {', '.join(map(repr, unknown))}. `lm_eval ls tasks` lists them; "
            "a task of your own is given by the path of its YAML file."
        )
    with tempfile.TemporaryDirectory(prefix="eval-") as folder, contextlib.redirect_stdout(sys.stderr):
        exported = Path(folder) / "model"
        export_checkpoint(source, exported, verify=False)
        results = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(exported), "trust_remote_code": True},
            tasks=names,
            task_manager=manager,
            batch_size=batch_size,
            device=device,
            bootstrap_iters=1000,
            log_samples=False,
        )
    return dict(results["results"])


def task_names(tasks: Sequence[str]) -> tuple[list[str], list[str]]:
    """(names, folders to search): a path of a YAML file stands for the task it holds."""
    names, folders = [], []
    for task in tasks:
        if not task.endswith((".yaml", ".yml")):
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
