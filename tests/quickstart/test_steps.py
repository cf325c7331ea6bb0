"""Steps run once, run again when what they read changes, and end with their exit code and advice."""

from pathlib import Path

import pytest

from training_examples.quickstart.steps import Step, StepFailed, StepRunner


def count_step(folder: Path, name: str, reads: tuple[Path, ...] = ()) -> Step:
    """A step that appends a line to a file: how often it ran can be counted."""
    made = folder / f"{name}.txt"
    command = f"python -c \"open('{made}', 'a').write('x'); print('ran {name}')\""
    return Step(name, f"Step {name}", command, reads=reads, makes=[made])


def run_all(folder: Path, steps: list[Step]) -> list[str]:
    """Runs the steps as one call of the quickstart would; returns the names of those that were skipped."""
    runner = StepRunner(folder / "out", len(steps))
    for step in steps:
        runner.run(step)
    return runner.skipped


def test_a_second_run_skips_and_a_change_redoes_it_and_what_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source.txt"
    source.write_text("one")
    steps = [count_step(tmp_path, "a"), count_step(tmp_path, "b", (source,)), count_step(tmp_path, "c")]
    assert run_all(tmp_path, steps) == []
    shown = capsys.readouterr().out
    assert "[2/3] Step b" in shown and f"$ {steps[1].command}" in shown and "| ran b" in shown
    assert run_all(tmp_path, steps) == ["a", "b", "c"]
    assert "[1/3] Step a: done before" in capsys.readouterr().out
    source.write_text("two")
    assert run_all(tmp_path, steps) == ["a"]
    assert [len((tmp_path / f"{name}.txt").read_text()) for name in "abc"] == [1, 2, 2]


def test_a_lost_artefact_is_made_again(tmp_path: Path) -> None:
    step = count_step(tmp_path, "a")
    run_all(tmp_path, [step])
    step.makes[0].unlink()
    assert run_all(tmp_path, [step]) == []
    assert step.makes[0].exists()


def test_failure_carries_the_exit_code_and_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Step(
        "broken", "Broken", "python -c \"print('why'); raise SystemExit(4)\"", reads=[], makes=[], shows="never"
    )
    with pytest.raises(StepFailed) as caught:
        run_all(tmp_path, [count_step(tmp_path, "a"), broken])
    assert caught.value.code == 4
    said = capsys.readouterr().err
    assert "Step 2, 'Broken', ended with exit code 4" in said and "| why" in said and broken.command in said
    with pytest.raises(StepFailed):  # a failed step is tried again, a finished one is not
        run_all(tmp_path, [count_step(tmp_path, "a"), broken])
    assert (tmp_path / "a.txt").read_text() == "x"


def test_an_expected_stop_is_success_and_leftovers_are_cleared(tmp_path: Path) -> None:
    leftover, made = tmp_path / "old", tmp_path / "made"
    leftover.mkdir()
    command = f"python -c \"open('{made}', 'w'); raise SystemExit(75)\""
    step = Step("stop", "Stop", command, reads=[], makes=[made], clears=[leftover], expect=75)
    run_all(tmp_path, [step])
    assert not leftover.exists() and made.exists()


def test_missing_output_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = Step("empty", "Empty", "python -c pass", reads=[], makes=[tmp_path / "never"])
    with pytest.raises(StepFailed):
        run_all(tmp_path, [step])
    assert "did not make" in capsys.readouterr().err


def test_steps_together_are_judged_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source.txt"
    source.write_text("one")
    steps = [count_step(tmp_path, "a"), count_step(tmp_path, "b", (source,)), count_step(tmp_path, "c")]
    StepRunner(tmp_path / "out", 1).run_together("All", steps, jobs=2)
    source.write_text("two")
    StepRunner(tmp_path / "out", 1).run_together("All", steps, jobs=2)
    assert [len((tmp_path / f"{name}.txt").read_text()) for name in "abc"] == [1, 2, 1]
    assert "[1/1] All: 3, 2 of them done before" in capsys.readouterr().out


def test_steps_run_at_the_same_time(tmp_path: Path) -> None:
    """Each of two waits for the file of the other."""
    steps = []
    for mine, other in (("a", "b"), ("b", "a")):
        wait = f"while not os.path.exists('{tmp_path / other}'): time.sleep(0.01)"
        code = f"import os, time\nopen('{tmp_path / mine}', 'w')\n{wait}"
        steps.append(Step(mine, mine, f'python -c "{code}"', reads=[], makes=[tmp_path / mine]))
    StepRunner(tmp_path / "out", 1).run_together("Both", steps, jobs=2)


def test_one_of_several_fails_and_the_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Step("broken", "Broken", "python -c \"print('why'); raise SystemExit(4)\"", reads=[], makes=[])
    steps = [count_step(tmp_path, "a"), broken]
    with pytest.raises(StepFailed) as caught:
        StepRunner(tmp_path / "out", 1).run_together("Both", steps, jobs=2)
    said = capsys.readouterr()
    assert caught.value.code == 4 and "| why" in said.err and broken.command in said.err
    with pytest.raises(StepFailed):
        StepRunner(tmp_path / "out", 1).run_together("Both", steps, jobs=2)
    assert (tmp_path / "a.txt").read_text() == "x"


def test_progress_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training_examples.quickstart.steps.PROGRESS_SECONDS", 0.05)
    shown = tmp_path / "shown"
    code = f"import os, time\nprint('half', flush=True)\nwhile not os.path.exists('{shown}'): time.sleep(0.01)"
    step = Step("long", "Long", f'python -c "{code}"', reads=[], makes=[shown])
    said: list[str] = []

    def hear(text: str, **how: object) -> None:
        said.append(text)
        if "long: half" in text:
            shown.touch()

    monkeypatch.setattr("builtins.print", hear)
    StepRunner(tmp_path / "out", 1).run_together("One", [step], jobs=1)
    assert any("| long: half" in text for text in said)
