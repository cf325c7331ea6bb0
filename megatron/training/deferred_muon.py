"""DeepSpeed's own Muon, for which its engines look and which no run of ours uses, imported without the compiler.

DeepSpeed 0.19 compiles its kernels where the file is imported, which brings all of torch's Inductor: a quarter of the
time that a rank needs to start.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

from deepspeed.runtime import compiler

_FILE = "deepspeed.runtime.zero.muon.muon_optimizer"


def defer_muon() -> None:
    """Import it so that its kernels are compiled at their first call."""
    compile_now = getattr(compiler, "compile", None)
    if compile_now is None:
        return
    compiler.compile = functools.partial(_at_first_call, compile_now)
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module(_FILE)
    finally:
        compiler.compile = compile_now


def _at_first_call(decorator: Callable[..., Any], *options: Any, **named: Any) -> Callable[..., Any]:
    """decorator(*options), but what it decorates stays as it is until it is called."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        decorated = functools.cache(lambda: decorator(*options, **named)(function))

        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            return decorated()(*arguments, **keywords)

        return call

    return decorate
