"""A long scoring run on disk: losses as they come, a state to resume from, progress in words, a report at the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sepllm.errors import ConfigError
from sepllm.streaming.score import StreamScorer

LOG, PERPLEXITY, REPORT, STATE, KEPT = "log.txt", "ppl.txt", "report.json", "state.json", "state.safetensors"
_POINTS = 200  # of the curve in the report
_SAVE_SECONDS = 60.0
_SAY_SECONDS = 5.0


@dataclass
class Progress:
    """What a run has done so far; every number survives a resume.

    curve: [tokens, nats, keys seen, seconds, bytes cached], each counted from the start, about 200 points.
    """

    tokens: int = 0
    documents: int = 0
    nats: float = 0.0
    seconds: float = 0.0
    log_bytes: int = 0
    curve: list[list[float]] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return self.nats / self.tokens if self.tokens else float("nan")

    @property
    def perplexity(self) -> float:
        return float(torch.tensor(self.mean, dtype=torch.float64).exp())


@dataclass(frozen=True)
class StreamRun:
    """scorer: fresh, resumed here where `out` holds a state. about: what the report says of model and settings.

    max_tokens: the run ends after scoring so many. say: a line of progress, every few seconds.
    """

    scorer: StreamScorer
    out: Path
    about: dict[str, Any]
    max_tokens: int
    say: Callable[[str], None]

    def score(self, documents: Iterable[Tensor], *, resume: bool) -> Progress:
        """Read documents, int64 [tokens] each, one after another with one cache, and write the report.

        The last token of a document is scored and not read, the first is read and not scored, as the paper's
        evaluation does. Raises ConfigError for an output folder of another run, or with nothing to resume.
        """
        done = self._begin(resume)
        with open(self.out / LOG, "r+b" if resume else "wb") as log:
            log.truncate(done.log_bytes)
            log.seek(done.log_bytes)
            saved = said = time.monotonic()
            for inputs, targets, documents_read in self._pieces(documents, done.tokens):
                start = time.monotonic()
                nll = self.scorer.feed(inputs, targets)
                now = time.monotonic()
                done.seconds += now - start
                done.tokens += len(nll)
                done.documents = documents_read
                done.nats += float(nll.sum())
                done.log_bytes += log.write("".join(f"{value:.9g}\n" for value in nll.tolist()).encode())
                self._add_point(done)
                if now - said > _SAY_SECONDS:
                    said = now
                    self.say(self._line(done))
                if now - saved > _SAVE_SECONDS:
                    self._save(done, log)
                    saved = time.monotonic()
            self._save(done, log)
        self.say(self._line(done))
        self._report(done)
        return done

    def _pieces(self, documents: Iterable[Tensor], skip: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Stretches of text to read and score next, small enough for regular progress, after `skip` tokens."""
        seen = 0
        for number, ids in enumerate(documents, start=1):
            count = min(len(ids) - 1, self.max_tokens - seen)
            for start in range(max(0, skip - seen), count, _PIECE):
                stop = min(count, start + _PIECE)
                yield ids[start:stop], ids[start + 1 : stop + 1], number
            seen += max(0, count)
            if seen >= self.max_tokens:
                return

    def _begin(self, resume: bool) -> Progress:
        self.out.mkdir(parents=True, exist_ok=True)
        state = self.out / STATE
        if not resume:
            if (self.out / LOG).exists():
                raise ConfigError(
                    f"{self.out} already holds a run. Go on with it (--resume), or choose another output folder."
                )
            return Progress()
        if not state.is_file():
            raise ConfigError(f"{self.out} holds no {STATE}: there is nothing to resume. Leave --resume out.")
        content = json.loads(state.read_text(encoding="utf-8"))
        changed = {key: (content["about"].get(key), value) for key, value in self.about.items()}
        changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
        if changed:
            listed = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
            raise ConfigError(f"{self.out} holds a run with other settings: {listed}. Use them, or another folder.")
        self.scorer.resume(load_file(self.out / KEPT), content["scorer"])
        return Progress(**content["progress"])

    def _save(self, done: Progress, log: Any) -> None:
        """The state and the log up to it: a kill at any moment costs the time since the last save."""
        log.flush()
        os.fsync(log.fileno())
        tensors, numbers = self.scorer.state()
        content = {"about": self.about, "scorer": numbers, "progress": asdict(done)}
        save_file(tensors, self.out / (KEPT + ".tmp"))
        temporary = self.out / (STATE + ".tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(self.out / (KEPT + ".tmp"), self.out / KEPT)
        os.replace(temporary, self.out / STATE)

    def _add_point(self, done: Progress) -> None:
        every = max(1, self.max_tokens // _POINTS)
        if not done.curve or done.tokens - done.curve[-1][0] >= every or done.tokens == self.max_tokens:
            done.curve.append(
                [done.tokens, done.nats, self.scorer.attended, done.seconds, float(self.scorer.cache_bytes())]
            )

    def _line(self, done: Progress) -> str:
        speed = done.tokens / done.seconds if done.seconds else 0.0
        left = (self.max_tokens - done.tokens) / speed if speed else float("nan")
        return (
            f"{done.tokens:>10,} tokens | ppl {done.perplexity:9.4f} | {speed:8.0f} tokens/s | "
            f"{self.scorer.attended / max(1, done.tokens):6.0f} keys seen | ETA {left:6.0f} s"
        )

    def _report(self, done: Progress) -> None:
        content = self.about | {
            "tokens": done.tokens,
            "documents": done.documents,
            "perplexity": done.perplexity,
            "mean_nll": done.mean,
            "seconds": done.seconds,
            "tokens_per_second": done.tokens / done.seconds if done.seconds else None,
            "average_keys_seen": self.scorer.attended / max(1, done.tokens),
            "most_keys_seen": self.scorer.most_attended,
            "cache_bytes": self.scorer.cache_bytes(),
            "torch": torch.__version__,
            "curve": done.curve,
        }
        (self.out / REPORT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (self.out / PERPLEXITY).write_text(f"{done.perplexity}\n", encoding="utf-8")


_PIECE = 4096  # tokens between two looks at the clock
