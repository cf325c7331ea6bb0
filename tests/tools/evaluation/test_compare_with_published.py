"""tools/evaluation/compare_with_published.py: our figures with their errors, the published ones beside them."""

import json
from pathlib import Path

import pytest

from megatron.errors import DataError
from tests.helpers.shared import shared_folder
from tools.evaluation.compare_with_published import published, read_results, table


def _written(path: Path, content: dict) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_table(tmp_path: Path) -> None:
    piqa = {"alias": "piqa", "acc,none": 0.6, "acc_stderr,none": 0.0114}
    ours = {"results": [{"set": "test", "loss": 1.0}, {"task": "piqa", "scores": piqa}]}
    stock = {"results": {"gsm8k_cot": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": "N/A"}}}
    columns = [read_results(_written(tmp_path / f"{n}.json", c)) for n, c in (("ours", ours), ("stock", stock))]
    lines = table(columns, published(["SepLLM n=64, H/T", "n=256"])).splitlines()
    titles = "*Pythia-160m, SepLLM n=64, H/T* | *Llama-3-8B-Instruct, SepLLM n=256, untrained*"
    assert lines[0] == f"| task | metric | ours | stock | {titles} |"
    assert lines[2:4] == [
        "| piqa | acc | 0.6000 ± 0.0114 |  | 0.6409 |  |",
        "| gsm8k_cot | exact_match,strict-match |  | 0.5000 |  | 0.7718 |",
    ]
    assert "arXiv 2412.12094, table 1" in lines[-2]


def test_what_is_no_results_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="KeyError"):
        read_results(_written(tmp_path / "a.json", {"loss": 1}))
    with pytest.raises(DataError, match="Pythia-160m, full attention"):
        published(["Mamba"])


def test_published_figures_are_those_of_the_reference() -> None:
    text = shared_folder("reference", "NUMBERS.md").read_text()
    rows = {"n=64, H/T": "n64ht-SepLLM", "n=128": "n128-SepLLM", "StreamingLLM n=64": "n64-StreamingLLM"}
    rows |= {"EleutherAI/pythia-160m-deduped": "EleutherAI/pythia-160m-deduped"}
    for fragment, name in rows.items():
        cells = next(line for line in text.splitlines() if line.startswith(f"| {name} |")).split("|")[2:]
        figures = [float(figure) for cell in cells[:9] for figure in cell.split("/")]
        (column,) = published([fragment])
        assert [value for value, _ in column.scores.values()] == pytest.approx(figures), name
