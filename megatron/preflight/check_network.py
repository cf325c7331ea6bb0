"""Checks of the place where the ranks meet: its port, its address, the way there."""

from megatron.launcher.multi_host import DEFAULT_PORT
from megatron.preflight.everyone import Everyone, by_host
from megatron.preflight.result import Result, failed, passed, skipped, warned
from megatron.preflight.site import Site

_CONNECT = 5.0


def port(site: Site, everyone: Everyone) -> Result:
    """Nobody listens on the port of the first host yet."""
    number = _port(site)
    if number is None:
        return passed("port", "a free one is taken at the start, as master_port is not set")
    if site.first in everyone.gone:
        return skipped("port", f"{site.first} does not answer")
    answers = everyone.ask("port", 5, [site.first], port=number)

    def found() -> Result:
        fault = answers.found[site.first]
        if fault is None:
            return passed("port", f"{number} is free on {site.first}")
        what, _, advice = fault.partition("\n")
        return failed("port", f"{what} ({site.first})", advice)

    return answers.judged("port", found)


def meeting(site: Site, everyone: Everyone, port_is_free: bool) -> Result:
    """Every host knows the first one by an address of the network and gets through to it."""
    name, number = site.args.master_addr or site.first, _port(site)
    others = [host for host in everyone.hosts if host != site.first]
    if not others or number is None:
        return passed("network", "one host: the ranks meet on its loopback interface")
    if site.first in everyone.gone or not port_is_free:
        return skipped("network", f"needs port {number} of {site.first}")
    answers = everyone.ask("resolve", 5, host=name)
    lost = {host: f"{name} is {address or 'unknown'}" for host, address in answers.found.items() if host in others
            and (address is None or address.startswith("127."))}  # fmt: skip
    if lost:
        return failed(
            "network",
            by_host(lost),
            f"Give {name} its address in /etc/hosts or DNS, or set master_addr to an address that all hosts reach.",
        )
    listening = everyone.ask("listen", 5, [site.first], port=number)
    if not listening.found:
        return listening.judged("network", lambda: passed("network", ""), "")
    ways = everyone.ask("connect", _CONNECT + 5, others, host=name, port=number, patience=_CONNECT)

    def found() -> Result:
        blocked = {host: f"no way to {name}:{number} ({why})" for host, why in ways.found.items() if why}
        if blocked:
            return failed(
                "network",
                by_host(blocked),
                "A firewall or a wrong address: all ports must be open between the hosts of a run, and only there. "
                "Set master_addr to the address of the fast network if there are several.",
            )
        own = answers.found.get(site.first)
        if own is not None and own.startswith("127."):
            return warned(
                "network",
                f"{name} is {own} on itself, so its ranks may offer the others an address that leads nowhere",
                "Set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network interface, or correct /etc/hosts.",
            )
        return passed("network", f"{len(others)} hosts get through to {name} ({own}), port {number}")

    return ways.judged("network", found)


def _port(site: Site) -> int | None:
    return site.args.master_port or (DEFAULT_PORT if site.several else None)
