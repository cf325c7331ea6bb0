"""Settings handed to ranks: unchanged, and for their owner's eyes only."""

import os
import stat
from pathlib import Path

import pytest

from megatron.errors import SettingsError
from megatron.neox_arguments.settings_file import read_settings_file, settings_text, write_private


def test_texts_and_overrides_arrive_unchanged(tmp_path: Path) -> None:
    texts, overrides = [("a.yml", "seed: 1  # é 'x' \"y\" $(z)\r\n\t\x00"), ("b.yml", "")], ["seed=2", "x=a\nb"]
    before = os.umask(0)
    try:
        write_private(tmp_path / "settings", settings_text(texts, overrides))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "settings").stat().st_mode) == 0o600
    assert read_settings_file(tmp_path / "settings") == (texts, overrides)


def test_what_is_there_is_not_written_over_nor_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    for name in ("mine", "link"):
        with pytest.raises(FileExistsError):
            write_private(tmp_path / name, "x")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("text", [None, "", "key: value", "[]", "{}", '{"files": [["canary"]], "overrides": []}', "1"])
def test_anything_else_is_refused_and_not_shown(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "x"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=r"name the \.yml files instead") as caught:
        read_settings_file(path)
    assert str(path) in str(caught.value) and "canary" not in str(caught.value)
