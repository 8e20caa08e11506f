"""What each host offers to a run that needs several, and what follows from all offers."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

LABEL = "trainyard.offer."
"""Labels of a flow run that needs several hosts, followed by a host's name: what that host offers, as JSON."""

SHARE_LABEL = "trainyard.share."
"""Labels of a flow run on several hosts, followed by a host's name: its devices there, cuda:0 or cuda:0,cuda:2."""

_MOST_TEXT = 300
_STEP_S = 60.0


@dataclass(frozen=True, slots=True)
class Offer:
    """When a host has the devices that a run needs of it.

    Args:
        ready_in_s: seconds until they are free; 0: they are; infinite: nobody knows.
        kept: they are kept for the run, so that nobody else gets them.
        text: which are free, and for whom the others are waited for.
    """

    ready_in_s: float = math.inf
    kept: bool = False
    text: str = ""

    @property
    def stands(self) -> bool:
        """Return whether the run may start on the host now."""
        return self.kept and self.ready_in_s <= 0

    def as_label(self) -> str:
        """Return the offer as a label."""
        seconds = None if math.isinf(self.ready_in_s) else _step(self.ready_in_s)
        return json.dumps({"ready_in_s": seconds, "kept": self.kept, "text": self.text[:_MOST_TEXT]})

    @classmethod
    def of_label(cls, label: Any) -> Self | None:
        """Return what a label says; None for one that was taken back, or that makes no sense."""
        try:
            found = json.loads(label)
            seconds = math.inf if found["ready_in_s"] is None else max(0.0, float(found["ready_in_s"]))
            return cls(seconds, bool(found["kept"]), str(found["text"])[:_MOST_TEXT])
        except (ValueError, KeyError, TypeError):
            return None


def offers_of(labels: Mapping[str, Any]) -> dict[str, Offer]:
    """Return the offers that stand on a flow run, by host."""
    read = {name.removeprefix(LABEL): Offer.of_label(label) for name, label in labels.items() if name.startswith(LABEL)}
    return {host: offer for host, offer in read.items() if offer is not None}


def team_of(host: str, offers: Mapping[str, Offer], n_hosts: int) -> tuple[str, ...]:
    """Return the other hosts with which this one starts a run, whose devices it has; none: it is not to start it.

    Of the hosts that have their devices the first by name start it, and the very first of them leads.

    Args:
        host: this one.
        offers: of the others that are online.
        n_hosts: that the run needs.
    """
    ready = sorted({host, *(name for name, offer in offers.items() if offer.stands)})
    return tuple(ready[1:n_hosts]) if ready[0] == host and len(ready) >= n_hosts else ()


def others_in_s(host: str, offers: Mapping[str, Offer], n_hosts: int) -> float:
    """Return in how many seconds as many others have their devices as a run needs; infinite: nobody knows."""
    soon = sorted(offer.ready_in_s for name, offer in offers.items() if name != host)
    return soon[n_hosts - 2] if len(soon) >= n_hosts - 1 else math.inf


def is_among_first(host: str, ready_in_s: float, offers: Mapping[str, Offer], n_hosts: int) -> bool:
    """Return whether this host is one of those that have their devices soonest: the others keep nothing.

    Args:
        host: this one.
        ready_in_s: seconds until it has its devices.
        offers: of the others that are online.
        n_hosts: that the run needs.
    """
    own = (_step(ready_in_s), host)
    return sum((_step(offer.ready_in_s), name) < own for name, offer in offers.items() if name != host) < n_hosts


def _step(seconds: float) -> float:
    """Return seconds as labels have them."""
    return seconds if math.isinf(seconds) else math.ceil(seconds / _STEP_S) * _STEP_S


def gathering_text(host: str, own: Offer, offers: Mapping[str, Offer], n_hosts: int, n_devices: int) -> str:
    """Return why a run waits that needs several hosts: "gathers 2 hosts with 1 GPU each: boxa: ...; boxb: ..."."""
    every = {**offers, host: own}
    said = "; ".join(f"{name}: {every[name].text}" for name in sorted(every))
    return f"gathers {hosts_text(n_hosts, n_devices)}: {said}"


def hosts_text(n_hosts: int, n_devices: int) -> str:
    """Return "2 hosts with 1 GPU each"."""
    return f"{n_hosts} hosts with {n_devices} GPU{'s' * (n_devices > 1)} each"


def speaks(host: str, offers: Mapping[str, Offer]) -> bool:
    """Return whether this host is the one that says why a run waits: the first by name of those that offer."""
    return host == min({host, *offers})
