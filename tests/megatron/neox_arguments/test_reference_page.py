"""docs/arguments.md is what the fields say today."""

from pathlib import Path

from megatron.neox_arguments.aliases import ALIASES
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.reference_page import reference_page
from megatron.neox_arguments.refused import REFUSED

PAGE = Path(__file__).resolve().parents[3] / "docs" / "arguments.md"


def test_the_page_is_current():
    current = PAGE.read_text(encoding="utf-8") == reference_page()
    assert current, "run: python -m megatron.neox_arguments.reference_page > docs/arguments.md"


def test_every_key_is_on_it():
    page = reference_page()
    for key in [*NeoXArgs.model_fields, *REFUSED, *ALIASES]:
        assert f"| `{key}` |" in page, key
