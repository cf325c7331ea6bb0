"""Hostfiles: `host slots=N` per line, `#` for comments, and the include/exclude filters `host:0,1@other`.

The format is that of DeepSpeed and MPI; the errors name file and line, all of them at once.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from megatron.errors import SettingsError
from sepllm.errors import did_you_mean

# A host name goes into command lines of other programs: letters, digits, dots, dashes; IPv6 has colons, but so has
# the include filter, so an address of that kind needs a name. An `user@` part belongs into ~/.ssh/config.
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXAMPLE = "expected lines like `node1 slots=8`"


@dataclass(frozen=True)
class Hosts:
    """Hosts in order with the slots (accelerators or processes, counted from 0) to use on each."""

    slots: dict[str, tuple[int, ...]]

    @property
    def world_size(self) -> int:
        return sum(len(slots) for slots in self.slots.values())


def read_hostfile(path: str | Path) -> Hosts:
    """Parse a hostfile; SettingsError lists every bad line as file:line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise SettingsError(f"hostfile {path} cannot be read: {reason}; {_EXAMPLE}.") from None
    return parse_hostfile(text, str(path))


def parse_hostfile(text: str, name: str = "hostfile") -> Hosts:
    """The same from text; name is used in messages."""
    slots: dict[str, tuple[int, ...]] = {}
    first_seen: dict[str, int] = {}
    faults: list[str] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        try:
            host, count = _parse_line(line)
            if host in first_seen:
                raise SettingsError(f"host {host!r} stands already on line {first_seen[host]}; add up its slots there")
        except SettingsError as error:
            faults.append(f"{name}:{number}: {error}")
            continue
        first_seen[host] = number
        slots[host] = tuple(range(count))
    if not slots and not faults:
        faults.append(f"{name}: no host in it; {_EXAMPLE}")
    if faults:
        raise SettingsError("\n".join(faults))
    return Hosts(slots)


def select(hosts: Hosts, include: str | None = None, exclude: str | None = None) -> Hosts:
    """Keep or drop hosts and slots: `node1@node2:0,2` names all of node1 and two slots of node2."""
    if include and exclude:
        raise SettingsError("include and exclude are both given; use one of them.")
    if not include and not exclude:
        return hosts
    key = "include" if include else "exclude"
    named = _parse_filter(key, include or exclude or "", hosts)
    if include:
        chosen = {host: named[host] for host in hosts.slots if host in named}
    else:
        chosen = {
            host: tuple(slot for slot in slots if slot not in named.get(host, ()))
            for host, slots in hosts.slots.items()
        }
    chosen = {host: slots for host, slots in chosen.items() if slots}
    if not chosen:
        raise SettingsError(f"{key} {include or exclude!r} leaves no host to run on.")
    return Hosts(chosen)


def limit(hosts: Hosts, num_nodes: int | None = None, num_gpus: int | None = None) -> Hosts:
    """Only the first num_nodes hosts and the first num_gpus slots of each (None or -1: all)."""
    slots = dict(hosts.slots)
    if num_nodes is not None and num_nodes > 0:
        if num_nodes > len(slots):
            raise SettingsError(f"num_nodes is {num_nodes}, but there are only {len(slots)} hosts: {', '.join(slots)}.")
        slots = dict(list(slots.items())[:num_nodes])
    if num_gpus is not None and num_gpus > 0:
        short = [f"{host} has {len(own)}" for host, own in slots.items() if len(own) < num_gpus]
        if short:
            raise SettingsError(f"num_gpus is {num_gpus} for each host, but {', '.join(short)}.")
        slots = {host: own[:num_gpus] for host, own in slots.items()}
    return Hosts(slots)


def _parse_line(line: str) -> tuple[str, int]:
    host, *rest = line.split()
    if not _HOST.fullmatch(host):
        raise SettingsError(f"{host!r} is no host name (letters, digits, '.', '-', '_'); {_EXAMPLE}")
    if len(rest) != 1:
        found = "nothing" if not rest else repr(" ".join(rest))
        raise SettingsError(f"found {found} after the host name {host!r}; {_EXAMPLE}")
    key, equals, value = rest[0].partition("=")
    if key != "slots" or not equals:
        raise SettingsError(f"found {rest[0]!r} after the host name {host!r}; {_EXAMPLE}")
    if not re.fullmatch(r"[0-9]{1,6}", value) or int(value) == 0:
        raise SettingsError(f"slots of {host!r} is {value!r}; expected a whole number from 1 up")
    return host, int(value)


def _parse_filter(key: str, text: str, hosts: Hosts) -> dict[str, tuple[int, ...]]:
    named: dict[str, tuple[int, ...]] = {}
    faults = []
    for part in text.split("@"):
        host, colon, list_ = part.strip().partition(":")
        if host not in hosts.slots:
            hint = did_you_mean(host, hosts.slots) or f"The hosts are {', '.join(hosts.slots)}."
            faults.append(f"{key} {text!r}: unknown host {host!r}. {hint}")
            continue
        slots = hosts.slots[host]
        if colon:
            numbers = [number.strip() for number in list_.split(",")]
            if not all(number.isdecimal() for number in numbers):
                faults.append(f"{key} {text!r}: slots of {host!r} are {list_!r}; expected numbers like 0,2")
                continue
            missing = [number for number in numbers if int(number) not in slots]
            if missing:
                last = slots[-1]
                faults.append(f"{key} {text!r}: {host!r} has no slot {', '.join(missing)}; its slots are 0 to {last}")
                continue
            slots = tuple(sorted({int(number) for number in numbers}))
        named[host] = tuple(sorted({*named.get(host, ()), *slots}))
    if faults:
        raise SettingsError("\n".join(faults))
    return named
