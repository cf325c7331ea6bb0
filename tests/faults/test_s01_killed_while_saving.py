"""SIGKILL at every file event of the real saver, retention included: a resume finds the old step or the new one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron.checkpointing.folders import restore_replaced
from megatron.checkpointing.retention import Retention, remove_leftovers
from tests.faults.crash_points import events_of, killed_at
from tests.faults.small_saves import files_of, loaded_step, naive_save, naive_step, save_small, saver_of

KEEP_ONE = Retention(last=1)


@pytest.fixture(scope="module")
def naive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Files in their final place, then `latest`: the same step saved again leaves points without a way back."""
    folder = tmp_path_factory.mktemp("naive")
    outcomes = sweep(folder, lambda save: naive_save(save, 1), lambda save: naive_save(save, 1), naive_step)
    lost = outcomes.count(None)
    assert lost > 0
    return f"files in place, then `latest`: {lost} of {len(outcomes)} points unresumable"


@pytest.mark.parametrize("case", ["next", "same", "damaged"])
def test_old_or_new(tmp_path: Path, case: str, naive: str, score: Callable[..., None]) -> None:
    """The next step, keeping one; the same step again, the only one there; over a damaged folder of that name."""
    new = 1 if case == "same" else 2

    def before(save: Path) -> None:
        save_small(save, 1)
        if case == "damaged":
            (save_small(save, 2) / "manifest.json").unlink()

    def action(save: Path) -> None:
        saver_of(save, KEEP_ONE).start({"iteration": new}, files_of(new))

    def resumed(save: Path) -> int | None:
        restore_replaced(save)
        remove_leftovers(save)
        found = loaded_step(save)
        action(save)  # and the next save works
        assert loaded_step(save) == new
        assert not [entry.name for entry in save.iterdir() if entry.name.startswith(".")]
        return found

    outcomes = sweep(tmp_path, before, action, resumed)
    assert outcomes[0] == 1 and outcomes[-1] == new and len(outcomes) >= 25
    good = sum(outcome in (1, new) for outcome in outcomes)
    score("S1", good, len(outcomes), naive)


def test_everything_is_synced_before_the_name(tmp_path: Path) -> None:
    """What SIGKILL cannot show: each file, then the folder, are synced before the rename, its parent after."""
    save_small(tmp_path, 1)
    events = events_of(lambda: save_small(tmp_path, 2))
    temporary, final = str(tmp_path / ".global_step2.writing"), str(tmp_path / "global_step2")
    renamed = events.index(("replace", temporary))
    for path in {path for call, path in events if call == "write" and path.startswith(temporary)}:
        last_write = max(place for place, event in enumerate(events) if event == ("write", path))
        assert last_write < events.index(("fsync", path), last_write) < renamed, path
    assert ("fsync", temporary) in events[renamed - 2 : renamed]
    assert ("fsync", str(tmp_path)) in events[renamed:]
    assert Path(final).is_dir()


def sweep(
    tmp_path: Path,
    before: Callable[[Path], None],
    action: Callable[[Path], None],
    outcome: Callable[[Path], int | None],
) -> list[int | None]:
    """Kill at event 0, 1, ... until the action gets to its end; what a resume finds after each."""
    start = tmp_path / "start"
    start.mkdir()
    before(start)
    outcomes = []
    killed = True
    while killed:
        save = tmp_path / f"run{len(outcomes)}"
        shutil.copytree(start, save)
        killed = killed_at(len(outcomes), lambda save=save: action(save))  # type: ignore[misc]
        outcomes.append(outcome(save))
        shutil.rmtree(save)
    return outcomes
