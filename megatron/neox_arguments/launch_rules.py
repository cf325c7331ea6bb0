"""Rules of the launch's keys."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# The first lets a variable of this host decide what runs on others; the rest say where a rank stands.
_SET_BY_US = ("LD_PRELOAD", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def forwarded_variables_are_names(args: "NeoXArgs") -> Iterator[Complaint]:
    """The entries themselves are not shown: someone may have written NAME=value with a key in it."""
    for place, entry in enumerate(args.forward_environment, start=1):
        if not _NAME.fullmatch(entry):
            yield (
                "forward_environment",
                f"entry {place} is no name of a variable. Write names alone, as in [HF_TOKEN]: values are taken from "
                "the environment of deepy.py and never stand in a file.",
            )
        elif entry in _SET_BY_US:
            yield "forward_environment", f"{entry} cannot be forwarded: ranks get their own. Remove it."


LAUNCH_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [forwarded_variables_are_names]
