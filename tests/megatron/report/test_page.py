"""The page holds what the logs say, fetches nothing, escapes everything, and stands in a real browser."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from megatron.errors import DataError
from megatron.report.charts import detail_charts, layer_charts, loss_axes, loss_chart, loss_is_cut, task_charts
from megatron.report.command import main
from megatron.report.page import page
from megatron.report.run_log import read_runs
from megatron.report.same_loss import same_loss
from megatron.report.scores import read_scores
from megatron.report.settings_diff import differences
from tests.megatron.report.runs import check, short_run, start, step, write_run

REPOSITORY = Path(__file__).resolve().parents[3]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def two_runs(folder: Path) -> list[Path]:
    """One run straight through; one that lost a rank at step 6 and resumed from step 4."""
    lost = {"time": 2.0, "kind": "exit", "code": 6, "cause": "rank 1 <killed>"}
    saved = {"time": 2.0, "kind": "save", "iteration": 4, "folder": "x", "waited": 90.0}
    first = [start(), *map(step, range(1, 5)), saved, *map(step, range(5, 7)), lost]
    broken = write_run(folder / "broken", *first, start(4), *map(step, range(5, 12)))
    return [short_run(folder / "whole", "optimizer.params.lr=0.002", steps=12), broken]


def test_the_page_tells_losses_settings_and_incidents(tmp_path: Path) -> None:
    runs = read_runs(two_runs(tmp_path))
    text = page(runs)
    assert "rank 1 &lt;killed&gt;" in text and "<killed>" not in text
    assert "resumed at step 4" in text and "books 4.2500" in text
    assert "1 checkpoints; training waited 1m30s for them" in text
    assert "2 steps were trained and taken back" in text
    assert [(row.key, row.given) for row in differences(runs)] == [("optimizer.params.lr", ("0.002", "0.001"))]
    assert "as planned" in text and "still running, or killed" in text


def test_the_page_is_whole_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    text = page(read_runs(two_runs(tmp_path)), title="a <b> & c")
    assert not re.search(r"https?://|<script|<link|<img|@import|url\((?!#)", text)
    tags = _Balance()
    tags.feed(text)
    assert tags.open == [] and tags.seen["svg"] >= 8
    assert "a &lt;b&gt; &amp; c" in text


class _Balance(HTMLParser):
    """Every tag that opens must close, in order."""

    empty = ("meta", "br", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in self.empty:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


def test_loss_against_each_axis_ends_where_the_run_does(tmp_path: Path) -> None:
    runs = read_runs(two_runs(tmp_path))
    ends = {axis.name: loss_chart(runs, axis).lines[0].x[-1] for axis in loss_axes(runs)}
    assert ends == {"tokens": 24.0, "time": 6.0, "flops": 6e12, "steps": 12.0}
    marks = loss_chart(runs, loss_axes(runs)[-1]).marks
    assert [(mark.x, mark.bad) for mark in marks] == [(6.0, True), (4.0, False)]


def test_a_stop_on_request_is_no_fault(tmp_path: Path) -> None:
    asked = {"time": 2.0, "kind": "exit", "code": 75, "cause": "stopped"}
    runs = read_runs([write_run(tmp_path, start(), step(1), asked)])
    assert [mark.bad for mark in loss_chart(runs, loss_axes(runs)[0]).marks] == [False]


def test_high_first_losses_leave_the_frame(tmp_path: Path) -> None:
    steps = [step(n, loss=90.0 if n < 3 else 3.0 - 0.001 * n) for n in range(1, 101)]
    runs = read_runs([write_run(tmp_path, start(), *steps)])
    chart = loss_chart(runs, loss_axes(runs)[0])
    assert chart.high is not None and chart.high < 4.0 and loss_is_cut(chart)


def test_what_no_log_holds_is_not_drawn(tmp_path: Path) -> None:
    bare = {"mfu": None, "kept_by_layer": [], "kept_keys_by_layer": [], "tflops": None}
    runs = read_runs([write_run(tmp_path, start(), step(1, **bare), step(2, **bare))])
    assert "flops" not in [axis.name for axis in loss_axes(runs)]
    assert layer_charts(runs) == []
    assert {"mfu", "tflops"}.isdisjoint(chart.name for chart in detail_charts(runs))


def test_scores_during_training_are_drawn_and_taken_back(tmp_path: Path) -> None:
    def tasks(iteration: int, score: float) -> dict[str, object]:
        scores = {"arc": {"acc,none": score, "acc_stderr,none": 0.01, "alias": "arc"}}
        return {"time": 1.0, "kind": "tasks", "iteration": iteration, "scores": scores}

    lost = [start(), step(2), tasks(2, 0.25), step(4), tasks(4, 0.75)]
    runs = read_runs([write_run(tmp_path, *lost, start(2), step(4), tasks(4, 0.5))])
    (chart,) = task_charts(runs)
    assert chart.title == "arc, acc" and (chart.lines[0].x, chart.lines[0].y) == ((2.0, 4.0), (0.25, 0.5))
    assert "arc, acc" in page(runs)


def test_what_the_same_loss_cost(tmp_path: Path) -> None:
    """Twice the fall per step: half the steps, tokens and FLOPs. Too few reports are not compared."""
    slow = write_run(tmp_path / "slow", start(), *(step(n, loss=5 - 0.01 * n) for n in range(1, 41)))
    fast = write_run(tmp_path / "fast", start(), *(step(n, loss=5 - 0.02 * n, tflops=0.5) for n in range(1, 41)))
    runs = read_runs([slow, fast])
    found = same_loss(runs)
    assert found is not None and 4.6 <= found.loss < 4.63
    ends, middle = found.points
    assert ends.iteration in (39, 40) and middle.iteration in (19, 20, 21)
    text = page(runs)
    assert f"What a training loss of {found.loss:.4f} cost" in text
    assert f"{100 * middle.flops / ends.flops:.0f}%" in text if ends.flops and middle.flops else False
    assert same_loss(runs[:1]) is None and same_loss(read_runs(two_runs(tmp_path))) is None


def test_the_same_loss_is_a_held_out_one_where_all_measured_it(tmp_path: Path) -> None:
    """The training loss of both ends in an easy stretch; held-out losses fall evenly, twice as fast in one run."""

    def run(name: str, fall: float, sets: tuple[str, ...]) -> Path:
        events = [start()]
        for n in range(1, 41):
            events.append(step(n, loss=5.0 if n < 38 else 3.0))
            if n % 10 == 0:
                events += [check(n, 6 - fall * n, one) for one in sets]
        return write_run(tmp_path / name, *events)

    runs = read_runs([run("slow", 0.01, ("own", "books")), run("fast", 0.025, ("books",))])
    found = same_loss(runs)
    assert found is not None and found.held_out == "books" and found.loss == pytest.approx(5.6)
    ends, middle = found.points
    assert (ends.iteration, middle.iteration) == (40, 16)
    assert middle.tokens == pytest.approx(32) and middle.seconds == pytest.approx(8)
    assert middle.flops == pytest.approx(16 * 0.5e12)
    assert f"What a loss of {found.loss:.4f} on books cost" in page(runs)
    third = read_runs([run("slow", 0.01, ("own",)), run("fast", 0.025, ("books",))])
    trained = same_loss(third)
    assert trained is not None and trained.held_out is None, "no set that both measured"
    assert f"What a training loss of {trained.loss:.4f} cost" in page(third)


def test_a_held_out_set_measured_once_is_no_curve(tmp_path: Path) -> None:
    runs = read_runs([short_run(tmp_path / name, steps=40) for name in ("a", "b")])
    found = same_loss(runs)
    assert found is not None and found.held_out is None


def test_what_was_done_by_then_is_read_between_the_reports(tmp_path: Path) -> None:
    def run(name: str, *losses: tuple[int, float]) -> Path:
        steps = [step(n) for n in (8, 16)]
        checks = [check(n, loss) for n, loss in losses]
        return write_run(tmp_path / name, start(), *steps, *checks)

    runs = read_runs([run("a", (4, 6.0), (12, 5.0)), run("b", (2, 4.0), (16, 3.0)), run("c", (16, 6.0), (20, 5.0))])
    found = same_loss(runs)
    assert found is not None and found.loss == 5.0
    assert [point.tokens for point in found.points] == [24.0, 4.0, 32.0], "inside, before the first, after the last"
    assert [point.seconds for point in found.points] == [6.0, 1.0, 8.0]


def test_all_settings_stand_folded_in_the_page(tmp_path: Path) -> None:
    text = page(read_runs([short_run(tmp_path / "run", "optimizer.params.lr=0.002")]))
    assert "Settings of run" in text and "<code>optimizer.params.lr</code></td><td><code>0.002</code>" in text


def test_scores_of_eval_and_of_lm_eval(tmp_path: Path) -> None:
    folder = short_run(tmp_path / "run")
    lines = [
        {"set": "books", "loss": 4.5, "iteration": 10, "checkpoint": str(folder / "global_step10")},
        {"task": "arc", "scores": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.01}, "iteration": 10},
    ]
    (folder / "a_eval_results_now.json").write_text(json.dumps({"results": lines}))
    (tmp_path / "stock.json").write_text(json.dumps({"results": {"arc": {"acc,none": 0.75}}}))
    scores = read_scores(read_runs([folder]), [tmp_path / "stock.json"])
    assert [(score.run, score.task, score.metric, score.value, score.error) for score in scores] == [
        ("run", "books", "loss", 4.5, None),
        ("run", "arc", "acc", 0.5, 0.01),
        ("stock", "arc", "acc", 0.75, None),
    ]
    text = page(read_runs([folder]), scores)
    assert "0.5000 <small>± 0.0100</small>" in text and "0.7500" in text
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match="holds no evaluation results"):
        read_scores([], [tmp_path / "bad.json"])


def test_command_writes_page_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(path) for path in two_runs(tmp_path)]
    assert main([*runs, "--out", str(tmp_path / "new" / "r.html"), "--png", str(tmp_path / "png")]) == 0
    assert (tmp_path / "new" / "r.html").stat().st_size > 20_000
    pictures = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert {"loss-tokens.png", "loss-time.png", "loss-flops.png", "kept_by_layer.png"} <= set(pictures)
    assert (tmp_path / "png" / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert "whole, broken" in capsys.readouterr().out


def test_from_the_command_line_without_torch(tmp_path: Path) -> None:
    """deepy.py knows the word, says what is wrong in one line, and loads nothing heavy."""
    short_run(tmp_path / "run")
    watch = (
        "import sys, atexit, runpy;"
        "atexit.register(lambda: print('torch' in sys.modules, 'matplotlib' in sys.modules));"
        "sys.argv[0] = 'deepy.py'; runpy.run_path('deepy.py', run_name='__main__')"
    )
    words = ["report", str(tmp_path / "run"), "--out", str(tmp_path / "r.html")]
    done = subprocess.run([sys.executable, "-c", watch, *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False"
    words = [sys.executable, "deepy.py", "report", str(tmp_path / "nowhere")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 3 and "cannot read the event log" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_real_browser_shows_the_page(tmp_path: Path) -> None:
    """Chromium lays the page out without an error, nothing is wider than the window, and the tabs switch."""
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no chromium on this machine (on Debian: apt install chromium)")
    probe = """<script>
      const look = () => [...document.querySelectorAll('.panel')].map(p => getComputedStyle(p).display).join();
      const before = look(); document.getElementById('tab-flops').click();
      const texts = [...document.querySelectorAll('.panel text, .charts text')].filter(t => {
        const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
        return a.width && (a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1); });
      document.body.setAttribute('data-seen', [before, look(), texts.length,
        document.documentElement.scrollWidth <= innerWidth, document.querySelectorAll('svg').length].join(' '));
    </script></body>"""
    page_file = tmp_path / "report.html"
    page_file.write_text(page(read_runs(two_runs(tmp_path))).replace("</body>", probe))
    shot = tmp_path / "shot.png"
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    common += ["--window-size=1240,2400", f"--screenshot={shot}", "--dump-dom", page_file.as_uri()]
    done = subprocess.run(common, capture_output=True, text=True, timeout=600)
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen, done.stderr[-2000:]
    assert seen[1].split() == ["block,none,none,none", "none,none,block,none", "0", "true", "16"], seen[1]
