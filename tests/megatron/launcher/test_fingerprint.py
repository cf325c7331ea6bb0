"""What a process runs, and what two hosts are told when it is not the same."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.launcher.fingerprint import Fingerprint, differences, take_fingerprint

REPOSITORY = Path(__file__).resolve().parents[3]
OWN = Fingerprint(
    "n1", "/code", {"python": "3.11.2", "torch": "2.13.0"}, "c0de", {"megatron/a.py": "1", "megatron/b.py": "2"}
)


def other(name: str, **changes: object) -> Fingerprint:
    return dataclasses.replace(OWN, host=name, **changes)


def test_equal_hosts_have_nothing_to_say() -> None:
    assert differences([OWN, OWN, other("n2"), other("n3")]) == differences([OWN])
    assert differences([OWN, other("n2", folder="/elsewhere")]).code == ()


def test_the_host_that_differs_is_named() -> None:
    files = {"megatron/a.py": "9", "megatron/c.py": "3"}
    strange = other("n2", code="beef", files=files)
    words = "n2: megatron/a.py differs, megatron/b.py is missing, megatron/c.py is extra (/code; others like n1)"
    assert differences([OWN, strange, strange]).code == ("n1: " + words[4:].replace("b.py is missing", "b.py is extra")
        .replace("c.py is extra", "c.py is missing").replace("like n1", "like n2"),)  # fmt: skip
    assert differences([OWN, strange]).code == (words,)
    assert differences([OWN, OWN, strange, strange]).code == (words,)  # two ranks a host, one line
    assert differences([OWN.brief(), strange.brief()]).code == (
        "n2: other source files, hash beef instead of c0de (/code; others like n1)",
    )
    many = other("n2", code="beef", files={**OWN.files, **{f"x{number}.py": "1" for number in range(9)}})
    assert "and 4 more files" in differences([OWN, many]).code[0]


def test_versions() -> None:
    newer = other("n2", versions={"python": "3.11.2", "torch": "2.14.0"})
    none = other("n3", versions={"python": "3.11.2", "torch": None})
    assert differences([OWN, newer]).versions == ("n2: torch 2.14.0; 2.13.0 on n1",)
    assert differences([OWN, newer, none, newer]).versions == (
        "n1: torch 2.13.0; 2.14.0 on n2",
        "n3: torch is not installed; 2.14.0 on n2",
    )
    assert differences([OWN, newer]).code == ()


def test_this_process() -> None:
    own = take_fingerprint()
    assert {"train.py", "megatron/launcher/fingerprint.py", "sepllm/errors.py"} <= own.files.keys()
    assert own.versions["torch"] and own == take_fingerprint() and own.brief().files == {}
    assert not any(name.startswith("tests") for name in own.files)


@pytest.mark.parametrize("change", ["edit", "remove", "add"])
def test_any_changed_source_changes_the_code(tmp_path: Path, change: str) -> None:
    for name in ("megatron", "sepllm", "train.py"):
        subprocess.run(["cp", "-r", str(REPOSITORY / name), str(tmp_path)], check=True)
    file = tmp_path / "sepllm" / "attention" / "rule.py"
    if change == "edit":
        file.write_text(file.read_text() + "\n")
    elif change == "remove":
        file.unlink()
    else:
        file.with_name("rule2.py").touch()
    code = "from megatron.launcher.fingerprint import take_fingerprint; import sys; print(take_fingerprint().code); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert len(done.stdout.strip()) == 12 and done.stdout.strip() != take_fingerprint().code
