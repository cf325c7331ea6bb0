"""The house stands: imports go down only, nothing runs in circles, and light rooms stay free of heavy libraries.

The floors below are the plan of the repository. A new file that fits no line fails until its place is decided.
"""

import re
from pathlib import Path

import pytest

from tests.helpers.imports import Import, find_circle, read_imports, read_modules

REPOSITORY = Path(__file__).resolve().parents[1]
WINGS = ("sepllm", "megatron")
ROOF = ("deepy.py", "train.py", "eval.py", "generate.py", "tools", "benchmarks", "training_examples", "docs")

# Lowest first; the first pattern that matches a module decides. Files of one floor may use each other, without circles.
FLOORS = {
    "sepllm": [
        r"sepllm\.(errors|older_names)",
        r"sepllm\.attention\.rule",
        r"sepllm\.attention\.separators",  # strings -> ids, which a SepConfig is made from
        r"sepllm\.config",
        r"sepllm\.attention\.(plan|bilevel|self_adjusting|statistics|positions|rope_scaling)",
        r"sepllm\.attention\.(?!interface|context).+",  # the paths
        r"sepllm\.attention\.interface",
        r"sepllm\.attention\.context\..+",  # one text on several ranks
        r"sepllm\.cache\..+",
        r"sepllm\.hf\..+",
        r"sepllm\.streaming\..+",
    ],
    "megatron": [
        r"megatron\.errors",
        r"megatron\.(neox_arguments|mpu|tokenizer)\..+",
        r"megatron\.(data|model|launcher)\..+",
        r"megatron\.(optim|checkpointing|monitor)\..+",
        r"megatron\.training\..+",
        r"megatron\.(inference|export|importing|evaluation|report|planning|display)\..+",
        r"megatron\.preflight\..+",
    ],
}
HEAVY = ("torch", "deepspeed", "transformers", "lm_eval")
LIGHT = re.compile(
    r"deepy|sepllm|sepllm\.(errors|config)|megatron|"
    r"megatron\.(errors|neox_arguments|launcher|tokenizer|report|planning|display)(\..+)?|megatron\.preflight\..+"
)
TRANSFORMERS_ROOMS = re.compile(r"sepllm\.(cache|hf|streaming)\b.*")


def floor_of(module: str) -> int | None:
    """Number of the floor inside its wing; None for a module that has no place (package markers never ask)."""
    for number, pattern in enumerate(FLOORS[module.split(".")[0]]):
        if re.fullmatch(pattern, module):
            return number
    return None


def violations(root: Path) -> list[str]:
    """Everything wrong with the imports below `root`, one sentence each."""
    modules = read_modules(root, [*WINGS, *ROOF])
    imports = read_imports(modules)
    roof = {name for name in modules if name.split(".")[0] not in WINGS}
    found = [line for imported in imports for line in _wrong(imported, modules, roof)]
    found += [
        f"{name} stands on no floor: add it to tests/test_floors.py"
        for name, path in modules.items()
        if name not in roof and path.name != "__init__.py" and floor_of(name) is None
    ]
    return found + _circles(imports, modules) + _heavy_starts(imports, modules)


def _wrong(imported: Import, modules: dict[str, Path], roof: set[str]) -> list[str]:
    importer, target, place = imported.importer, imported.target, f"{imported.importer}:{imported.line}"
    wing, other = importer.split(".")[0], target.split(".")[0]
    if other not in WINGS:
        if target in roof and (importer not in roof or other != wing):
            return [f"{place} imports {target}: nothing imports the roof"]
        if wing == "sepllm" and other == "deepspeed":
            return [f"{place} imports deepspeed: sepllm works without it"]
        if wing == "sepllm" and other == "transformers" and not TRANSFORMERS_ROOMS.fullmatch(importer):
            return [f"{place} imports transformers: only the rooms cache, hf and streaming may"]
        return []
    if wing == "sepllm" and other == "megatron":
        return [f"{place} imports {target}: sepllm knows nothing of megatron"]
    if target not in modules:
        return [f"{place} imports {target}, which does not exist"]
    if wing in WINGS and modules[target].name == "__init__.py" and imported.name:
        return [f"{place} takes {imported.name} through {target}/__init__.py: import it from the file that defines it"]
    if importer == "sepllm.attention.rule":
        return [f"{place} imports {target}: the rule stands alone (exported models carry a copy of this file)"]
    if wing == other and modules[importer].name != "__init__.py" and modules[target].name != "__init__.py":
        mine, theirs = floor_of(importer), floor_of(target)
        if mine is not None and theirs is not None and theirs > mine:
            return [f"{place} imports {target}: floor {theirs} lies above floor {mine}"]
    return []


