"""The Python files that an exported folder needs to stand alone, and where they lie in this repository."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

CODE_FILES = {
    "configuration_sepllm_gpt_neox.py": _PACKAGE / "hf" / "configuration_sepllm_gpt_neox.py",
    "modeling_sepllm_gpt_neox.py": _PACKAGE / "hf" / "modeling_sepllm_gpt_neox.py",
    "rule.py": _PACKAGE / "attention" / "rule.py",
}

AUTO_MAP = {
    "AutoConfig": "configuration_sepllm_gpt_neox.SepLLMGPTNeoXConfig",
    "AutoModel": "modeling_sepllm_gpt_neox.SepLLMGPTNeoXModel",
    "AutoModelForCausalLM": "modeling_sepllm_gpt_neox.SepLLMGPTNeoXForCausalLM",
}


def write_code_files(folder: Path) -> None:
    """Copy the code into an exported folder. `auto_map` in its config.json must be AUTO_MAP."""
    for name, source in CODE_FILES.items():
        (folder / name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
