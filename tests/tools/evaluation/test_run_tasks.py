"""tools/evaluation/run_tasks.py: the commands it starts, and that lm_eval knows every task of the sets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from sepllm.hf.code_files import write_code_files
from tests.megatron.evaluation.test_same_scores import KINDS
from tests.megatron.export.tiny_checkpoint import SETTINGS, write_checkpoint
from tools.evaluation import run_tasks

NINE = "arc_challenge,arc_easy,lambada_openai,logiqa,piqa,sciq,winogrande,wsc,wikitext"


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run_tasks.main([*words, "--dry_run"]) == 0
    return capsys.readouterr().err


def test_the_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    write_code_files(Path("out"))
    ours = printed(capsys, "downstream", "--settings", "a.yml", "--set", "load=runs/a", "--limit", "5")
    assert f"eval_tasks=[{NINE.replace(',', ', ')}]" in ours
    for part in ("deepy.py eval.py a.yml", "eval_num_fewshot=5", "eval_limit=5", "load=runs/a", "results/downstream"):
        assert part in ours
    exported = printed(capsys, "downstream", "--exported", "out", "--batch_size", "8")
    assert "-m lm_eval --model hf --model_args pretrained=out,trust_remote_code=True" in exported
    assert f"--tasks {NINE} " in exported and "--num_fewshot 5" in exported and "--batch_size 8" in exported
    stock = printed(capsys, "gsm8k_cot", "--stock", "M", "--rule", "window=256", "--device", "cuda:0")
    assert "-m sepllm.hf.lm_eval_model --model hf-sepllm --model_args pretrained=M,window=256" in stock
    assert "--num_fewshot" not in stock, "gsm8k_cot brings its eight worked examples"


def test_code_that_is_not_ours_is_not_run(tmp_path: Path) -> None:
    write_code_files(tmp_path)
    with (tmp_path / "blocks.py").open("a") as file:
        file.write("import os\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "new.py").touch()
    with pytest.raises(SettingsError, match=r"does not write: blocks\.py, more/new\.py"):
        run_tasks.main(["downstream", "--exported", str(tmp_path), "--dry_run"])
    with pytest.raises(SettingsError, match="is no folder"):
        run_tasks.main(["downstream", "--exported", "some/name", "--dry_run"])


def test_lm_eval_knows_the_tasks() -> None:
    tasks = pytest.importorskip("lm_eval.tasks", reason="lm_eval is installed with the extra `eval`")
    manager = tasks.TaskManager()
    for name, chosen in run_tasks.task_sets().items():
        assert [task for task in chosen["tasks"] if not manager.match_tasks([task])] == [], name


@pytest.mark.slow
def test_a_run_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of local tasks, since nothing is downloaded here; then the table over the results file."""
    from megatron.evaluation.local_tasks import write_local_tasks
    from megatron.export.verify import sample_text
    from tools.evaluation.compare_with_published import published, read_results, table

    write_checkpoint(tmp_path / "model")
    words = sample_text().split()
    write_local_tasks(
        tmp_path, [" ".join(words[n : n + 30]) for n in range(0, 180, 30)], context_words=9, continuation_words=3
    )
    settings = SETTINGS | {"vocab_file": str(tmp_path / "model" / "tokenizer.json"), "load": str(tmp_path / "model")}
    (tmp_path / "a.yml").write_text(json.dumps(settings))
    tasks = [str(tmp_path / f"local_{kind}.yaml") for kind in KINDS]
    monkeypatch.setattr(run_tasks, "task_sets", lambda: {"local": {"tasks": tasks, "num_fewshot": None}})
    arguments = ["local", "--settings", str(tmp_path / "a.yml"), "--limit", "3", "--output", str(tmp_path / "results")]
    assert run_tasks.main([*arguments, "--offline"]) == 0
    written = next((tmp_path / "results").glob("local_eval_results_*.json"))
    content = json.loads(written.read_text())
    assert content["tasks"]["n-samples"]["local_choice"]["effective"] == 3
    assert len(content["hashes"]["checkpoint"]) == 64 and set(content["hashes"]["tasks"]) == set(
        content["tasks"]["versions"]
    )
    assert content["command"][:3] == ["python", "deepy.py", "eval.py"] and "eval_limit=3" in content["command"]
    assert "local_choice | acc |" in table([read_results(written)], published(["n=128"]))
    tool = Path(run_tasks.HERE / "compare_with_published.py")
    done = subprocess.run([sys.executable, str(tool), str(tmp_path / "a.yml")], capture_output=True, text=True)
    assert done.returncode == 3 and "no results file" in done.stderr
