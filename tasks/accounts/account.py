"""The account of each run: who ran what where, how long, at what price, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, Literal, get_args

from gpu_pools.names import is_called
from gpu_pools.placement.queues import device_tags
from gpu_pools.sharing.usage import Use

By = Literal["owner", "flow", "device"]
BYS: Final[tuple[By, ...]] = get_args(By)

_S_PER_H = 3600.0
_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True, slots=True)
class Result:
    """What MLflow has of a run.

    Args:
        metric: the one by which people compare such runs; "" where it logged none of that sort.
        value: the last one logged.
        mlflow_run: its id.
    """

    metric: str
    value: float | None
    mlflow_run: str


@dataclass(frozen=True, slots=True)
class Account:
    """One run; the fields are the columns of a sheet. Times in Unix seconds, None where it is not known.

    Args:
        run, name, flow, owner: of the run.
        device: cuda:0, cpu; that of another host as boxb/cuda:0; cuda:0,cuda:2 of a run on several.
        kind: training, inference or preparation.
        asked: it was due.
        began, ended: with its device; ended is None while it runs, or waits to go on.
        waited_s: from asked to began.
        ran_s: all attempts together.
        gpu_hours: the same in hours, of each of its GPUs; 0 on the CPU.
        energy_wh: its share of what the GPU drew; None also on the CPU, as the next two.
        gpu_busy_share: mean of the GPU's utilisation, 0 to 1.
        peak_memory_mib: the most device memory that its processes had.
        state: the name of its state.
        failed: it Failed, Crashed or was TimedOut.
        metric, value, mlflow_run: as in `Result`.
    """

    run: str
    name: str
    flow: str
    owner: str
    device: str
    kind: str
    asked: float
    began: float
    ended: float | None
    waited_s: float
    ran_s: float
    gpu_hours: float
    energy_wh: float | None
    gpu_busy_share: float | None
    peak_memory_mib: float | None
    state: str
    failed: bool
    metric: str = ""
    value: float | None = None
    mlflow_run: str = ""


@dataclass(frozen=True, slots=True)
class Sum:
    """The accounts of an owner, a flow or a device together.

    Args:
        name: of the owner, the flow or the device.
        runs: how many.
        hours: of running, on GPUs and the CPU.
        gpu_hours: of them on GPUs.
        energy_wh: of the GPUs; of the runs that told it.
        energy_unknown: runs on a GPU that have ended and did not tell it.
        waited_median_s, waited_longest_s: of the runs, seconds.
        failed: how many Failed, Crashed or were TimedOut.
    """

    name: str
    runs: int
    hours: float
    gpu_hours: float
    energy_wh: float
    energy_unknown: int
    waited_median_s: float
    waited_longest_s: float
    failed: int


def accounts_of(uses: Sequence[Use], results: Mapping[str, Result], here: str) -> list[Account]:
    """Return the accounts of runs, without those of housekeeping, which are nobody's; in the order of `uses`.

    Args:
        uses: of devices.
        results: run id -> what MLflow has of it.
        here: the host whose devices go without its name; "" where all have it.
    """
    nothing = Result("", None, "")
    return [_account(use, results.get(use.run_id, nothing), here) for use in uses if use.kind != "housekeeping"]


def _account(use: Use, result: Result, here: str) -> Account:
    return Account(
        run=use.run_id,
        name=use.run_name,
        flow=use.flow,
        owner=use.owner,
        device=f"{use.host}/{use.device}" if use.host not in {"", here} else use.device,
        kind=use.kind,
        asked=use.asked,
        began=use.began,
        ended=use.until if use.ended is None and use.state in _ENDED else use.ended,  # nobody told of a killed one
        waited_s=max(0.0, use.began - use.asked),
        ran_s=use.ran_s,
        gpu_hours=use.device_s / _S_PER_H if use.on_gpu else 0.0,
        energy_wh=use.slot.energy_wh,
        gpu_busy_share=use.slot.gpu_busy_share,
        peak_memory_mib=use.slot.peak_memory_mib,
        state=use.state_name,
        failed=use.state in {"FAILED", "CRASHED"},
        metric=result.metric,
        value=result.value,
        mlflow_run=result.mlflow_run,
    )


def chosen(
    accounts: Sequence[Account], *, owner: str | None = None, flow: str | None = None, device: str | None = None
) -> list[Account]:
    """Return the accounts of an owner (`anna`, of whatever host, or `anna@boxa`), a flow, a device.

    Args:
        accounts: of runs.
        owner, flow: None: of any.
        device: `cuda`: of all GPUs; None: of all.
    """

    def is_wanted(account: Account) -> bool:
        named = {account.device, *_devices(account), *device_tags(account.device.rpartition("/")[2])}
        return (
            (owner is None or is_called(account.owner, owner))
            and (flow is None or account.flow == flow)
            and (
                device is None
                or device in named
                or (device == "cuda" and account.device.rpartition("/")[2].startswith("cuda"))
            )
        )

    return [account for account in accounts if is_wanted(account)]


def by_device(accounts: Sequence[Account]) -> list[Account]:
    """Return the accounts, that of a run on several devices once for each, with its part of hours and energy."""
    found = []
    for account in accounts:
        devices = _devices(account)
        energy_wh = None if account.energy_wh is None else account.energy_wh / len(devices)
        part = replace(account, gpu_hours=account.gpu_hours / len(devices), energy_wh=energy_wh)
        found += [replace(part, device=device) for device in devices]
    return found


def _devices(account: Account) -> list[str]:
    """Return the devices of a run, each with its host where that is named."""
    host, slash, tags = account.device.rpartition("/")
    return [f"{host}{slash}{tag}" for tag in device_tags(tags)] or [account.device]


def within(accounts: Sequence[Account], since: float, until: float) -> list[Account]:
    """Return the accounts of runs that had a device between two times, with what falls between them.

    Time and energy of a run that reaches beyond are divided in proportion. A run that began before has not waited here.
    """
    found = []
    for account in accounts:
        end = until if account.ended is None else account.ended
        begin, last = max(account.began, since), min(end, until)
        if last < begin or account.began >= until:
            continue
        share = (last - begin) / (end - account.began) if end > account.began else 1.0
        found.append(
            replace(
                account,
                ran_s=share * account.ran_s,
                gpu_hours=share * account.gpu_hours,
                energy_wh=None if account.energy_wh is None else share * account.energy_wh,
                waited_s=account.waited_s if account.began >= since else 0.0,
            )
        )
    return found


def sums(accounts: Sequence[Account], by: By) -> list[Sum]:
    """Return the sums by owner, flow or device; who had most of the GPUs comes first."""
    groups: dict[str, list[Account]] = {}
    for account in by_device(accounts) if by == "device" else accounts:
        groups.setdefault(getattr(account, by), []).append(account)
    return sorted((_sum(name, group) for name, group in groups.items()), key=lambda sum_: (-sum_.gpu_hours, sum_.name))


def total(accounts: Sequence[Account]) -> Sum:
    """Return the sum of all; waiting times are 0 where there are none."""
    return _sum("all", accounts)


def _sum(name: str, accounts: Sequence[Account]) -> Sum:
    waits = [account.waited_s for account in accounts]
    return Sum(
        name=name,
        runs=len(accounts),
        hours=sum(account.ran_s for account in accounts) / _S_PER_H,
        gpu_hours=sum(account.gpu_hours for account in accounts),
        energy_wh=sum(account.energy_wh or 0.0 for account in accounts),
        energy_unknown=sum(_untold(account) for account in accounts),
        waited_median_s=median(waits) if waits else 0.0,
        waited_longest_s=max(waits, default=0.0),
        failed=sum(account.failed for account in accounts),
    )


def _untold(account: Account) -> bool:
    return account.gpu_hours > 0 and account.ended is not None and account.energy_wh is None
