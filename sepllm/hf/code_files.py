"""The Python files that an exported folder needs to stand alone, and where they lie in this repository."""

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_FILES = (
    "hf/configuration_sepllm.py",
    "hf/modeling_sepllm.py",
    "hf/blocks.py",
    "hf/sight.py",
    "hf/families.py",
    "attention/rule.py",
    "attention/plan.py",
    "attention/masked.py",
    "attention/reference.py",
    "attention/positions.py",
    "attention/rope_scaling.py",
    "attention/bilevel.py",
    "attention/separators.py",
    "attention/self_adjusting.py",
    "errors.py",
)
_MODEL = "modeling_sepllm.py"
CODE_FILES = {Path(name).name: _PACKAGE / name for name in _FILES}
# In a folder all files lie side by side: `from sepllm.attention.rule import x` becomes `from .rule import x`.
_OWN_IMPORT = re.compile(r"^(\s*)from sepllm\.(?:\w+\.)*(\w+) import ", re.MULTILINE)


def auto_map(model_type: str) -> dict[str, str]:
    """Entry `auto_map` of config.json for "sepllm_gpt_neox" or "sepllm_llama"."""
    name = {"sepllm_gpt_neox": "SepLLMGPTNeoX", "sepllm_llama": "SepLLMLlama"}[model_type]
    return {
        "AutoConfig": f"configuration_sepllm.{name}Config",
        "AutoModel": f"modeling_sepllm.{name}Model",
        "AutoModelForCausalLM": f"modeling_sepllm.{name}ForCausalLM",
    }


def write_code_files(folder: Path) -> None:
    """Copy the code into an exported folder; only imports among these files are changed.

    `auto_map` in its config.json must be that of the model's type.
    """
    for name in CODE_FILES:
        (folder / name).write_text(_as_exported(name), encoding="utf-8")


def foreign_code(folder: Path) -> list[str]:
    """Python files in a model folder that are not what `write_code_files` of this version writes."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if path.parent != folder or path.name not in CODE_FILES or path.read_bytes() != _as_exported(path.name).encode()
    )


def _as_exported(name: str) -> str:
    text = _OWN_IMPORT.sub(r"\1from .\2 import ", CODE_FILES[name].read_text(encoding="utf-8"))
    return text + (_naming_all(text) if name == _MODEL else "")


def _naming_all(text: str) -> str:
    """Imports of the files that the model's own file does not import itself."""
    others = [
        Path(name).stem for name in CODE_FILES if name != _MODEL and f"from .{Path(name).stem} import" not in text
    ]
    lines = "".join(f"from .{name} import __name__ as _{name}  # noqa: E402, F401\n" for name in others)
    return f"\n# transformers 4 takes along only the files that this one names.\n{lines}"
