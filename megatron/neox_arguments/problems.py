"""Where a setting was written and what is wrong with it: all problems are collected, then shown at once."""

from dataclasses import dataclass, field

from megatron.errors import SettingsError


@dataclass(frozen=True, order=True)
class Place:
    """A position in a settings text. `line` counts from 1; 0 means "no particular line"."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


NOWHERE = Place("")


@dataclass
class Problems:
    """A growing list of complaints. `stop_if_any` raises them together, in the order of the files."""

    found: list[tuple[Place, str]] = field(default_factory=list)

    def add(self, message: str, place: Place = NOWHERE) -> None:
        if (place, message) not in self.found:
            self.found.append((place, message))

    def stop_if_any(self) -> None:
        if self.found:
            raise SettingsError(self.text())

    def text(self) -> str:
        files = list(dict.fromkeys(place.file for place, _ in self.found))
        ordered = sorted(self.found, key=lambda item: (files.index(item[0].file), item[0].line))
        lines = [f"{place}: {message}" if place.file else message for place, message in ordered]
        if len(lines) == 1:
            return lines[0]
        return f"{len(lines)} problems in the settings:\n" + "\n".join(f"  {line}" for line in lines)
