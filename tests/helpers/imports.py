"""Reads which file imports which, by syntax alone: nothing of the project is executed."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import: the file's module, the module it asks for, the name taken from it, and how it is meant."""

    importer: str
    target: str
    name: str | None
    line: int
    at_start: bool  # executed when the file is imported, not inside a function
    for_types: bool  # under TYPE_CHECKING: never executed


def module_name(path: Path, root: Path) -> str:
    """`sepllm/attention/rule.py` -> `sepllm.attention.rule`; a package's `__init__.py` stands for the package."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules(root: Path, folders: Iterable[str]) -> dict[str, Path]:
    """Modules of the named folders and files below `root`, by dotted name."""
    modules = {}
    for folder in folders:
        start = root / folder
        for path in [start] if start.suffix == ".py" else sorted(start.rglob("*.py")):
            if path.exists():
                modules[module_name(path, root)] = path
    return modules


def read_imports(modules: dict[str, Path]) -> list[Import]:
    """Every import of every module. `from package import name` points at `package.name` when that is a module."""
    found = []
    for module, path in modules.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node, at_start, for_types in _import_nodes(ast.parse(path.read_text(encoding="utf-8")), True, False):
            found += [
                Import(module, target, name, node.lineno, at_start, for_types)
                for target, name in _targets(node, package, modules)
            ]
    return found


def _import_nodes(
    node: ast.AST, at_start: bool, for_types: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_start and not for_types, for_types
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checker = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _import_nodes(child, at_start and not function, for_types or checker)


def _targets(
    node: ast.Import | ast.ImportFrom, package: str, modules: dict[str, Path]
) -> Iterator[tuple[str, str | None]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, None
        return
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, base] if base else above)
    for alias in node.names:
        if f"{base}.{alias.name}" in modules:
            yield f"{base}.{alias.name}", None
        else:
            yield base, alias.name


def find_circle(edges: dict[str, set[str]]) -> list[str]:
    """One closed chain of names, its first repeated at the end, or an empty list."""
    state: dict[str, int] = {}

    def walk(name: str, trail: list[str]) -> list[str]:
        state[name] = 1
        for target in sorted(edges.get(name, ())):
            if state.get(target) == 1:
                return [*trail[trail.index(target) :], target]
            if target not in state and (circle := walk(target, [*trail, target])):
                return circle
        state[name] = 2
        return []

    for name in sorted(edges):
        if name not in state and (circle := walk(name, [name])):
            return circle
    return []
