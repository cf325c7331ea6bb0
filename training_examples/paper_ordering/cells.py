"""What the study trains and with which commands it is trained, exported, scored, read without end and timed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.neox_arguments.problems import Problems
from megatron.neox_arguments.sources import merge, read_files
from training_examples.quickstart.steps import Step

HERE = Path("training_examples/paper_ordering")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
SEEDS = (1234, 4321, 7531)

# In the order of the table.
MODELS = {
    "full": "Full attention",
    "sepllm-ht": "SepLLM, first and last layer dense (H/T)",
    "sepllm": "SepLLM",
    "fixllm": "FixLLM",
    "streaming": "StreamingLLM",
    "self-adjusting": "Full attention, self-adjusting softmax",
}
# What a stream keeps: separators and nearest tokens; as many keys, all of them nearest; only as many nearest tokens as
# stand beside the separators; the first again, but with the distances of the text in place of those in the cache.
CACHES = ("separators", "nearest", "window", "true distances")
REPEATED = ("full", "sepllm", "streaming")  # with every seed: how much of a difference is chance
WHOLE_TEXTS = ("self-adjusting",)  # its softmax needs the scores of all tokens, dropped ones too: no stream


@dataclass(frozen=True)
class Size:
    """name: the folder with size.yml and fixllm.yml. device: where models are scored.

    initial, separators, window, capacity: sizes of the cache of separators, a, s, w and c of the paper, in tokens.
    """

    name: str
    device: str
    initial: int
    separators: int
    window: int
    capacity: int

    @property
    def cached(self) -> int:
        """Keys that a cache of separators holds on average; one of nearest tokens always."""
        return (self.initial + self.separators + self.window + self.capacity) // 2

    @property
    def windowed(self) -> int:
        """Those of them that are no separators."""
        return self.cached - self.separators


def shape(size: Size) -> dict[str, Any]:
    """The settings of a size, with those of the size that it is based on."""
    problems = Problems()
    settings = merge(read_files([HERE / size.name / "size.yml"], problems), [], problems)
    problems.stop_if_any()
    return {key: entry.value for key, entry in settings.items()}


SIZES = {
    size.name: size
    for size in (
        Size("cpu", "cpu", initial=3, separators=64, window=32, capacity=164),
        Size("cpu-rotary", "cpu", initial=3, separators=64, window=32, capacity=164),
        Size("cpu-8192", "cpu", initial=3, separators=128, window=64, capacity=320),
        Size("gpu-2048", "cuda", initial=3, separators=128, window=64, capacity=320),
        Size("gpu-8192", "cuda", initial=3, separators=128, window=64, capacity=320),
    )
}


@dataclass(frozen=True)
class Cell:
    """One training: a model, by its name in MODELS, and a seed for initial weights and the order of the data."""

    model: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}-seed{self.seed}"


def cells(models: Iterable[str], once: bool = False) -> list[Cell]:
    """All first seeds, then the others seed by seed, unless every model is trained once."""
    wanted = [model for model in MODELS if model in set(models)]
    again = [] if once else [model for model in wanted if model in REPEATED]
    first, *others = SEEDS
    return [Cell(model, first) for model in wanted] + [Cell(model, seed) for seed in others for model in again]


@dataclass(frozen=True)
class Study:
    """Where a study lies, its size, the steps of each training and the tokens of each stream."""

    out: Path
    size: Size
    train_iters: int
    stream_tokens: int

    def settings(self, cell: Cell) -> str:
        """The settings of a training, as words of a command line."""
        own = HERE / self.size.name / f"{cell.model}.yml"
        attention = own if own.exists() else HERE / "attention" / f"{cell.model}.yml"
        return (
            f"{HERE / self.size.name / 'size.yml'} {attention} {self.out / 'data.yml'} --set seed={cell.seed} "
            f"--set train_iters={self.train_iters}"
        )

    def run(self, cell: Cell) -> Path:
        return self.out / "runs" / cell.name

    def model(self, cell: Cell) -> Path:
        return self.out / "models" / cell.name

    def checkpoint(self, cell: Cell) -> Path:
        return self.run(cell) / f"global_step{self.train_iters}"

    def log(self, step: str, cell: Cell) -> Path:
        return self.out / "logs" / f"{step}-{cell.name}.log"

    def scores(self, cell: Cell) -> Path:
        return self.out / "scores" / cell.name

    def stream_folder(self, cell: Cell, kind: str) -> Path:
        return self.out / "streams" / f"{cell.name}-{kind.replace(' ', '-')}"

    def where(self, cell: Cell) -> Path:
        return self.out / "where" / f"{cell.name}.json"

    def timing(self, cell: Cell) -> Path:
        return self.out / "timing" / cell.model

    def data_settings(self) -> dict[str, object]:
        """What data.yml says: the tokenizer and the token files."""
        heldout = [str(self.out / "data" / "heldout_text_document")]
        return {
            "tokenizer_type": "HFTokenizer",
            "vocab_file": str(self.out / "tokenizer.json"),
            "train_data_paths": [str(self.out / "data" / "train_text_document")],
            "valid_data_paths": heldout,
            "test_data_paths": heldout,
        }

    def prepare(self, texts: Path, vocab_size: int) -> list[Step]:
        """From a folder of texts to token files, tasks for lm_eval and the file of settings that names them."""
        corpus, tokenizer = self.out / "corpus", self.out / "tokenizer.json"
        steps = [
            Step(
                "corpus",
                "Corpus: texts to train on and texts held out",
                f"python -m training_examples.paper_ordering.corpus --texts {texts} --output {corpus}",
                reads=[HERE / "corpus.py"],
                makes=[corpus / "train.jsonl", corpus / "heldout.jsonl"],
            ),
            Step(
                "tokenizer",
                f"Tokenizer: {vocab_size} BPE tokens, every separator one of its own",
                "python -m training_examples.quickstart.train_tokenizer "
                f"--input {corpus}/train.jsonl --output {tokenizer} --vocab-size {vocab_size}",
                reads=[corpus / "train.jsonl"],
                makes=[tokenizer],
            ),
        ]
        for part in ("train", "heldout"):
            steps.append(
                Step(
                    f"data-{part}",
                    f"Token files of {part}.jsonl",
                    f"python tools/datasets/preprocess_data.py --input {corpus}/{part}.jsonl "
                    f"--output-prefix {self.out}/data/{part} --tokenizer-type HFTokenizer "
                    f"--vocab-file {tokenizer} --append-eod --workers 2",
                    reads=[corpus / f"{part}.jsonl", tokenizer],
                    makes=[self.out / "data" / f"{part}_text_document.{end}" for end in ("bin", "idx")],
                )
            )
        steps.append(
            Step(
                "tasks",
                "Tasks for lm_eval from the held-out texts",
                "python -m training_examples.quickstart.tasks "
                f"--input {corpus}/heldout.jsonl --output {self.out}/tasks --questions 400 --name ordering",
                reads=[corpus / "heldout.jsonl"],
                makes=[self.out / "tasks" / "ordering_choice.yaml"],
            )
        )
        return steps

    def train(self, cell: Cell) -> Step:
        return Step(
            f"train-{cell.name}",
            f"Training {cell.name}",
            f"python deepy.py train.py {self.settings(cell)} --set save={self.run(cell)} --set auto_resume=true",
            reads=self._sources(cell),
            makes=[self.checkpoint(cell)],
        )

    def evaluate(self, cell: Cell) -> Step:
        """The loss of all held-out tokens; during training a part of them is read."""
        return Step(
            f"evaluate-{cell.name}",
            f"Held-out loss of {cell.name}",
            f"python eval.py {self.settings(cell)} --set load={self.run(cell)} --set eval_iters=100000",
            reads=self._trained(cell),
            makes=[self.log("evaluate", cell)],
        )

    def export(self, cell: Cell) -> Step:
        settings = self.settings(cell).split(" --set")[0]
        return Step(
            f"export-{cell.name}",
            f"Export of {cell.name}",
            f"python tools/ckpts/convert_neox_to_hf.py --input_dir {self.checkpoint(cell)} "
            f"--config_file {settings} --output_dir {self.model(cell)}",
            reads=self._trained(cell),
            makes=[self.model(cell) / "config.json"],
            clears=[self.model(cell)],
        )

    def score(self, cell: Cell) -> Step:
        scores = self.scores(cell)
        return Step(
            f"score-{cell.name}",
            f"lm_eval on {cell.name}",
            f"lm_eval --model hf --model_args pretrained={self.model(cell)},trust_remote_code=True "
            f"--include_path {self.out}/tasks --tasks ordering_choice,ordering_generate --device {self.size.device} "
            f"--batch_size 8 --output_path {scores}/results.json",
            reads=[*self._trained(cell), self.out / "tasks" / "ordering_choice.jsonl"],
            makes=[scores],
            clears=[scores],
            environment=OFFLINE,
        )

    def streams(self, trained: Iterable[Cell]) -> list[Step]:
        """Every model under every kind of cache."""
        return [self.stream(cell, kind) for cell in trained for kind in self.caches(cell)]

    def caches(self, cell: Cell) -> tuple[str, ...]:
        """The kinds of CACHES under which a model can be read. Rotary distances beyond a row were never trained."""
        if cell.model in WHOLE_TEXTS:
            return ()
        return tuple(kind for kind in CACHES if kind != "true distances" or shape(self.size)["pos_emb"] == "alibi")

    def stream(self, cell: Cell, kind: str) -> Step:
        """Held-out texts one after another; kind: of CACHES."""
        size = self.size
        if kind in ("separators", "true distances"):
            cache = (
                f"--enable_SepLLM --separators '.,?!;: \\t\\n' --sep_cache_size {size.separators} "
                f"--local_size {size.window} --cache_size {size.capacity}"
            )
        else:
            keys = size.cached if kind == "nearest" else size.windowed
            cache = f"--enable_StreamingLLM --cache_size {keys}"
        positions = "--text_positions" if kind == "true distances" else "--enable_pos_shift"
        out = self.stream_folder(cell, kind)
        return Step(
            f"stream-{self.stream_folder(cell, kind).name}",
            f"Stream of {cell.name} under a cache of {kind}",
            f"python tools/streaming/evaluate_streaming_perplexity.py --model_name_or_path {self.model(cell)} "
            f"--trust_remote_code --dataset_name {self.out}/corpus/heldout.jsonl --enable_kv_cache_manager {cache} "
            f"--init_cache_size {size.initial} {positions} "
            f"--num_eval_tokens {self.stream_tokens} --output_dir {out} --device {size.device}",
            reads=self._trained(cell),
            makes=[out / "report.json"],
            clears=[out],
        )

    def locate(self, cell: Cell) -> Step:
        """Where in its rows the model loses."""
        settings = shape(self.size)
        return Step(
            f"where-{cell.name}",
            f"Where {cell.name} loses",
            f"python -m training_examples.paper_ordering.where --model {self.model(cell)} "
            f"--data {self.out}/data/heldout_text_document --seq-length {settings['seq_length']} "
            f"--window {settings['prefill_local_window_size']} --device {self.size.device} --output {self.where(cell)}",
            reads=[*self._trained(cell), HERE / "where.py"],
            makes=[self.where(cell)],
        )

    def time(self, cell: Cell) -> Step:
        """A few steps of each model, one model after another: comparable seconds, whatever ran beside the trainings.

        With rotary positions: for ALiBi, PyTorch has no causal kernel, and full attention would look slower than it is.
        """
        out = self.timing(cell)
        return Step(
            f"time-{cell.model}",
            f"Seconds for a step of {cell.model}",
            f"python deepy.py train.py {self.settings(cell)} --set train_iters=8 --set log_interval=1 "
            f"--set eval_interval=1000 --set eval_iters=1 --set pos_emb=rotary --set log_dir={out}",
            reads=self._sources(cell),
            makes=[out],
            clears=[out],
        )

    def _sources(self, cell: Cell) -> list[Path]:
        files = [Path(word) for word in self.settings(cell).split() if word.endswith(".yml")]
        return [*files, self.out / "data" / "train_text_document.bin"]

    def _trained(self, cell: Cell) -> list[Path]:
        return [self.checkpoint(cell) / "manifest.json"]
