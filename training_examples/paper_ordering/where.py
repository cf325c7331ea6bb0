"""Where in a row an exported model loses: by position, and by how far back the same pair of tokens was last seen.

A token that follows its predecessor as it did before can be copied from there, if attention reaches so far.
By hand: python -m training_examples.paper_ordering.where --model FOLDER --data PREFIX --seq-length 1024 --window 32 ...
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megatron.data.indexed_dataset import IndexedDataset
from megatron.errors import DataError
from megatron.launcher.entry import run_main

PAIRS = ("new", "near", "far")
FIRST_EDGE = 16
BATCH = 8192  # tokens of one forward


def pair_kinds(tokens: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """Row of S + 1 ids -> S indices into PAIRS, one per predicted token.

    The place of the last equal pair is the key that would have to be seen: near where it is one of the `window`
    nearest keys of the query (itself included), far where it is not.
    """
    seen: dict[tuple[int, int], int] = {}
    kinds = np.zeros(len(tokens) - 1, dtype=np.int64)
    for query, pair in enumerate(pairwise(tokens.tolist())):
        key = seen.get(pair)
        if key is not None:
            kinds[query] = 1 if query - key < window else 2
        seen[pair] = query + 1  # the token to copy
    return kinds


def position_edges(seq_length: int) -> list[int]:
    """0, 16, 32, 64, ... up to the length of a row."""
    edges = [0]
    edge = FIRST_EDGE
    while edge < seq_length:
        edges.append(edge)
        edge *= 2
    return [*edges, seq_length]


def spread_rows(data: IndexedDataset, rows: int, seq_length: int) -> NDArray[np.int64]:
    """`rows` rows of seq_length + 1 ids, evenly spread over all tokens, whatever documents they touch."""
    last = data.num_tokens - seq_length - 1
    if last < 0:
        raise DataError(f"{data.num_tokens} tokens are too few for one row of {seq_length} and the token after it.")
    starts = np.linspace(0, last, min(rows, last + 1)).astype(np.int64)
    return np.stack([data.tokens(int(start), seq_length + 1).astype(np.int64) for start in starts])


def token_losses(model: Any, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """[R, S + 1] ids -> [R, S] nats, a few rows at a time."""
    losses = []
    together = max(1, BATCH // (rows.shape[1] - 1))
    with torch.no_grad():
        for batch in torch.from_numpy(rows).to(model.device).split(together):
            logits = model(batch[:, :-1]).logits.float()
            losses.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none"))
    return torch.cat(losses).cpu().numpy()


def summed_up(losses: NDArray[np.float32], rows: NDArray[np.int64], window: int) -> dict[str, Any]:
    """Mean losses by position and by kind of pair, each with the share of the tokens it is the mean of."""
    seq_length = losses.shape[1]
    kinds = np.stack([pair_kinds(row, window) for row in rows])
    places = list(pairwise(position_edges(seq_length)))
    return {
        "tokens": losses.size,
        "loss": float(losses.mean()),
        "positions": {f"{first}-{end}": float(losses[:, first:end].mean()) for first, end in places},
        "pairs": {
            name: {"loss": float(losses[kinds == kind].mean()), "share": float((kinds == kind).mean())}
            for kind, name in enumerate(PAIRS)
            if (kinds == kind).any()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of an exported model")
    add("--data", type=Path, required=True, help="prefix of the token files (PREFIX.bin, PREFIX.idx)")
    add("--seq-length", type=int, required=True, help="tokens of a row, as in training")
    add("--window", type=int, required=True, help="n: a pair seen further back is far")
    add("--rows", type=int, default=256, help="rows to read, spread over the data (default: 256)")
    add("--device", default="cpu")
    add("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from transformers import AutoModelForCausalLM  # late: --help stays fast

    model = AutoModelForCausalLM.from_pretrained(arguments.model, trust_remote_code=True).to(arguments.device).eval()
    rows = spread_rows(IndexedDataset(arguments.data), arguments.rows, arguments.seq_length)
    found = summed_up(token_losses(model, rows), rows, arguments.window)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    run_main(main)
