"""Checks of the hosts themselves: reachable, clocks, versions, slots, limits."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from megatron.errors import SettingsError
from megatron.launcher.fingerprint import Fingerprint, differences
from megatron.preflight.everyone import Answers, Everyone, by_host
from megatron.preflight.result import Result, failed, passed, skipped, warned
from megatron.preflight.site import Site
from megatron.preflight.text import bytes_text, counted

_CLOCKS_APART = 1.0  # seconds
_NEEDED = ("torch", "deepspeed")
_FEW_FILES = 4096
_SHM_PER_RANK = 64 << 20  # what a container gets in all by default; NCCL alone takes some 30 MiB a rank
_REACH_ADVICE = (
    "Try `ssh HOST true` by hand: it must log in without a password (`ssh-copy-id HOST`). Every host needs this "
    "Python interpreter, this repository and the current folder under the same paths."
)
_HUNG_ADVICE = "Look at that host; leave it out with --set exclude=HOST."


def reached(site: Site, answers: Answers) -> Result:
    """Every probe has begun; a host that does not is a matter of settings, as when a run starts."""
    count = len(answers.found)

    def found() -> Result:
        return passed("hosts", f"{count} answer over ssh" if site.several else f"this host, {site.first}")

    result = answers.judged("hosts", found, _REACH_ADVICE if site.several else "")
    return replace(result, code=SettingsError.exit_code) if result.state == "fail" else result


def clocks(everyone: Everyone) -> Result:
    """Clocks against that of this host."""
    answers = everyone.each(lambda talk, seconds: talk.clock_offset(seconds), 5)

    def found() -> Result:
        if len(answers.found) < 2:
            return passed("clocks", "one host, one clock")
        apart = {
            host: seconds for host, (seconds, doubt) in answers.found.items() if abs(seconds) - doubt > _CLOCKS_APART
        }
        if apart:
            return warned(
                "clocks",
                by_host({host: f"{seconds:+.1f} s against this host" for host, seconds in apart.items()}),
                "Logs of different hosts cannot be compared, certificates may count as expired: start NTP or chrony.",
            )
        worst = max(abs(seconds) for seconds, _ in answers.found.values())
        doubt = max(doubt for _, doubt in answers.found.values())
        return passed("clocks", f"within {1000 * worst:.1f} ms of this host (measured to {1000 * doubt:.1f} ms)")

    return answers.judged("clocks", found, _HUNG_ADVICE)


def machine_results(site: Site, answers: Answers) -> Iterator[Result]:
    """The checks that one look at each machine answers."""
    if answers.lost or answers.faults or not answers.found:
        yield answers.judged("machine", lambda: skipped("machine", "no host answers"), _HUNG_ADVICE)
    if answers.found:
        yield from (check(site, answers.found) for check in (_versions, _code, _slots, _limits, _shared_memory))


def _versions(site: Site, found: Mapping[str, Any]) -> Result:
    taken = _fingerprints(found)
    different = differences(taken).versions
    missing = [f"{one.host}: no {name}" for one in taken for name in _NEEDED if one.versions[name] is None]
    own = ", ".join(f"{name} {version}" for name, version in taken[0].versions.items() if version)
    advice = "Install the same versions on every host: pip install -r requirements/train.txt there."
    if different and site.args.allow_different_versions and not missing:
        return warned("versions", "\n".join(different), "allow_different_versions lets them pass.")
    if different or missing:
        return failed("versions", "\n".join([*different, *missing]), advice)
    return passed("versions", own)


def _code(site: Site, found: Mapping[str, Any]) -> Result:
    taken = _fingerprints(found)
    different = differences(taken).code
    if different:
        advice = "Bring the same commit to every host (`git status` and `git rev-parse HEAD` there tell)."
        return failed("code", "\n".join(different), advice)
    return passed("code", f"{taken[0].code}, {len(taken[0].files)} files" + (", alike" if len(taken) > 1 else ""))


def _fingerprints(found: Mapping[str, Any]) -> list[Fingerprint]:
    """Under the names of the hostfile."""
    return [replace(Fingerprint(**facts["fingerprint"]), host=host) for host, facts in found.items()]


def _slots(site: Site, found: Mapping[str, Any]) -> Result:
    wanted = {host: site.hosts.slots[host] for host in found}
    devices = {host: len(facts["accelerators"]) for host, facts in found.items()}
    if any(devices.values()):
        few = {host: f"slots up to {max(wanted[host])}, but {devices[host]} accelerators" for host in found
               if max(wanted[host]) >= devices[host]}  # fmt: skip
        if few:
            return failed("slots", by_host(few), "Correct the slots in the hostfile, or leave the host out (exclude).")
        return _devices_alike(found, devices)
    full = {
        host: f"{counted(len(wanted[host]), 'rank')} on {counted(facts['cores'], 'core')}"
        for host, facts in found.items()
    }
    crowded = {host: full[host] for host, facts in found.items() if len(wanted[host]) > facts["cores"]}
    if crowded:
        return warned("slots", by_host(crowded), "Ranks that share a core wait for each other: fewer slots are faster.")
    return passed("slots", "no accelerators; " + "; ".join(sorted(set(full.values()))))


def _devices_alike(found: Mapping[str, Any], devices: Mapping[str, int]) -> Result:
    kinds = {
        host: ", ".join(sorted({f"{one['name']} (driver {one['driver']})" for one in facts["devices"]}))
        for host, facts in found.items()
    }
    if len(set(kinds.values())) > 1:
        return warned(
            "slots", by_host(kinds), "The slowest device sets the pace, and drivers that differ may not talk."
        )
    names = next(iter(kinds.values())) or "accelerators"
    return passed("slots", f"{sum(devices.values())} x {names}")


def _limits(site: Site, found: Mapping[str, Any]) -> Result:
    low = {}
    for host, facts in found.items():
        files, locked = facts["open_files"], facts["locked_memory"]
        faults = [f"{files} open files"] if files is not None and files < _FEW_FILES else []
        faults += [f"{bytes_text(locked)} of locked memory"] if facts["infiniband"] and locked is not None else []
        if faults:
            low[host] = ", ".join(faults)
    if low:
        return warned(
            "limits",
            by_host(low),
            f"Many ranks and files need more: `ulimit -n 65536` (here: below {_FEW_FILES}), and InfiniBand `ulimit -l "
            "unlimited`, in /etc/security/limits.conf or the container's options.",
        )
    counts = {facts["open_files"] for facts in found.values()}
    return passed("limits", "open files: " + ("no limit" if None in counts else f"{min(counts):,}"))


def _shared_memory(site: Site, found: Mapping[str, Any]) -> Result:
    free = {host: facts["shared_memory"] for host, facts in found.items()}
    low = {}
    for host, size in free.items():
        needed = _SHM_PER_RANK * len(site.hosts.slots[host])
        if size is None:
            low[host] = "no /dev/shm"
        elif size < needed:
            low[host] = f"{bytes_text(size)} free, {bytes_text(needed)} wanted for {len(site.hosts.slots[host])} ranks"
    if low:
        return warned("/dev/shm", by_host(low), "Ranks of a host pass data through it: in a container, --shm-size=16g.")
    return passed("/dev/shm", f"{bytes_text(min(size for size in free.values() if size is not None))} free")
