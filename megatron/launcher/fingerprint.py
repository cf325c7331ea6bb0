"""What this process runs: its source files and the versions beneath them, to be compared between hosts.

Imports no torch. A library that is loaded already speaks for itself, any other by what is installed.
"""

import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron.launcher.environment import repository_root
from megatron.launcher.place import host

LIBRARIES = ("torch", "deepspeed", "numpy", "safetensors", "transformers", "tokenizers")
_SCRIPTS = ("train.py", "eval.py", "generate.py")
_SHOWN = 5


@dataclass(frozen=True)
class Fingerprint:
    """versions: library -> version, with python and machine (x86_64); None: not installed there.

    code: one hash over `files`. files: path in the repository -> hash of the content; empty where only `code` was sent.
    """

    host: str
    folder: str
    versions: Mapping[str, str | None]
    code: str
    files: Mapping[str, str] = field(default_factory=dict)

    def brief(self) -> "Fingerprint":
        """The same without the single files: some hundred bytes."""
        return Fingerprint(self.host, self.folder, self.versions, self.code)


@dataclass(frozen=True)
class Differences:
    """Sentences that name the hosts; both empty where all is equal."""

    code: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()


def take_fingerprint() -> Fingerprint:
    """Of this process; some 20 ms."""
    files = _files(repository_root(), _folder_of_sepllm())
    versions = {name: _version(name) for name in LIBRARIES}
    return Fingerprint(
        host=host(),
        folder=str(repository_root()),
        versions={"python": platform.python_version(), "machine": platform.machine(), **versions},
        code=_hash("\n".join(f"{name} {files[name]}" for name in sorted(files)).encode()),
        files=files,
    )


def differences(taken: Sequence[Fingerprint]) -> Differences:
    """What is not the same in all of `taken`, as sentences beginning with the host that differs.

    The most common one is what the others are measured by; between equally many, the first.
    """
    code, versions = [], []
    usual = _most_common([one.code for one in taken])
    reference = next(one for one in taken if one.code == usual)
    for one in _distinct(taken):
        if one.code != usual:
            code.append(f"{one.host}: {_other_files(one, reference)} ({one.folder}; others like {reference.host})")
    for name in dict.fromkeys(name for one in taken for name in one.versions):
        usual_version = _most_common([one.versions.get(name) for one in taken])
        for one in _distinct(taken):
            found = one.versions.get(name)
            if found != usual_version:
                like = next(other.host for other in taken if other.versions.get(name) == usual_version)
                text = f"{one.host}: {name} {found or 'is not installed'}; {usual_version or 'not installed'} on {like}"
                versions.append(text)
    return Differences(tuple(dict.fromkeys(code)), tuple(dict.fromkeys(versions)))


def _other_files(one: Fingerprint, reference: Fingerprint) -> str:
    if not one.files or not reference.files:
        return f"other source files, hash {one.code} instead of {reference.code}"
    names = sorted(name for name in {*one.files, *reference.files} if one.files.get(name) != reference.files.get(name))
    words = [
        f"{name} is missing"
        if name not in one.files
        else f"{name} differs"
        if name in reference.files
        else f"{name} is extra"
        for name in names
    ]
    more = f" and {len(words) - _SHOWN} more files" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def _distinct(taken: Sequence[Fingerprint]) -> list[Fingerprint]:
    """One per host and content, in order: the ranks of a host seldom differ, and then each is worth a line."""
    seen: dict[object, Fingerprint] = {}
    for one in taken:
        seen.setdefault((one.host, one.code, tuple(one.versions.items())), one)
    return list(seen.values())


def _most_common(values: Sequence[str | None]) -> str | None:
    counts: dict[str | None, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return max(counts, key=lambda value: counts[value])


def _files(root: Path, sepllm: Path) -> dict[str, str]:
    """Hashes of our sources, by their path under the repository; a built library belongs to its machine."""
    found = {name: root / name for name in _SCRIPTS if (root / name).is_file()}
    for name, package in (("megatron", root / "megatron"), ("sepllm", sepllm)):
        for path in package.rglob("*"):
            if path.suffix in (".py", ".cpp"):
                found[f"{name}/{path.relative_to(package).as_posix()}"] = path
    return {name: _hash(path.read_bytes()) for name, path in found.items()}


def _folder_of_sepllm() -> Path:
    """Where `import sepllm` leads, which need not be this repository."""
    found = importlib.util.find_spec("sepllm")
    return Path(found.origin).parent if found and found.origin else repository_root() / "sepllm"


def _version(library: str) -> str | None:
    loaded = getattr(sys.modules.get(library), "__version__", None)
    if loaded is not None:
        return str(loaded)
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
