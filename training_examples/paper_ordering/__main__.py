"""The paper's ordering, on your texts: train every kind of attention alike, score it, write one report.

python -m training_examples.paper_ordering --texts FOLDER [--out paper_ordering] [--size cpu] [--jobs 4]
Each step is one command, shown or logged; the same command goes on where it was stopped. --only trains some of the
models, --train-iters makes the trainings shorter.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import yaml

from training_examples.paper_ordering.cells import HERE, MODELS, SIZES, Cell, Study, cells, shape
from training_examples.paper_ordering.report import write_report
from training_examples.quickstart.steps import StepFailed, StepRunner


def main() -> int:
    arguments = _arguments()
    size = SIZES[arguments.size]
    study = Study(arguments.out, size, arguments.train_iters or shape(size)["train_iters"], arguments.stream_tokens)
    trained = cells(arguments.only, arguments.once)
    signal.signal(signal.SIGTERM, _as_interrupt)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread a training: several at a time use the cores better
    start = time.monotonic()
    print(f"{len(trained)} trainings of {study.train_iters} steps, {arguments.jobs} at a time -> {study.out}")
    try:
        _run(study, trained, arguments.texts, arguments.vocab_size, arguments.jobs)
    except StepFailed as failed:
        return failed.code
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here; finished steps are not repeated.", file=sys.stderr)
        return 130
    print(f"\n{write_report(study, trained)}\nThis run took {time.monotonic() - start:.0f} s.")
    return 0


def _run(study: Study, trained: list[Cell], texts: Path, vocab_size: int, jobs: int) -> None:
    prepare = study.prepare(texts, vocab_size)
    runner = StepRunner(study.out, len(prepare) + 4)
    for step in prepare:
        runner.run(step)
    data = yaml.safe_dump(study.data_settings(), sort_keys=False)
    (study.out / "data.yml").write_text(f"# The study's tokenizer and token files.\n{data}", encoding="utf-8")
    runner.run_together("Trainings", [study.train(cell) for cell in trained], jobs)
    after = [step(cell) for step in (study.evaluate, study.export) for cell in trained]
    runner.run_together("Held-out losses and exports", after, jobs)
    scores = [step(cell) for step in (study.locate, study.score) for cell in trained]
    runner.run_together("Where they lose, lm_eval, and texts without end", scores + study.streams(trained), jobs)
    models = {cell.model: cell for cell in reversed(trained)}
    runner.run_together("Seconds for a step, one model at a time", [study.time(cell) for cell in models.values()], 1)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--texts", type=Path, required=True, help="folder of .txt files; whole texts are held out")
    add("--out", type=Path, default=Path("paper_ordering"), help="default: ./paper_ordering")
    add("--size", choices=SIZES, default="cpu", help="default: cpu")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="trainings at a time (default: one for each core)")
    add("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL", help=f"of {', '.join(MODELS)}")
    add("--once", action="store_true", help="one seed only, so no error of the differences")
    add("--train-iters", type=int, metavar="N", help="steps of each training (default: as size.yml says)")
    add("--stream-tokens", type=int, default=1_000_000, metavar="N", help="held-out tokens of each stream")
    add("--vocab-size", type=int, default=8192, help="of the tokenizer (default: 8192)")
    arguments = parser.parse_args()
    if not HERE.exists():
        parser.error(f"{HERE} is not here: start this in the root folder of the repository")
    if arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: give 1 or more")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
