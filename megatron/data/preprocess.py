"""Text files to idxmap data sets: reads, tokenises in worker processes, writes in the order of the input.

Memory is constant: a few tasks are under way, whatever the size of the input. The same call continues a killed run.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megatron.data.encode_documents import Encoded, Encoder, EncodeSettings
from megatron.data.encoder_pool import encode_all
from megatron.data.part_files import PartFiles
from megatron.data.rejects_file import RejectsFile
from megatron.data.resume_note import ResumeNote, job_of
from megatron.data.text_files import Block, Position, TextFiles
from megatron.data.tokenizer_record import record_path, write_record
from megatron.errors import DataError
from megatron.tokenizer.fast_bpe import EncodersDisagree

TASK_BYTES = 1 << 20
SECONDS_BETWEEN_NOTES = 10.0


@dataclass
class Progress:
    """Counts so far. Bytes are those of the input files on disk, tokens those of the first key.

    resumed_bytes, resumed_text_bytes: how many of them an earlier, interrupted run had done.
    """

    total_bytes: int
    read_bytes: int = 0
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    rejected: int = 0
    first_reject: str = ""
    prefixes: list[Path] = field(default_factory=list)
    rejects_path: Path | None = None
    seconds: float = 0.0
    resumed_bytes: int = 0
    resumed_text_bytes: int = 0


def preprocess(
    files: Sequence[Path],
    output_prefix: str,
    settings: EncodeSettings,
    workers: int,
    report: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
    max_rejects: int | None = None,
) -> Progress:
    """Write `<output_prefix>_<key>_document.{bin,idx}` for every key; the same bytes for any number of workers.

    Documents that cannot be used are counted and listed with their place and the reason in
    `<output_prefix>_rejects.txt`; more than `max_rejects` of them end the run. report: called often, for progress
    lines; say: called with what the user should know. DataError when not a single document could be used, and then
    nothing is written. Interrupted in any way, the next call with the same files and settings goes on from there.
    """
    encoder = Encoder(settings)  # before any worker starts, so that its mistakes are told once
    say(encoder.about)
    try:
        return _Run(files, output_prefix, encoder, report, say, max_rejects).go(workers)
    except OSError as error:
        raise DataError(
            f"{output_prefix}: {error}. What is done is kept; the same command goes on from there."
        ) from error
    except EncodersDisagree as error:
        say(f"{error}. All that was encoded is dropped; starting again with encode_batch_fast.")
        encoder = Encoder(replace(settings, fast=False))
        return _Run(files, output_prefix, encoder, report, say, max_rejects, anew=True).go(workers)


class _Run:
    def __init__(
        self,
        files: Sequence[Path],
        output_prefix: str,
        encoder: Encoder,
        report: Callable[[Progress], None],
        say: Callable[[str], None],
        max_rejects: int | None,
        anew: bool = False,
    ) -> None:
        self.files, self.encoder, self.report, self.say, self.max_rejects = files, encoder, report, say, max_rejects
        self.source = TextFiles(files, encoder.settings.keys)
        self.progress = Progress(self.source.total_bytes)
        self.progress.prefixes = [Path(f"{output_prefix}_{key}_document") for key in encoder.settings.keys]
        self.rejects_path = Path(f"{output_prefix}_rejects.txt")
        self.note = ResumeNote(Path(f"{output_prefix}_unfinished.json"), job_of(files, encoder))
        if anew:
            self.note.remove()
        found = self.note.read(say)
        self.start = Position(**found["position"]) if found else Position()
        self.state: dict[str, Any] | None = None  # what a note would say: set between tasks, true whatever comes next
        self.dropped = False
        self.parts_at = found["parts"] if found else [{}] * len(self.progress.prefixes)
        self.rejects_at = found["rejects"] if found else {}
        if found:
            self.progress.read_bytes = self.progress.resumed_bytes = found["read_bytes"]
            self.progress.text_bytes = self.progress.resumed_text_bytes = found["text_bytes"]
            say(
                f"continues the interrupted run: {found['parts'][0]['documents']:,} documents are done "
                f"({self.start.line:,} lines of {files[min(self.start.file, len(files) - 1)]} read)"
            )

    def go(self, workers: int) -> Progress:
        began = noted = time.monotonic()
        progress, dtype = self.progress, self.encoder.dtype
        with ExitStack() as stack:
            parts = []
            for prefix, at in zip(progress.prefixes, self.parts_at, strict=True):
                parts.append(PartFiles(prefix, dtype, **at))
                stack.callback(parts[-1].close)
            rejects = RejectsFile(self.rejects_path, **self.rejects_at)
            stack.callback(rejects.close)
            progress.documents, progress.tokens = parts[0].documents, parts[0].tokens
            stack.push(lambda *exception: self._interrupted(exception[1], parts, rejects))
            for blocks, encoded in encode_all(self.encoder, _tasks(self.source.blocks(self.start)), workers):
                for part, ids, sizes in zip(parts, encoded.ids, encoded.sizes, strict=True):
                    part.add(ids, sizes)
                rejects.add(encoded.rejects)
                self._count(parts[0], rejects, encoded, blocks[-1])
                self.state = self._state(parts, rejects, blocks[-1].end)
                progress.seconds = time.monotonic() - began
                self.report(progress)
                if self.max_rejects is not None and rejects.count > self.max_rejects:
                    self._drop(parts)
                    raise self._too_many(rejects)
                if time.monotonic() - noted > SECONDS_BETWEEN_NOTES:
                    self._take_note(parts, rejects)
                    noted = time.monotonic()
            if progress.documents == 0:
                self._drop(parts)
                raise _nothing_usable(self.files, progress)
            self.note.remove()  # a kill between the names of two keys makes the next run start anew
            for part in parts:
                record_path(part.prefix).unlink(missing_ok=True)
                part.finish()
                write_record(part.prefix, self.encoder.tokenizer, append_eod=self.encoder.settings.append_eod)
        progress.rejects_path = self.rejects_path if rejects.count else None
        progress.seconds = time.monotonic() - began
        return progress

    def _count(self, part: PartFiles, rejects: RejectsFile, encoded: Encoded, last: Block) -> None:
        progress = self.progress
        progress.read_bytes = last.read_bytes
        progress.documents, progress.tokens = part.documents, part.tokens
        progress.text_bytes += encoded.text_bytes
        progress.rejected, progress.first_reject = rejects.count, rejects.first

    def _state(self, parts: list[PartFiles], rejects: RejectsFile, end: Position) -> dict[str, Any]:
        return {
            "position": vars(end),
            "parts": [{"documents": part.documents, "tokens": part.tokens} for part in parts],
            "rejects": rejects.state(),
            "read_bytes": self.progress.read_bytes,
            "text_bytes": self.progress.text_bytes,
        }

    def _take_note(self, parts: list[PartFiles], rejects: RejectsFile) -> None:
        for part in parts:
            part.sync()
        rejects.sync()
        assert self.state is not None
        self.note.write(self.state)

    def _interrupted(self, error: BaseException | None, parts: list[PartFiles], rejects: RejectsFile) -> None:
        if error is None or self.dropped or isinstance(error, EncodersDisagree):
            return
        if self.state is not None:
            self._take_note(parts, rejects)
            self.say(f"interrupted after {self.state['parts'][0]['documents']:,} documents; the same command goes on")
        elif self.start == Position():
            self._drop(parts)

    def _drop(self, parts: list[PartFiles]) -> None:
        self.dropped = True
        for part in parts:
            part.remove()
        self.note.remove()

    def _too_many(self, rejects: RejectsFile) -> DataError:
        return DataError(
            f"{rejects.count} documents could not be used, more than --max-rejects {self.max_rejects}; the first is "
            f"{rejects.first}. They are listed in {rejects.path}. No data set was written."
        )


def _tasks(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Blocks in groups worth sending to a worker; small files share one."""
    task: list[Block] = []
    size = 0
    for block in blocks:
        task.append(block)
        size += block.size
        if size >= TASK_BYTES or len(task) >= 256:
            yield task
            task, size = [], 0
    if task:
        yield task


def _nothing_usable(files: Sequence[Path], progress: Progress) -> DataError:
    names = ", ".join(str(path) for path in files[:3]) + (", ..." if len(files) > 3 else "")
    if not progress.rejected:
        return DataError(f"No documents in {names}: nothing but blank lines. Nothing was written.")
    advice = " Name the key of the text with --jsonl-keys." if ": no key " in progress.first_reject else ""
    return DataError(
        f"No usable document in {names}: {progress.rejected} left out, the first being {progress.first_reject}."
        f"{advice} No data set was written."
    )
