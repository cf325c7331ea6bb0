"""The panel of the docs is drawn from a run's log by the same command that readers are told of."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.megatron.report.runs import short_run

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "draw_watching.py"


def test_the_panel_in_the_middle_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("rich", reason="pip install rich")
    pytest.importorskip("PIL", reason="pip install pillow")
    spec = importlib.util.spec_from_file_location("draw_watching", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.draw_panel(short_run(tmp_path / "first"), tmp_path / "live.svg", share=0.5)
    text = re.sub("<[^>]*>", "", (tmp_path / "live.svg").read_text()).replace("&#160;", " ")
    assert "runs/first" in text and "5 / 40" in text and "training" in text


def test_the_picture_in_the_docs_is_of_today(tmp_path: Path) -> None:
    """It shows what the panel shows."""
    text = re.sub("<[^>]*>", "", (SCRIPT.parent / "live.svg").read_text()).replace("&#160;", " ")
    for label in ("step", "loss", "tokens/s", "kept", "lr", "compute", "grad norm", "memory", "held out", "saved"):
        assert label in text, label
    assert (SCRIPT.parent / "report.png").stat().st_size < 100_000
