"""What `import sepllm` costs: no torch for the settings, and never DeepSpeed or transformers."""

import json
import subprocess
import sys

from tests.helpers.shared import REPOSITORY

HEAVY = ("torch", "deepspeed", "transformers", "pydantic", "yaml", "megatron")


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return set(json.loads(done.stdout)) & set(HEAVY)


def test_the_package_and_its_settings_need_no_torch() -> None:
    statement = "import sepllm; from sepllm.config import SepConfig; SepConfig.from_tokenizer(lambda t: [1], '.')"
    assert _loaded_after(statement) == set()


def test_attention_needs_torch_alone() -> None:
    assert _loaded_after("import sepllm.attention.interface, sepllm.attention.statistics") == {"torch"}
