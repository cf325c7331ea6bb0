"""The simulated schedule as an SVG: a row per stage, a box per micro-batch, the bubble left empty."""

from html import escape

from megatron.planning.schedule import Schedule

_WIDTH, _ROW, _LEFT, _TOP = 1120, 30, 74, 40
_COLORS = {"forward": "#56b4e9", "backward": "#e69f00"}


def picture(schedule: Schedule, title: str) -> str:
    """A whole SVG file."""
    stages = 1 + max(box.stage for box in schedule.boxes)
    end = max(box.end for box in schedule.boxes)
    scale = (_WIDTH - _LEFT - 16) / end
    height = _TOP + stages * _ROW + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for stage in range(stages):
        y = _TOP + stage * _ROW
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{end * scale:.1f}" height="{_ROW - 4}" fill="#f0f1f3"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 18}" text-anchor="end">stage {stage}</text>')
    for box in schedule.boxes:
        x, width, y = _LEFT + box.start * scale, (box.end - box.start) * scale, _TOP + box.stage * _ROW
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW - 4}" fill="{_COLORS[box.kind]}"'
            f' stroke="white" stroke-width="0.7"><title>{box.kind} of micro-batch {box.micro}:'
            f" {1000 * box.start:.3g} to {1000 * box.end:.3g} ms</title></rect>"
        )
        if width > 16:
            parts.append(f'<text x="{x + width / 2:.1f}" y="{y + 18}" text-anchor="middle">{box.micro}</text>')
    y = _TOP + stages * _ROW + 22
    for number, (kind, color) in enumerate(_COLORS.items()):
        x = _LEFT + 110 * number
        parts.append(f'<rect x="{x}" y="{y - 11}" width="14" height="14" fill="{color}"/>')
        parts.append(f'<text x="{x + 20}" y="{y}">{kind}</text>')
    parts.append(f'<text x="{_LEFT + 230}" y="{y}">empty: waiting ({100 * schedule.bubble:.1f}% of the passes)</text>')
    return "\n".join([*parts, "</svg>", ""])
