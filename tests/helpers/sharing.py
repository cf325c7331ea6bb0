"""Which tests xdist gives to one worker together: those of a file that starts processes, those of one `xdist_group`.

Their fixtures, and the process they are forked from, are then made once. `--dist loadgroup` would read the groups off
the ends of the tests' names, which xdist 3.8 can no longer write under pytest 9.2; this reads the files.
"""

import functools
import re
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

_GROUP = re.compile(r"""xdist_group\(["'](\w+)["']\)""")


class SharedFiles(LoadScopeScheduling):
    """The units of work with the most tests begin; what is one test is a unit of its own."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        self._group_of = functools.cache(functools.partial(group_of_file, config.rootpath))

    def _split_scope(self, nodeid: str) -> str:
        return self._group_of(nodeid.partition("::")[0]) or nodeid


def group_of_file(root: Path, file: str) -> str:
    """The name of its group, its own name if it starts processes, else ""."""
    try:
        text = (root / file).read_text(encoding="utf-8")
    except OSError:
        return ""
    group = _GROUP.search(text)
    if group:
        return group[1]
    return file if "mark.multiprocess" in text else ""
