"""Where an unfinished preprocessing run stands: a small JSON beside its part files, replaced as a whole."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron.data.encode_documents import Encoder


def job_of(files: Sequence[Path], encoder: Encoder) -> dict[str, Any]:
    """All that decides which bytes come out. Another number of workers or another encoder library is the same job."""
    settings = asdict(encoder.settings)
    for name in ("fast", "vocab_file", "merge_file"):
        del settings[name]
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return {
        "settings": {**settings, "keys": list(encoder.settings.keys)},
        "tokenizer": encoder.tokenizer.fingerprint,
        "files": hashlib.sha256(json.dumps(stats).encode()).hexdigest(),
    }


class ResumeNote:
    """Reads and writes the note of one job."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path, self.job = path, job

    def read(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """What `write` was last given, or None. Notes of another job are not used; `say` is told."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            found, state = content["job"], content["state"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{self.path} cannot be read ({error!r}); starts from the beginning")
            return None
        if found != self.job:
            different = [name for name in self.job if found.get(name) != self.job[name]]
            say(f"an unfinished run lies here, but with other {' and '.join(different)}; starts from the beginning")
            return None
        return state

    def write(self, state: dict[str, Any]) -> None:
        draft = self.path.with_name(self.path.name + ".part")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"job": self.job, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
