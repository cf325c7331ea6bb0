"""README.md of an exported folder: what the model is, how to load it, which settings it was trained with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from megatron.export.scores import Score, score_table

_TEMPLATE = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [{tags}]
---
# {title}

{summary}

| | |
|---|---|
{table}

## Load it
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}"{trust})
model = AutoModelForCausalLM.from_pretrained("{folder}"{trust})
inputs = tokenizer("The quick brown fox", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```

## Score it
```
lm_eval --model hf --model_args pretrained={folder}{trust_lm_eval} --tasks TASKS --batch_size 4
```
{evaluated}{checked}
## Settings of the training run
```yaml
{settings}```
"""


def model_card(
    folder: Path,
    content: dict[str, Any],
    parameters: int,
    iteration: int,
    precision: str,
    settings: dict[str, Any],
    verification: dict[str, Any] | None,
    data_fingerprint: str | None = None,
    scores: Sequence[Score] = (),
) -> str:
    """Markdown. content: of config.json; settings: flat keys of the run; verification: of the report, if made.

    data_fingerprint: hash of the training data, where the checkpoint tells it.
    """
    ours = "sepllm" in content
    rows = {
        "Parameters": f"{parameters:,}",
        "Layers x hidden size": f"{content['num_hidden_layers']} x {content['hidden_size']}",
        "Attention": _rule(content["sepllm"]) if ours else "full",
        "Positions": content["max_position_embeddings"],
        "Vocabulary (padded)": content["vocab_size"],
        "Training step": iteration,
        "Precision": precision,
        "Training data (hash)": data_fingerprint or "not recorded",
    }
    evaluated = f"\n## Scores\n{score_table(scores)}\n" if scores else ""
    checked = ""
    if verification is not None:
        checked = (
            f"\n## Checked\nLogits of this folder and of the trainer's own model differ by at most "
            f"{verification['max_logit_difference']:.1e} (fp32, texts of {list(verification['lengths'])} tokens); "
            f"{verification['greedy_tokens_compared']} greedy tokens are equal.\n"
        )
    return _TEMPLATE.format(
        title=folder.name,
        summary="A causal language model with separator attention (SepLLM)."
        if ours
        else f"A causal language model of type {content['model_type']}, with full attention.",
        table="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        folder=folder.name,
        trust=", trust_remote_code=True" if ours else "",
        trust_lm_eval=",trust_remote_code=True" if ours else "",
        checked=checked,
        evaluated=evaluated,
        tags=f"sepllm, {content['model_type']}" if ours else content["model_type"],
        settings=yaml.safe_dump(settings, sort_keys=True, allow_unicode=True),
    )


def _rule(rule: dict[str, Any]) -> str:
    """One sentence on what a token sees."""
    if rule["mode"] == "full":
        return "full: every token sees all before it"
    windows = sorted(set(rule["window"]))
    nearest = (
        f"the {windows[0]} nearest tokens" if len(windows) == 1 else f"the nearest tokens (per layer {rule['window']})"
    )
    kept = {
        "sepllm": f", all separators (ids {rule['separator_token_ids']})",
        "fixed": f", every k-th token (k per layer {rule['interval']})",
        "streaming": "",
    }[rule["mode"]]
    return f"{rule['mode']}: a token sees the first {rule['init_tokens']} tokens{kept} and {nearest}"
