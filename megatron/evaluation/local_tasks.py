"""lm_eval tasks made from your own held-out texts: no download, no torch.

Three kinds, as lm_eval knows them: multiple choice, rolling perplexity, generate until. Each is one YAML and one
JSONL file, used with `lm_eval --include_path FOLDER --tasks ...`.
"""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from megatron.errors import DataError

_WORD = re.compile(r"\S+\s*")


def write_local_tasks(
    folder: str | Path,
    texts: Sequence[str],
    *,
    name: str = "local",
    seed: int = 1234,
    context_words: int = 60,
    continuation_words: int = 15,
    questions: int = 100,
) -> list[str]:
    """Write NAME_choice, NAME_rolling and NAME_generate into `folder`; returns these task names.

    NAME_choice: which of four passages continues the context (one is true, three come from other texts); chance
        is 0.25. NAME_rolling: perplexity of the whole texts. NAME_generate: is the next word written right.
    texts: held-out texts; those shorter than context + continuation serve NAME_rolling only.
    questions: most documents per task. The same arguments give the same files.
    Raises DataError when fewer than four texts are long enough.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chooser = random.Random(seed)
    passages = [passage for text in texts if (passage := _cut(text, context_words, continuation_words, chooser))]
    if len(passages) < 4:
        raise DataError(
            f"{len(passages)} of {len(texts)} texts have {context_words + continuation_words} words or more; "
            "local tasks need at least 4. Give more or longer texts, or lower context_words."
        )
    passages = passages[:questions]
    documents = {
        "choice": [_question(number, passages, chooser) for number in range(len(passages))],
        "rolling": [{"text": text} for text in texts[:questions] if text.strip()],
        "generate": [{"context": context.rstrip(), "word": after.split()[0]} for context, after in passages],
    }
    for kind, rows in documents.items():
        data = folder / f"{name}_{kind}.jsonl"
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        task = _TASKS[kind] | {
            "task": f"{name}_{kind}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "metadata": {"version": 1.0},
        }
        (folder / f"{name}_{kind}.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    return [f"{name}_{kind}" for kind in documents]


_TASKS: dict[str, dict[str, Any]] = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    },
    "generate": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{word}}",
        "target_delimiter": " ",
        "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 12},
        "filter_list": [
            {
                "name": "first-word",
                "filter": [
                    {"function": "regex", "regex_pattern": r"^\s*(\S+)"},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


def _cut(text: str, context_words: int, continuation_words: int, chooser: random.Random) -> tuple[str, str] | None:
    """(context, continuation) from a random place of the text; the continuation begins with its blank."""
    words = list(_WORD.finditer(text))
    spare = len(words) - context_words - continuation_words
    if spare < 0:
        return None
    first = chooser.randint(0, spare)
    context = text[words[first].start() : words[first + context_words].start()]
    after = words[first + context_words : first + context_words + continuation_words]
    blank = context[len(context.rstrip()) :]
    return context.rstrip(), blank + text[after[0].start() : after[-1].end()].rstrip()


def _question(number: int, passages: list[tuple[str, str]], chooser: random.Random) -> dict[str, Any]:
    others = chooser.sample([other for other in range(len(passages)) if other != number], 3)
    order = [number, *others]
    chooser.shuffle(order)
    blank = re.match(r"\s*", passages[number][1])
    assert blank is not None
    # Every choice gets the blank of the true one, so that the blank itself gives nothing away.
    choices = [blank.group() + passages[choice][1].lstrip() for choice in order]
    return {"context": passages[number][0], "choices": choices, "answer": order.index(number)}
