"""The README's picture is what the attention rule says today."""

import importlib.util
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def test_the_committed_picture_is_the_rule() -> None:
    spec = importlib.util.spec_from_file_location("draw_mask", PICTURES / "draw_mask.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.draw() == (PICTURES / "mask.svg").read_text("utf-8"), "run: python docs/pictures/draw_mask.py"
