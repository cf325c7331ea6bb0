"""The settings as a JSON schema, for editors: `python deepy.py schema > neox.schema.json`.

It knows keys, types, bounds and meanings. Rules between keys are found by `--check`.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from megatron.neox_arguments.aliases import ALIASES
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.refused import REFUSED


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of one settings file. No key is required: files add up."""
    found = NeoXArgs.model_json_schema()
    keys = found["properties"]
    for older, newer in ALIASES.items():
        if newer in keys:
            keys[older] = {**keys[newer], "deprecated": True, "description": f"Older name of {newer}."}
    for key, refusal in REFUSED.items():
        keys.setdefault(key, {"deprecated": True, "description": f"Not available: {refusal.reason}. {refusal.instead}"})
    names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    keys["based_on"] = {**names, "description": "Files whose keys this one takes and may change."}
    found.pop("required", None)
    found.pop("description", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "Settings of a training run",
        # `-` and `_` are equal in keys.
        "patternProperties": {"^[^_]*-[^_]*(-[^_]*)*$": {}},
    }


def parser() -> argparse.ArgumentParser:
    """The command has no options."""
    return argparse.ArgumentParser(
        prog="deepy.py schema", description="Print the JSON schema of the settings files, for editors."
    )


def main(argv: Sequence[str]) -> int:
    """Print the schema."""
    parser().parse_args(argv)
    print(json.dumps(schema(), indent=1, ensure_ascii=False))
    return 0
