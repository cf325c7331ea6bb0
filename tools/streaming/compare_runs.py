"""Compare streaming runs: a table, and a picture of perplexity, keys seen and time against tokens.

python tools/streaming/compare_runs.py out/sepllm out/streamingllm --out comparison.png
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Print the table; draw the picture where asked."""
    parser = argparse.ArgumentParser(description="Streaming runs side by side.")
    parser.add_argument("runs", nargs="+", metavar="DIR", help="--output_dir of finished runs")
    parser.add_argument("--out", metavar="FILE", help="picture to write (.png, .svg, .pdf)")
    flags = parser.parse_args()
    from sepllm.streaming.report import plot, read_runs, table

    runs = read_runs(flags.runs)
    print(table(runs))
    if flags.out:
        print(f"picture: {plot(runs, Path(flags.out))}")


if __name__ == "__main__":
    from megatron.launcher.entry import run_main

    run_main(main)
