"""What a run is about to do, said once before the first step."""

from megatron.training.run import Run


def say_what_runs(run: Run) -> None:
    """Log model size, layout, attention rule and data, and open the event log with the settings."""
    args, derived = run.args, run.args.derived
    run.log.info(
        f"Layout: {derived.pp_size} pipeline x {derived.tp_size} tensor x {derived.dp_size} data rank(s), "
        f"{derived.precision}; batch {derived.train_batch_size} = {derived.micro_batch_size} micro x "
        f"{derived.gradient_accumulation_steps} accumulation x {derived.dp_size} data"
    )
    run.log.info(f"Attention: {run.model_config.describe_attention()}")
    run.log.info(f"Data: {run.datasets.train.describe()}")
    run.log.info(f"Steps {run.state.iteration} to {args.train_iters}, sequence length {args.seq_length}")
    run.events.write(
        "start",
        iteration=run.state.iteration,
        settings=args.provenance(),
        layout={"pipeline": derived.pp_size, "tensor": derived.tp_size, "data": derived.dp_size},
        data=run.datasets.train.fingerprint,
    )