def _circles(imports: list[Import], modules: dict[str, Path]) -> list[str]:
    files: dict[str, set[str]] = {}
    rooms: dict[str, set[str]] = {}
    for imported in imports:
        # A package marker may hand names out lazily; what it names is not a step in a circle.
        if imported.target in modules and modules[imported.importer].name != "__init__.py" and not imported.for_types:
            files.setdefault(imported.importer, set()).add(imported.target)
            mine, theirs = (".".join(name.split(".")[:2]) for name in (imported.importer, imported.target))
            if mine != theirs and mine.count(".") and theirs.count("."):
                rooms.setdefault(mine, set()).add(theirs)
    return [
        f"circle of {kind}: " + " -> ".join(circle)
        for kind, edges in (("files", files), ("rooms", rooms))
        if (circle := find_circle(edges))
    ]


def _heavy_starts(imports: list[Import], modules: dict[str, Path]) -> list[str]:
    """Light modules that pull in a heavy library when they are imported, with the way they reach it."""
    edges: dict[str, set[str]] = {}
    for imported in imports:
        if imported.at_start:
            edges.setdefault(imported.importer, set()).add(imported.target)
    found = []
    for start in sorted(name for name in modules if LIGHT.fullmatch(name)):
        ways = {start: [start]}
        queue = [start]
        while queue:
            name = queue.pop()
            parents = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
            for target in edges.get(name, set()) | (parents & set(modules)):
                if target not in ways:
                    ways[target] = [*ways[name], target]
                    queue.append(target)
                    if target.split(".")[0] in HEAVY:
                        found.append(f"{start} must start light: " + " -> ".join(ways[target]))
    return found


def test_imports_go_down_only() -> None:
    assert violations(REPOSITORY) == []


def test_both_wings_and_the_roof_are_read() -> None:
    modules = read_modules(REPOSITORY, [*WINGS, *ROOF])
    assert {"sepllm.errors", "sepllm.attention.rule", "megatron.errors", "train"} <= modules.keys()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sepllm/attention/rule.py": "import sepllm.config"}, "the rule stands alone"),
        ({"sepllm/errors.py": "from sepllm.config import SepConfig"}, "floor 3 lies above floor 0"),
        ({"sepllm/attention/plan.py": "def f():\n    import megatron.errors"}, "knows nothing of megatron"),
        ({"sepllm/attention/packed.py": "import deepspeed.ops"}, "works without it"),
        ({"sepllm/attention/packed.py": "from transformers import AutoModel"}, "only the rooms"),
        ({"megatron/data/loader.py": "from ..training import pretrain"}, "floor 4 lies above floor 2"),
        ({"megatron/data/loader.py": "from train import main"}, "nothing imports the roof"),
        ({"megatron/data/loader.py": "from megatron.data.samples import x"}, "does not exist"),
        ({"megatron/basement.py": ""}, "stands on no floor"),
        ({"megatron/launcher/start.py": "import torch"}, "must start light: megatron.launcher.start -> torch"),
        ({"sepllm/config.py": "from sepllm.errors import E", "sepllm/errors.py": "import torch"}, "errors -> torch"),
        (
            {"megatron/mpu/__init__.py": "from megatron.mpu.layers import Linear", "megatron/mpu/layers.py": "",
             "megatron/model/gpt.py": "from megatron.mpu import Linear"},
            "takes Linear through megatron.mpu/__init__.py",
        ),
        (
            {"megatron/model/a.py": "from megatron.model import b",
             "megatron/model/b.py": "def late():\n    import megatron.model.a"},
            "circle of files: megatron.model.a -> megatron.model.b -> megatron.model.a",
        ),
        (
            {"megatron/data/a.py": "import megatron.model.b", "megatron/model/b.py": "", "megatron/data/c.py": "",
             "megatron/model/d.py": "import megatron.data.c"},
            "circle of rooms: megatron.data -> megatron.model -> megatron.data",
        ),
    ],
)  # fmt: skip
def test_a_planted_violation_is_found(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    base = {"sepllm/errors.py": "", "megatron/errors.py": "class UserError(Exception): ...", "train.py": ""}
    base |= {"sepllm/config.py": "", "sepllm/attention/rule.py": "", "megatron/training/pretrain.py": ""}
    plant(tmp_path, base)
    assert violations(tmp_path) == []
    plant(tmp_path, files)
    assert expected in "\n".join(violations(tmp_path))


def test_lazy_and_type_checking_imports_keep_a_light_room_light(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "megatron/tokenizer/lazy.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
            "def build():\n    import transformers\n",
        },
    )
    assert violations(tmp_path) == []


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
