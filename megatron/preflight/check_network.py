"""Checks of the place where the ranks meet: a port that is free, and a way there from every host."""

from collections.abc import Mapping
from dataclasses import dataclass

from megatron.launcher.connections import WITH_AGENTS
from megatron.launcher.meeting import peer_to_look_at
from megatron.preflight.everyone import Everyone, by_host
from megatron.preflight.result import Result, failed, passed, skipped
from megatron.preflight.site import Site
from megatron.preflight.text import counted

_CONNECT = 5.0


@dataclass(frozen=True)
class Meeting:
    """What the ranks would be told."""

    address: str
    port: int


def port(site: Site, everyone: Everyone, addresses: Mapping[str, str]) -> tuple[Result, Meeting | None]:
    """Nobody listens yet where the ranks will meet. addresses: where each host was reached."""
    wanted = site.args.master_port
    if not site.several and wanted is None:
        return passed("port", "a free one is taken at the start, as master_port is not set"), None
    if site.first in everyone.gone:
        return skipped("port", f"{site.first} does not answer"), None
    answers = everyone.ask(
        "meeting",
        5,
        [site.first],
        host=site.first,
        port=wanted,
        reached_at=addresses.get(site.first, ""),
        towards=peer_to_look_at([addresses.get(host, "") for host in site.hosts.slots]),
    )
    if site.first in answers.faults:
        what, _, advice = answers.faults[site.first][0].partition("\n")
        return failed("port", f"{site.first}: {what}", advice), None
    if site.first not in answers.found:
        return answers.judged("port", lambda: skipped("port", "")), None
    found = answers.found[site.first]
    address = found["address"] if site.args.launcher in WITH_AGENTS else site.first
    meeting = Meeting(site.args.master_addr or address, found["port"])
    return passed("port", f"{meeting.port} is free on {site.first}"), meeting


def network(site: Site, everyone: Everyone, meeting: Meeting | None) -> Result:
    """Every host gets through to the place where the ranks meet."""
    others = [host for host in everyone.hosts if host != site.first]
    if len(site.hosts.slots) == 1:
        return passed("network", "one host: the ranks meet on its loopback interface")
    if meeting is None or site.first in everyone.gone:
        return skipped("network", f"needs a free port on {site.first}")
    listening = everyone.ask("listen", 5, [site.first], port=meeting.port)
    if site.first not in listening.found:
        return listening.judged("network", lambda: skipped("network", ""))
    place = f"{meeting.address}:{meeting.port}"
    ways = everyone.ask("connect", _CONNECT + 5, others, host=meeting.address, port=meeting.port, patience=_CONNECT)

    def found() -> Result:
        blocked = {host: f"no way to {site.first} at {place} ({why})" for host, why in ways.found.items() if why}
        if blocked:
            return failed(
                "network",
                by_host(blocked),
                "A firewall, or an address of another network: all ports must be open between the hosts of a run, and "
                "only there. master_addr and master_port name another place.",
            )
        return passed("network", f"{place} on {site.first} is reached from {counted(len(others), 'host')}")

    return ways.judged("network", found)
