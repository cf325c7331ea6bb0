"""Which hosts and slots a run uses, worked out from the settings before they are checked as a whole.

The number of ranks decides the batch sizes, so it has to be known first.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron.errors import SettingsError
from megatron.launcher.accelerators import usable_cores, visible_accelerators
from megatron.launcher.hostfile import Hosts, limit, read_hostfile, select

LOCALHOST = "localhost"


@dataclass(frozen=True)
class HostSettings:
    """The keys of the settings that choose hosts; values of a wrong type are left out, the checker names them."""

    hostfile: str | None = None
    include: str | None = None
    exclude: str | None = None
    num_nodes: int | None = None
    num_gpus: int | None = None
    force_multi: bool = False

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "HostSettings":
        """From the merged but unchecked settings; DLTS_HOSTFILE stands in for a missing hostfile, as in GPT-NeoX."""
        text = {key: values[key] for key in ("hostfile", "include", "exclude") if isinstance(values.get(key), str)}
        text.setdefault("hostfile", os.environ.get("DLTS_HOSTFILE") or None)
        numbers = {key: values[key] for key in ("num_nodes", "num_gpus") if type(values.get(key)) is int}
        return cls(**text, **numbers, force_multi=values.get("force_multi") is True)


def choose_hosts(settings: HostSettings) -> Hosts | None:
    """Hosts and slots to use; None: this host, and as many ranks as the settings imply.

    SettingsError for a bad hostfile or a filter that fits none of its hosts.
    """
    if settings.hostfile:
        hosts = select(read_hostfile(settings.hostfile), settings.include, settings.exclude)
        return limit(hosts, settings.num_nodes, settings.num_gpus)
    if settings.num_nodes is not None and settings.num_nodes > 1:
        raise SettingsError(f"num_nodes is {settings.num_nodes}, but no hostfile says which hosts they are.")
    count = settings.num_gpus or len(visible_accelerators())
    if count < 1:
        if settings.include or settings.exclude:
            raise SettingsError("include and exclude choose among accelerators, and this host has none; use num_gpus.")
        return None
    return select(Hosts({LOCALHOST: tuple(range(count))}), settings.include, settings.exclude)


def is_this_host(name: str) -> bool:
    """True for localhost and for this host's own name, with or without its domain."""
    own = socket.gethostname().lower()
    return name.lower() in (LOCALHOST, "127.0.0.1", own, own.partition(".")[0])


def needs_other_hosts(hosts: Hosts, force_multi: bool) -> bool:
    """True unless all ranks run right here."""
    return force_multi or len(hosts.slots) > 1 or not all(is_this_host(host) for host in hosts.slots)


def check_capacity(slots: tuple[int, ...], num_gpus: int | None, from_hostfile: str | None) -> None:
    """SettingsError if this host cannot run one rank per slot.

    Accelerators are counted where there are any. Without, num_gpus or a hostfile may ask for any number of processes;
    what the batch sizes or the parallel sizes imply must not exceed the cores.
    """
    ranks, accelerators = len(slots), visible_accelerators()
    if accelerators:
        too_many = max(slots) >= len(accelerators)
        if too_many:
            source = f"the hostfile {from_hostfile} gives" if from_hostfile else "the settings ask for"
            raise SettingsError(
                f"{source} {ranks} ranks on this host, slots up to {max(slots)}, but it has {len(accelerators)} "
                f"visible accelerators (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}).\n"
                "Lower num_gpus or the parallel sizes, or name more hosts in a hostfile."
            )
    elif num_gpus is None and from_hostfile is None and ranks > usable_cores():
        raise SettingsError(
            f"the settings ask for {ranks} ranks, but this host has no accelerator and {usable_cores()} CPU cores.\n"
            f"Lower the parallel or batch sizes, name more hosts in a hostfile, or say num_gpus: {ranks} to run that "
            "many processes here all the same (slowly)."
        )


def device_variables(slots: tuple[int, ...]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for a run on part of this host's accelerators; empty when it uses the first ones."""
    accelerators = visible_accelerators()
    if not accelerators or slots == tuple(range(len(slots))):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(accelerators[slot] for slot in slots)}
