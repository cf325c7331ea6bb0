"""Where optional reference material lies: a folder `shared` beside the repository. Tests that need it skip without."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def shared_folder(*parts: str) -> Path:
    """`../shared/<parts>` next to the repository; skips the calling test where it does not exist."""
    path = REPOSITORY.parent.joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"reference material ../{Path('shared', *parts)} is not here (the project's own oracles still run)")
    return path
