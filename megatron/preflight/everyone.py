"""All hosts at once: each is asked in a thread of its own, and one that does not answer holds nobody up."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from megatron.errors import PeerError
from megatron.launcher.hosts import LOCALHOST
from megatron.preflight.result import Result, failed
from megatron.preflight.talk import Refusal, Talk

PEER_LOST = PeerError.exit_code
_AT_ONCE = 256
_AT_LEAST = 3.0  # seconds: one host that has eaten up the time must not make others seem to hang


@dataclass
class Answers:
    """What the hosts said. found: answers; faults: what is wrong there, with its exit code; lost: fell silent now."""

    found: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, tuple[str, int]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def judged(self, name: str, result: Callable[[], Result], advice: str = "") -> Result:
        """`result()` of the answers found, unless a host is at fault or fell silent: then that, with all of them."""
        if not self.faults and not self.lost:
            return result()
        bad = {**self.lost, **{host: text for host, (text, _) in self.faults.items()}}
        codes = [code for _, code in self.faults.values()] + [PEER_LOST] * len(self.lost)
        return failed(name, by_host(bad), advice, min(codes))


class Everyone:
    """The probes of all hosts, in the order of the hostfile; those that fell silent are asked no more."""

    def __init__(self, talks: Mapping[str, Talk], limit: float) -> None:
        """limit: seconds after which questions get no more than a few seconds each."""
        self._talks = dict(talks)
        self.gone: set[str] = set()
        self._end = time.monotonic() + limit

    @property
    def hosts(self) -> list[str]:
        """Those that still answer."""
        return [host for host in self._talks if host not in self.gone]

    def ask(self, name: str, seconds: float, hosts: Iterable[str] | None = None, **fields: Any) -> Answers:
        """Ask `hosts` (all) the same question; waits for at most `seconds`, whatever the hosts do."""
        return self.each(lambda talk, limit: talk.ask(name, limit, **fields), seconds, hosts)

    def each(
        self, question: Callable[[Talk, float], Any], seconds: float, hosts: Iterable[str] | None = None
    ) -> Answers:
        asked = [host for host in (self.hosts if hosts is None else hosts) if host not in self.gone]
        limit = max(min(seconds, _AT_LEAST), min(seconds, self._end - time.monotonic()))
        answers = Answers()
        if not asked:
            return answers
        with ThreadPoolExecutor(min(len(asked), _AT_ONCE)) as pool:
            running = {host: pool.submit(question, self._talks[host], limit) for host in asked}
            for host, answer in running.items():
                try:
                    answers.found[host] = answer.result()
                except Refusal as fault:
                    answers.faults[host] = (str(fault), fault.exit_code)
                except PeerError as silence:
                    answers.lost[host] = str(silence)
        self.gone |= answers.lost.keys()
        return answers

    def note_missing(self, result: Result) -> Result:
        """The same, saying which hosts are not in it because they had fallen silent before."""
        if not self.gone or result.state in ("fail", "skipped"):
            return result
        return replace(result, found=f"{result.found} (not asked: {', '.join(sorted(self.gone))})")

    def close(self) -> None:
        with ThreadPoolExecutor(min(len(self._talks), _AT_ONCE)) as pool:
            list(pool.map(Talk.close, self._talks.values()))


def by_host(values: Mapping[str, object]) -> str:
    """`hosts: value`, one line each, hosts of one value together; just the value for this host alone."""
    if list(values) == [LOCALHOST]:
        return str(values[LOCALHOST])
    groups: dict[object, list[str]] = {}
    for host, value in values.items():
        groups.setdefault(value, []).append(host)
    return "\n".join(f"{', '.join(hosts)}: {value}" for value, hosts in groups.items())
