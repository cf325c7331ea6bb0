"""Runs named checks in Triton's interpreter and prints {name: what went wrong, or null} as JSON.

A program of its own, because TRITON_INTERPRET must be set before triton is imported for the first time.
"""

import json
import sys
import warnings
from typing import Any

import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

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


def repair_bfloat16() -> None:
    """What the interpreter of Triton 3.7 to 3.9 does otherwise than a GPU.

    It keeps bfloat16 as integers, which it multiplies as they are, and cuts float32 off instead of rounding it.
    """
    product, convert = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (convert(self, t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        return product(self, a, b, *rest)

    def cast_impl(self: Any, source: Any, kind: Any) -> Any:
        if (source.dtype.scalar, kind.scalar) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(source.data).bfloat16().view(torch.uint16)
            return TensorHandle(rounded.numpy(), tl.bfloat16)
        return convert(self, source, kind)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl


if __name__ == "__main__":
    repair_bfloat16()
    main(sys.argv[1:])
