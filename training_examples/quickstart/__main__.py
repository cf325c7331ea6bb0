"""`make quickstart`: from the text on this machine to a trained, exported, scored, generating SepLLM model.

Every step is one command that it shows before it runs; all results lie under ./quickstart. Running it again skips
what is done. By hand, in the virtual environment: python -m training_examples.quickstart [--train-iters N]
"""

import argparse
import sys
import time
from pathlib import Path

from training_examples.quickstart.steps import STOPPED_AFTER_SAVE, Step, StepFailed, StepRunner

HERE = Path("training_examples/quickstart")
SETTINGS = HERE / "quickstart.yml"
OUT = Path("quickstart")
CORPUS, DATA, CHECKPOINTS, MODEL = OUT / "corpus", OUT / "data", OUT / "checkpoints", OUT / "model"
TOKENIZER, TASKS, SCORES, SAMPLES = OUT / "tokenizer.json", OUT / "tasks", OUT / "scores", OUT / "samples.jsonl"
EVENTS = CHECKPOINTS / "events.jsonl"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
TRAIN_ITERS = 500


def steps(train_iters: int, questions: int) -> list[Step]:
    """All steps, in order. train_iters: optimizer steps; questions: held-out passages per lm_eval task."""
    length = f" --set train_iters={train_iters}" if train_iters != TRAIN_ITERS else ""
    train = f"python deepy.py train.py {SETTINGS}{length}"
    half = train_iters // 2
    return [
        Step(
            "corpus",
            "Corpus: English text that every Python carries",
            "python -m training_examples.quickstart.corpus",
            reads=[HERE / "corpus.py"],
            makes=[CORPUS / "train.jsonl", CORPUS / "heldout.jsonl"],
        ),
        Step(
            "tokenizer",
            "Tokenizer: 4096 BPE tokens, every separator one of its own",
            "python -m training_examples.quickstart.train_tokenizer",
            reads=[HERE / "train_tokenizer.py", CORPUS / "train.jsonl"],
            makes=[TOKENIZER],
        ),
        *(_data_step(part, title) for part, title in (("train", "training text"), ("heldout", "held-out text"))),
        Step(
            "train",
            f"Training: 2 processes, one pipeline stage each; stops half-way, at step {half} of {train_iters}",
            f"{train} --set exit_interval={half}",
            reads=[SETTINGS, DATA / "train_text_document.bin"],
            makes=[CHECKPOINTS / f"global_step{half}"],
            clears=[CHECKPOINTS],
            expect=STOPPED_AFTER_SAVE,
        ),
        Step(
            "resume",
            f"Training, resumed from the checkpoint of step {half}",
            f"{train} --set load={CHECKPOINTS}",
            reads=[SETTINGS],
            makes=[CHECKPOINTS / f"global_step{train_iters}"],
        ),
        *(
            Step(
                f"evaluate-{which}",
                f"Validation loss of the {which} model on the held-out text",
                f"python eval.py {SETTINGS}{length} {how}",
                reads=[SETTINGS],
                makes=[OUT / "logs" / f"evaluate-{which}.log"],
            )
            for which, how in (("untrained", "--untrained"), ("trained", f"--set load={CHECKPOINTS}"))
        ),
        Step(
            "export",
            "Export: a folder that Hugging Face transformers loads by itself",
            f"python tools/ckpts/convert_neox_to_hf.py --input_dir {CHECKPOINTS}/global_step{train_iters} "
            f"--config_file {SETTINGS} --output_dir {MODEL}",
            reads=[SETTINGS],
            makes=[MODEL / "config.json"],
            clears=[MODEL],
        ),
        Step(
            "tasks",
            "Scoring tasks from the held-out text: right continuation, perplexity, next word",
            f"python -m training_examples.quickstart.tasks --questions {questions}",
            reads=[HERE / "tasks.py", CORPUS / "heldout.jsonl"],
            makes=[TASKS / "quickstart_choice.yaml"],
            clears=[TASKS],
        ),
        Step(
            "score",
            "Scores of the exported model by lm_eval's stock command, offline (half a minute)",
            f"lm_eval --model hf --model_args pretrained={MODEL},trust_remote_code=True --include_path {TASKS} "
            "--tasks quickstart_choice,quickstart_rolling,quickstart_generate --device cpu --batch_size 8 "
            f"--output_path {SCORES}/results.json",
            reads=[TASKS / "quickstart_choice.jsonl"],
            makes=[SCORES],
            clears=[SCORES],
            shows=r"^\|",
            environment=OFFLINE,
        ),
        Step(
            "generate",
            "Generation from prompts",
            f"python generate.py {SETTINGS}{length} --set load={CHECKPOINTS} --set text_gen_type=input-file "
            f"--set sample_input_file={HERE}/prompts.txt --set sample_output_file={SAMPLES} "
            "--set maximum_tokens=40 --set temperature=0.7 --set top_k=40",
            reads=[HERE / "prompts.txt", SETTINGS],
            makes=[SAMPLES],
        ),
        Step(
            "closing",
            "Loss plot and closing table",
            "python -m training_examples.quickstart.closing",
            reads=[HERE / "closing.py"],
            makes=[OUT / "loss.png", OUT / "results.json"],
            prefix="  ",
        ),
    ]


def _data_step(part: str, title: str) -> Step:
    return Step(
        f"data-{part}",
        f"Token files (.bin and .idx) of the {title}",
        f"python tools/datasets/preprocess_data.py --input {CORPUS}/{part}.jsonl --output-prefix {DATA}/{part} "
        f"--tokenizer-type HFTokenizer --vocab-file {TOKENIZER} --append-eod --workers 2",
        reads=[CORPUS / f"{part}.jsonl", TOKENIZER],
        makes=[DATA / f"{part}_text_document.bin", DATA / f"{part}_text_document.idx"],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-iters", type=int, default=TRAIN_ITERS, help="optimizer steps; even, at least 4")
    parser.add_argument("--questions", type=int, default=64, help="held-out passages per lm_eval task")
    arguments = parser.parse_args()
    if arguments.train_iters < 4 or arguments.train_iters % 2:
        parser.error(f"--train-iters {arguments.train_iters}: give an even number, at least 4 (the run stops half-way)")
    if not SETTINGS.exists():
        parser.error(f"{SETTINGS} is not here: start this in the root folder of the repository")
    plan = steps(arguments.train_iters, arguments.questions)
    runner = StepRunner(OUT, len(plan))
    start = time.monotonic()
    print(f"SepLLM quickstart: {len(plan)} steps, about four minutes on two cores; everything goes to ./{OUT}")
    try:
        for step in plan:
            runner.run(step)
    except StepFailed as failed:
        return failed.code
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here; finished steps are not repeated.", file=sys.stderr)
        return 130
    if plan[-1].name in runner.skipped:
        print(runner.log_of(plan[-1]).read_text("utf-8"), end="")
    print(f"This run took {time.monotonic() - start:.0f} s; all steps together {sum(runner.seconds.values()):.0f} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
