"""A restart on fewer hosts: the same train_batch_size from those that still answer, or the reason why not."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from megatron.launcher.hostfile import Hosts
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.batch import divisors
from megatron.neox_arguments.load import arguments_from_texts


class TooFewHosts(Exception):
    """The hosts that answer cannot go on without the others; the message says why, and how many could."""


@dataclass(frozen=True)
class Share:
    """The hosts that one start uses, the settings for them, and the `key=value` changes that make these."""

    hosts: Hosts
    args: NeoXArgs
    changes: tuple[str, ...] = ()


def fewer_hosts(whole: Share, gone: Container[str], overrides: Sequence[str]) -> Share:
    """The largest number of answering hosts, first ones first, that keeps train_batch_size.

    whole: what the run began with; gone: hosts that do not answer; overrides: the user's own `key=value`.
    TooFewHosts when min_hosts is not set, or no number from it up will do. SettingsError when the settings allow none
    of it for another reason (a growing batch size, say).
    """
    least = whole.args.min_hosts
    if least is None:
        raise TooFewHosts(
            "a restart needs all hosts; with min_hosts: N it goes on with those that answer, down to N of them."
        )
    there = [host for host in whole.hosts.slots if host not in gone]
    for count in range(len(there), least - 1, -1):
        hosts = Hosts({host: whole.hosts.slots[host] for host in there[:count]})
        sizes = _batch_sizes(whole.args, hosts.world_size)
        if sizes is not None:
            args = arguments_from_texts(whole.args.texts, (*overrides, *sizes), hosts.world_size)
            return Share(hosts, args, sizes)
    raise TooFewHosts(_why_not(whole, there, least))


def _batch_sizes(args: NeoXArgs, world_size: int) -> tuple[str, ...] | None:
    """Overrides for the same total on this many ranks; the micro-batch may shrink, never grow. None: it cannot be."""
    old = args.derived
    copy = old.world_size // old.dp_size
    dp_size, odd = divmod(world_size, copy)
    if odd or dp_size == 0 or old.train_batch_size % dp_size:
        return None
    share = old.train_batch_size // dp_size
    micro = max(size for size in divisors(old.micro_batch_size) if share % size == 0)
    return (
        f"train_batch_size={old.train_batch_size}",
        f"train_micro_batch_size_per_gpu={micro}",
        f"gradient_accumulation_steps={share // micro}",
    )


def _why_not(whole: Share, there: Sequence[str], least: int) -> str:
    derived = whole.args.derived
    names = ", ".join(there) or "none"
    ranks = sum(len(whole.hosts.slots[host]) for host in there)
    counts = ", ".join(map(str, _counts_that_would_do(whole, least))) or "none"
    return (
        f"{len(there)} of {len(whole.hosts.slots)} hosts answer ({names}), with {ranks} ranks. min_hosts is {least}, "
        f"a copy of the model takes {derived.world_size // derived.dp_size} ranks, and the number of copies must "
        f"divide train_batch_size {derived.train_batch_size}. Numbers of hosts that would do, in the order of the "
        f"hostfile: {counts}."
    )


def _counts_that_would_do(whole: Share, least: int) -> Iterator[int]:
    ranks = 0
    for count, slots in enumerate(whole.hosts.slots.values(), start=1):
        ranks += len(slots)
        if count >= least and _batch_sizes(whole.args, ranks) is not None:
            yield count
