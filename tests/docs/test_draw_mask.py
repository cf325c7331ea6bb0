"""The committed pictures are what the attention rule says today."""

import importlib.util
from pathlib import Path

import pytest

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


@pytest.mark.parametrize(("script", "picture"), [("draw_mask.py", "mask.svg"), ("draw_modes.py", "modes.svg")])
def test_the_committed_picture_is_the_rule(script: str, picture: str) -> None:
    spec = importlib.util.spec_from_file_location(Path(script).stem, PICTURES / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.draw() == (PICTURES / picture).read_text("utf-8"), f"run: python docs/pictures/{script}"
