"""The table of docs/reliability.md is made from the committed results, and every row of it held."""

import json

from tests.faults.scorecard import PAGE, RESULTS, ROWS, page_with


def test_the_page_shows_the_results() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with(results, page), "run: python -m tests.faults.scorecard"
    assert {row["row"] for row in results["rows"]} == set(ROWS)
    assert all(row["held"] == row["tried"] for row in results["rows"])
