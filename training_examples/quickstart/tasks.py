"""lm_eval tasks out of the held-out text: pick the right continuation, perplexity, next word.

By hand: python -m training_examples.quickstart.tasks
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from megatron.evaluation.local_tasks import write_local_tasks
from training_examples.quickstart.train_tokenizer import read_texts

PASSAGE_WORDS = 70


def passages(texts: Iterable[str]) -> Iterator[str]:
    """Consecutive paragraphs of one text, joined until they have enough words for a question; the rest is left."""
    for text in texts:
        waiting: list[str] = []
        for paragraph in text.split("\n\n"):
            waiting.append(paragraph)
            if sum(len(part.split()) for part in waiting) >= PASSAGE_WORDS:
                yield "\n\n".join(waiting)
                waiting = []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=Path("quickstart/corpus/heldout.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("quickstart/tasks"))
    parser.add_argument("--questions", type=int, default=64, help="most documents per task")
    parser.add_argument("--name", default="quickstart", help="the tasks are called NAME_choice, NAME_rolling, ...")
    arguments = parser.parse_args()
    texts = list(passages(read_texts(arguments.input)))
    names = write_local_tasks(
        arguments.output,
        texts,
        name=arguments.name,
        context_words=50,
        continuation_words=12,
        questions=arguments.questions,
    )
    used = min(len(texts), arguments.questions)
    print(f"{used} of {len(texts)} held-out passages in {', '.join(names)} -> {arguments.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
