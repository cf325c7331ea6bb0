"""What a run tells: step lines and sentences on the console, every event as JSONL, scalars to the trackers.

Rank 0 speaks; on the other ranks every method is silent, so callers need not ask who they are.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron.launcher.display_lines import display_is_on, event_line
from megatron.monitor.comet_sink import CometSettings, CometSink
from megatron.monitor.console import StepConsole
from megatron.monitor.events import EventLog
from megatron.monitor.logger import STEPS, configure_logging, get_logger
from megatron.monitor.set_loss import SetLoss
from megatron.monitor.step_result import StepResult
from megatron.monitor.tensorboard_sink import TensorBoardSink
from megatron.monitor.trackers import Sink, Trackers
from megatron.monitor.wandb_sink import WandbSettings, WandbSink
from megatron.mpu.parallel_state import ParallelState
from megatron.neox_arguments.arguments import NeoXArgs


class Reporter:
    """Speaks for the run. The event log lies in the `save` folder, or in `log_dir` when nothing is saved."""

    def __init__(self, args: NeoXArgs, parallel: ParallelState) -> None:
        self._displayed = parallel.rank == 0 and display_is_on()
        self._logger = configure_logging(
            parallel.rank, parallel.world_size, args.log_dir, step_lines=not self._displayed
        )
        self._console = StepConsole(get_logger(STEPS).info)
        folder = args.save or args.log_dir
        speaks = parallel.rank == 0
        self._events = EventLog(Path(folder) / "events.jsonl") if speaks and folder else None
        self._trackers = Trackers(_sinks(args) if speaks else [])
        self._speaks = speaks
        self._failed = False

    def say(self, text: str) -> None:
        """One sentence for the person who watches."""
        self._console.interrupted()
        self._logger.info(text)

    def warn(self, text: str) -> None:
        self._console.interrupted()
        self._logger.warning(text)
        self.event("warning", text=text)

    def event(self, kind: str, **fields: Any) -> None:
        """One line in the event log. A resume or return takes back what trackers were told of later steps."""
        self._failed = self._failed or kind == "fault"
        if self._speaks and kind in ("start", "resume", "rollback"):
            self._trackers.rewind(fields["iteration"])
        if self._events is not None:
            self._events.write(kind, **fields)
        self._display(kind, fields)

    def tick(self, iteration: int, train_iters: int, loss: float) -> None:
        """A step has ended: nothing for a log, but a live display moves on."""
        self._display("tick", {"iteration": iteration, "train_iters": train_iters, "loss": loss})

    def _display(self, kind: str, fields: dict[str, Any]) -> None:
        line = event_line({"time": time.time(), "kind": kind, **fields}) if self._displayed else None
        if line is not None:
            sys.stdout.write(line)
            sys.stdout.flush()

    def step(self, result: StepResult) -> None:
        if self._speaks:
            self._console.show(result)
            self.event("step", **asdict(result))
            self._trackers.step(result)

    def norms(self, iteration: int, groups: dict[str, dict[str, float]]) -> None:
        """Figures of each weight, under their tag groups."""
        if self._speaks and groups:
            self.event("norms", iteration=iteration, **groups)
            tags = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
            self._trackers.scalars(tags, iteration)

    def evaluation(self, iteration: int, result: SetLoss) -> None:
        """The loss of a held-out set."""
        self.say(
            f"{result.set} at step {iteration}: loss {result.loss:.4f}, perplexity {result.perplexity:.2f}"
            f" ({result.tokens:,} tokens)"
        )
        self.event(result.split, iteration=iteration, **result.as_dict())
        self._trackers.validation(result, iteration)

    def tasks(self, iteration: int, scores: dict[str, dict[str, float]]) -> None:
        """Scores of lm_eval tasks: task -> metric -> value. Metrics come as lm_eval names them, "acc,none"."""
        for task, metrics in scores.items():
            shown = [f"{name} {value:.4f}" for name, value in metrics.items() if "," in name and "_stderr" not in name]
            self.say(f"{task} at step {iteration}: {', '.join(shown)}")
        self.event("tasks", iteration=iteration, scores=scores)
        tags = {f"tasks/{task}/{name}": value for task, metrics in scores.items() for name, value in metrics.items()}
        self._trackers.scalars({tag.replace(",", "_"): value for tag, value in tags.items()}, iteration)

    def close(self) -> None:
        self._trackers.close(self._failed)
        if self._events is not None:
            self._events.close()


def _sinks(args: NeoXArgs) -> list[Sink]:
    sinks: list[Sink] = []
    if args.tensorboard_dir is not None:
        sinks.append(TensorBoardSink(args.tensorboard_dir))
    if args.use_wandb:
        wandb = WandbSettings(
            project=args.wandb_project,
            team=args.wandb_team,
            group=args.wandb_group,
            run_name=args.wandb_run_name,
            host=args.wandb_host,
            folder=args.save,
        )
        sinks.append(WandbSink(wandb, args.to_flat_dict()))
    if args.use_comet:
        comet = CometSettings(
            workspace=args.comet_workspace,
            project=args.comet_project,
            experiment_name=args.comet_experiment_name,
            tags=tuple(args.comet_tags or ()),
            others=args.comet_others,
            folder=args.save,
        )
        sinks.append(CometSink(comet, args.to_flat_dict()))
    return sinks
