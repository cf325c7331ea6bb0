"""Runs named checks in Triton's interpreter and prints {name: what went wrong, or null} as JSON.

A program of its own, because TRITON_INTERPRET must be set before triton is imported for the first time.
"""

import json
import sys
import warnings

import torch

from tests.sepllm.attention.triton.checks import all_checks


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # numpy warns of numbers in rows past the end, which are never stored
    checks, found = all_checks("cpu"), {}
    for name in names:
        try:
            checks[name]()
            found[name] = None
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
