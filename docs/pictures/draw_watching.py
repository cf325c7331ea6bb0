"""Draws live.svg and report.png of these pages from finished runs: the panel in the middle of the last one, and a page.

By hand, in the root folder: python docs/pictures/draw_watching.py RUN [RUN ...]. The page needs Chromium.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from megatron.display.watch import main as watch
from megatron.report.command import main as report

FOLDER = Path(__file__).resolve().parent
_WIDTH, _HEIGHT = 1240, 1010
_SHARE = 0.7


def draw_panel(run: Path, picture: Path, share: float = _SHARE) -> None:
    """The live panel as it stood after that share of the run's log."""
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines = lines[: int(share * len(lines))]
    while json.loads(lines[-1])["kind"] != "step":
        lines.pop()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "events.jsonl").write_text("".join(lines), encoding="utf-8")
        watch([folder, "--svg", str(picture), "--title", f"runs/{run.name}"])


def draw_page(runs: list[Path], picture: Path) -> None:
    """The top of the report page as a browser shows it, in few enough colours to be small."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("report.png needs Chromium on PATH")
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder, "page.html"), Path(folder, "shot.png")
        title = f"Training report: {', '.join(run.name for run in runs)}"
        report([*map(str, runs), "--out", str(page), "--title", title])
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={_WIDTH},{_HEIGHT}", f"--screenshot={shot}"]
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


def main() -> None:
    runs = [Path(name) for name in sys.argv[1:]]
    draw_panel(runs[-1], FOLDER / "live.svg")
    draw_page(runs, FOLDER / "report.png")


if __name__ == "__main__":
    main()
