"""The report's look: plain CSS for screen, dark screen and paper."""

from collections.abc import Sequence

from megatron.report.chart import COLORS, ON_DARK

_RULES = """
:root { --ink: #1c2430; --faint: #68727f; --line: #dfe3e8; --back: #ffffff; --card: #f7f8fa; --accent: #0072b2;
  --good: #00875a; --bad: #c62828; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --faint: #98a2b0; --line: #3a424d; --back: #14181d; --card: #1c2229; --accent: #56b4e9;
    --good: #4cc38a; --bad: #ff7b72; DARK }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--back); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 40px; }
h1 { font-size: 24px; margin: 0 0 16px; overflow-wrap: anywhere; }
h3 { font-size: 15px; margin: 18px 0 4px; }
h2 { font-size: 18px; margin: 30px 0 10px; }
figure { margin: 0; padding: 12px 14px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figcaption { font-weight: 600; margin-bottom: 6px; }
svg { display: block; width: 100%; height: auto; font: 13px system-ui, sans-serif; }
svg text { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--faint); stroke-width: 1; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--faint); font-size: 13px; }
td { white-space: nowrap; }
.wide td { white-space: normal; overflow-wrap: anywhere; }
.wide td:first-child, .wide td:nth-child(2) { white-space: nowrap; }
td i, th i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
details { margin: 8px 0; }
summary { cursor: pointer; padding: 4px 0; }
summary i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
code { font-size: 13px; }
small, .note, .faint, footer { color: var(--faint); font-size: 13px; }
footer { margin-top: 34px; overflow-wrap: anywhere; }
.good { color: var(--good); }
.bad { color: var(--bad); font-weight: 600; }
.tabs input { position: absolute; opacity: 0; }
.tabs label { display: inline-block; padding: 5px 14px; margin: 0 6px 10px 0; border: 1px solid var(--line);
  border-radius: 16px; cursor: pointer; }
.tabs input:checked + label { background: var(--accent); border-color: var(--accent); color: var(--back); }
.tabs input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.panel { display: none; }
.on-narrow { display: none; }
@media screen and (max-width: 720px) { .on-wide { display: none; } .on-narrow { display: block; } }
"""


def run_color(number: int) -> str:
    """The colour of a run in CSS: one on light paper, a brighter one on a dark screen."""
    return f"var(--run-{number % len(COLORS)})"


def _run_colors(colors: Sequence[str]) -> str:
    return " ".join(f"--run-{number}: {color};" for number, color in enumerate(colors))


STYLE = _RULES.replace("LIGHT", _run_colors(COLORS)).replace("DARK", _run_colors(ON_DARK))


def tab_style(names: Sequence[str]) -> str:
    """Shows the panel of the chosen tab; on paper all of them."""
    shown = ", ".join(f".tabs #tab-{name}:checked ~ #panel-{name}" for name in names)
    paper = "@media print { .tabs .panel { display: block; margin-bottom: 12px; } .tabs label { display: none; } }"
    return f"{shown} {{ display: block; }}\n{paper}\n" if names else ""
