"""What the two label tools share at their surface: the repair of texts, and the lines they end with."""

from collections.abc import Callable
from pathlib import Path

from megatron.data.label_sets import LabelSets
from megatron.errors import SettingsError


def repairer(wanted: bool) -> Callable[[str], str]:
    """ftfy's repair of garbled text, or nothing at all. SettingsError when the package is missing."""
    if not wanted:
        return str
    try:
        import ftfy
    except ImportError as error:
        raise SettingsError("--ftfy needs a package: pip install ftfy") from error
    return ftfy.fix_text


def report_lines(made: LabelSets, rejects: Path, *, has_labels: bool) -> list[str]:
    """How much was made, where it lies, what was left out, and the settings to train with."""
    share = f", {made.counted:,} ({made.counted / max(1, made.tokens):.1%}) of them with a label" if has_labels else ""
    lines = [f"{made.documents:,} documents, {made.tokens:,} tokens{share}"]
    lines += [f"wrote {prefix}.bin and .idx" for prefix in made.prefixes]
    if made.rejected:
        lines.append(f"left out {made.rejected:,} documents, listed in {rejects}; the first: {made.first_reject}")
    text = made.prefixes[0]
    lines.append(
        f"train with train_data_paths: [{text}] and train_label_data_paths: [{made.prefixes[1]}]"
        if has_labels
        else f"train with train_data_paths: [{text}]"
    )
    return lines
