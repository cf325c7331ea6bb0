"""What a run is about to do, said once before the first step."""

import os
import socket

from megatron.launcher.display_lines import display_is_on
from megatron.neox_arguments.show import notes
from megatron.training.run import Run


def say_what_runs(run: Run) -> None:
    """Log layout, attention rule, data and length, and open the event log with the settings."""
    args, derived, say = run.args, run.args.derived, run.reporter.say
    for note in (*notes(args), *run.datasets.notes):
        say(note)
    if derived.precision == "fp16" and run.engine.device.type == "cpu":
        run.reporter.warn("fp16 on a CPU is computed without hardware for it: slower than fp32, good for tests only.")
    if args.display == "live" and not display_is_on():
        say("display: live needs deepy.py, or a single process: plain lines here; `deepy.py watch` shows the panel.")
    if args.eval_tasks and args.eval_tasks_interval is None:
        say(f"eval_tasks {', '.join(args.eval_tasks)}: run by eval.py, and here with eval_tasks_interval.")
    context = f"{derived.cp_size} context x " if derived.cp_size > 1 else ""
    say(
        f"Layout: {derived.pp_size} pipeline x {derived.tp_size} tensor x {context}{derived.dp_size} data; "
        f"{derived.precision}; "
        f"batch {derived.train_batch_size} = {derived.micro_batch_size} micro x "
        f"{derived.gradient_accumulation_steps} accumulation x {derived.dp_size} data"
    )
    rule = run.model_config.attention
    windows = derived.windows[0] if len(set(derived.windows)) == 1 else list(derived.windows)
    separators = f", {len(rule.separators)} separators" if rule.separators else ""
    say(f"Attention: {rule.mode}, first {rule.init_tokens} tokens{separators}, windows {windows}")
    say(f"Data: {run.datasets.train.describe()}")
    say(f"Steps {run.state.iteration} to {run.train_iters} of {args.seq_length} tokens x {_batch(run)}")
    run.reporter.event(
        "resume" if run.state.iteration else "start",
        iteration=run.state.iteration,
        train_iters=run.train_iters,
        host=socket.gethostname(),
        process=os.getpid(),
        settings={"texts": args.texts, "overrides": args.overrides},
        layout={"pipeline": derived.pp_size, "tensor": derived.tp_size, "data": derived.dp_size},
        data=run.datasets.train.fingerprint,
    )


def _batch(run: Run) -> str:
    plan = run.args.derived.batch_plan
    if not plan.ramp_samples:
        return str(plan.full)
    present = plan.size_at(run.state.consumed_samples)
    return f"{present}, {plan.increment} more at a time up to {plan.full} at sample {plan.ramp_samples:,}"
