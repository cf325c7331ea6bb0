"""An interrupted preprocessing run goes on where it was, and its files are those of a run in one go."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.data import part_files, text_files
from megatron.data import preprocess as preprocess_module
from megatron.data.encode_documents import EncodeSettings
from megatron.data.preprocess import Progress, preprocess
from megatron.data.rejects_file import RejectsFile
from megatron.errors import DataError
from megatron.tokenizer.fast_bpe import EncodersDisagree
from tests.helpers.tiny_tokenizer import write_tokenizer_json

ROOT = Path(__file__).resolve().parents[3]
ENDINGS = ("_text_document.bin", "_text_document.idx", "_text_document.tokenizer.json", "_rejects.txt")


@pytest.fixture
def settings(tmp_path: Path) -> EncodeSettings:
    vocabulary = str(write_tokenizer_json(tmp_path / "tokenizer.json"))
    return EncodeSettings("HFTokenizer", vocabulary, None, ("text",), append_eod=True, ftfy=False)


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 200)
    monkeypatch.setattr(preprocess_module, "TASK_BYTES", 500)


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    draw = random.Random(5)
    words = ["The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]
    lines = [
        json.dumps({"text": " ".join(draw.choices(words, k=draw.randint(1, 40)))}) if number % 9 else "{broken"
        for number in range(300)
    ]
    import gzip

    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.txt"]
    paths[0].write_text("\n".join(lines[:200]) + "\n")
    paths[1].write_bytes(gzip.compress("\n".join(lines[200:]).encode()))
    paths[2].write_text("The whole file is one document.")
    return paths


def stop_after(documents: int, error: BaseException) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.documents >= documents:
            raise error

    return report


def content(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}{ending}").read_bytes() for ending in ENDINGS]


@pytest.mark.parametrize("stops", [[1], [100], [30, 31, 200, 262]])
def test_the_files_are_those_of_one_go(
    tmp_path: Path, settings: EncodeSettings, corpus: list[Path], stops: list[int]
) -> None:
    whole = preprocess(corpus, str(tmp_path / "whole"), settings, workers=1)
    said: list[str] = []
    for documents in stops:
        with pytest.raises(KeyboardInterrupt):
            preprocess(
                corpus, str(tmp_path / "out"), settings, 1, stop_after(documents, KeyboardInterrupt()), said.append
            )
        assert not (tmp_path / "out_text_document.idx").exists()
        assert "the same command goes on" in said[-1]
    result = preprocess(corpus, str(tmp_path / "out"), settings, workers=1, say=said.append)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert (result.documents, result.tokens, result.text_bytes) == (whole.documents, whole.tokens, whole.text_bytes)
    assert (result.rejected, result.first_reject) == (whole.rejected, whole.first_reject)
    assert result.resumed_text_bytes > 0
    assert any(line.startswith("continues the interrupted run") for line in said)
    assert not list(tmp_path.glob("out*part")) + list(tmp_path.glob("out*unfinished*"))


def test_what_was_written_after_the_last_note_is_dropped(
    tmp_path: Path, settings: EncodeSettings, corpus: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGKILL: the part files are longer than the note says, longer even than what is still to come."""
    whole = preprocess(corpus, str(tmp_path / "whole"), settings, workers=1)
    with pytest.raises(KeyboardInterrupt):
        preprocess(corpus, str(tmp_path / "out"), settings, 1, stop_after(90, KeyboardInterrupt()))
    for ending in ("_text_document.bin.part", "_text_document.sizes.part", "_rejects.txt"):
        with Path(f"{tmp_path / 'out'}{ending}").open("ab") as file:
            file.write(b"half of someth" * 10_000)
    assert preprocess(corpus, str(tmp_path / "out"), settings, workers=1).documents == whole.documents
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError(28, "No space left on device")])
def test_an_interruption_in_the_middle_of_a_task(
    tmp_path: Path,
    settings: EncodeSettings,
    corpus: list[Path],
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Signals come at any moment: here after the tokens of a task are written and before its rejects are."""
    preprocess(corpus, str(tmp_path / "whole"), settings, workers=1)
    calls = iter(range(1000))

    def add(self: RejectsFile, rejects: list[str]) -> None:
        if next(calls) == 12:
            raise error
        whole_add(self, rejects)

    whole_add = RejectsFile.add
    with monkeypatch.context() as patch:
        patch.setattr(RejectsFile, "add", add)
        with pytest.raises(DataError if isinstance(error, OSError) else type(error)):
            preprocess(corpus, str(tmp_path / "out"), settings, workers=1)
    assert preprocess(corpus, str(tmp_path / "out"), settings, workers=1).resumed_bytes > 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_other_settings_or_files_start_anew(tmp_path: Path, settings: EncodeSettings, corpus: list[Path]) -> None:
    for changed in ("settings", "files"):
        with pytest.raises(KeyboardInterrupt):
            preprocess(corpus, str(tmp_path / "out"), settings, 1, stop_after(90, KeyboardInterrupt()))
        said: list[str] = []
        if changed == "settings":
            other = EncodeSettings("HFTokenizer", settings.vocab_file, None, ("text",), append_eod=False, ftfy=False)
            result = preprocess(corpus, str(tmp_path / "out"), other, 1, say=said.append)
        else:
            os.utime(corpus[0], (1, 1))
            result = preprocess(corpus, str(tmp_path / "out"), settings, 1, say=said.append)
        assert any(f"with other {changed}; starts from the beginning" in line for line in said)
        assert result.resumed_bytes == 0


def test_part_files_that_were_shortened_are_refused(
    tmp_path: Path, settings: EncodeSettings, corpus: list[Path]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        preprocess(corpus, str(tmp_path / "out"), settings, 1, stop_after(90, KeyboardInterrupt()))
    (tmp_path / "out_text_document.bin.part").write_bytes(b"ab")
    with pytest.raises(DataError, match=r"expected at least \d+ bytes of the interrupted run, found 2"):
        preprocess(corpus, str(tmp_path / "out"), settings, 1)


def test_two_runs_at_once_do_not_mix(
    tmp_path: Path, settings: EncodeSettings, corpus: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_files, "LOCK_PATIENCE", 0.2)

    def second(_: Progress) -> None:
        preprocess(corpus, str(tmp_path / "out"), settings, 1)

    with pytest.raises(DataError, match="another process is writing it"):
        preprocess(corpus, str(tmp_path / "out"), settings, 1, second)


def test_a_fast_encoder_that_is_found_out_is_replaced_from_the_start(
    tmp_path: Path, settings: EncodeSettings, corpus: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess(corpus, str(tmp_path / "whole"), settings, workers=1)
    said: list[str] = []
    disagree = EncodersDisagree("different ids for 'x'")
    reports = iter([None] * 20)

    def report(progress: Progress) -> None:
        if next(reports, disagree) is disagree and not any("starting again" in line for line in said):
            raise disagree

    preprocess(corpus, str(tmp_path / "out"), settings, 1, report, said.append)
    assert [line for line in said if "starting again with encode_batch_fast" in line]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_command_itself_survives_a_kill(tmp_path: Path, settings: EncodeSettings, number: signal.Signals) -> None:
    """Killed with its workers at work; the same command goes on, from the note of the last second."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"The fox {n} jumps. " * 9}) + "\n" for n in range(20_000)))
    preprocess([corpus], str(tmp_path / "whole"), settings, workers=1)
    code = (
        "import sys, time; sys.path.insert(0, '.'); from megatron.data import preprocess as p, text_files as t;"
        "p.TASK_BYTES = t.BLOCK_BYTES = 50_000; p.SECONDS_BETWEEN_NOTES = 0.05;"
        "import tools.datasets.preprocess_data as d;"
        "slow = sys.argv.pop() == 'slow';"
        "d._Reporter.__call__ = lambda self, progress: time.sleep(0.2 * slow); d.main()"
    )
    command = [sys.executable, "-c", code, "--input", str(corpus), "--output-prefix", str(tmp_path / "out")]
    command += [
        "--tokenizer-type",
        "HFTokenizer",
        "--vocab-file",
        str(settings.vocab_file),
        "--append-eod",
        "--workers",
        "2",
    ]
    process = subprocess.Popen([*command, "slow"], cwd=ROOT, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 300
    while not (tmp_path / "out_unfinished.json").exists():
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(300) == (-9 if number == signal.SIGKILL else 143)
    result = subprocess.run([*command, "fast"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "continues the interrupted run" in result.stdout
    for ending in ENDINGS[:3]:
        assert Path(f"{tmp_path / 'out'}{ending}").read_bytes() == Path(f"{tmp_path / 'whole'}{ending}").read_bytes()
