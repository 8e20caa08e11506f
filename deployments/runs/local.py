"""Runs a flow in this process, without a server of one's own."""

import glob
import inspect
import json
import os
import typing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError

from deployments.machine.environment import make_prefect_home, version
from deployments.runs.flow_list import entrypoint_of, load_flow
from deployments.runs.flow_parameters import parallel_sections
from deployments.services.shared_api import SharedApi
from deployments.stack.stack import choose_api, serving
from gpu_pools.device_count import check_device_count, check_one_host, with_device_count
from gpu_pools.names import OWNER, OWNER_LABEL, asker, named_owner
from gpu_pools.placement.probe import get_probe, resolve_device
from gpu_pools.process.process_label import process_label
from gpu_pools.process.run_setup import PRIORITY
from gpu_pools.process.time_limit import TimeLimit
from gpu_pools.stopping import obey
from tasks.base.config import override
from tasks.base.errors import ConfigError, Interrupted, TrainyardError
from tasks.base.file_locks import file_lock
from tasks.base.startup import uncollected
from tasks.base.workspace import run_dir
from tasks.programs.params import ProgramParams, SessionParams
from tasks.run.display import console, log_through_console
from tasks.store.places import is_data_set

_RESUME = "; `yard resume` goes on from the last checkpoint"


def _sections(checked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameter models of a flow as maps of their fields."""
    return {name: vars(value) for name, value in checked.items() if isinstance(value, BaseModel)}


def check_parameters(flow: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters as the flow's types.

    Raises:
        ConfigError: names every wrong field, what was found and what is needed; or several devices are asked for, and
            one is named.
    """
    signature = inspect.signature(flow.fn).parameters
    hints = typing.get_type_hints(flow.fn, include_extras=True)
    checked: dict[str, Any] = {}
    faults = [
        f"{name}: found a parameter that {flow.name} does not have; have: {', '.join(signature)}"
        for name in parameters
        if name not in signature
    ]
    for name, parameter in signature.items():
        if name in parameters:
            try:
                checked[name] = TypeAdapter(hints[name]).validate_python(parameters[name])
            except ValidationError as exc:
                faults += [_fault(name, error) for error in exc.errors()]
        elif parameter.default is inspect.Parameter.empty:
            faults.append(f"{name}: found nothing, need a value")
    if faults:
        raise ConfigError("\n".join(faults))
    check_device_count(_sections(checked))
    return checked


def check_data(data: Any) -> None:
    """Say now, not in the run, that there is nothing where the data should be.

    Raises:
        ConfigError: names the path.
    """
    paths = data.values() if isinstance(data, dict) else data if isinstance(data, list) else [data]
    for path in paths:
        if isinstance(path, Path) and not is_data_set(path) and not path.expanduser().exists() and not _matches(path):
            raise ConfigError(f"found nothing at {path}, need the data there")


def _matches(path: Path) -> bool:
    return any(True for _ in glob.iglob(str(path.expanduser()), recursive=True))


def device_sections(flow: Any) -> list[str]:
    """Return the names of the parameters that say on what device a flow computes; empty: it uses none."""
    hints = typing.get_type_hints(flow.fn)
    models = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, BaseModel)}
    return [name for name, model in models.items() if "device" in model.model_fields]


def data_parameter(flow: Any) -> str | None:
    """Return the name of the parameter that says where a flow's data lie, None for one that takes none."""
    names = inspect.signature(flow.fn).parameters
    return next((name for name in ("data", "dataset") if name in names), None)


def for_flow(flow: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return parameters with what RFUAV's keys say of a model where the flow takes it: its files serve both."""
    names = inspect.signature(flow.fn).parameters
    if "predict" not in names or "train" in names:
        return parameters
    from tasks.inference.params import from_training

    return from_training(parameters)


def _fault(name: str, error: Any) -> str:
    # For a union, pydantic adds the schema of each side to the location, which means nothing to users.
    parts = [str(part) for part in error["loc"] if "[" not in str(part)]
    place = ".".join([name, *parts])
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if error["type"] == "value_error" else f"{place}: found {error['input']!r}: {message}"


def run_here(
    name: str,
    parameters: dict[str, Any],
    *,
    device: str | None = None,
    run_name: str | None = None,
    limit_s: float | None = None,
) -> UUID:
    """Run a flow in this process to its end and return the run's id; Prefect and MLflow hold it as any other.

    Args:
        name: of the flow.
        parameters: nested, as a file of parameters has them.
        device: replaces the one in the parameters.
        run_name: in Prefect and MLflow.
        limit_s: seconds after which it ends, at a checkpoint if it makes any; None: never.

    Raises:
        TrainyardError: its time is over.
        ConfigError: no such flow, it does not take these parameters, or there is no such folder; nothing was
            started then.
        GpuError: this machine does not have the device.
    """
    entrypoint_of(name)  # refuses it, before anything is started
    with _beginning(f"flow {name}") as api, uncollected():
        flow = load_flow(name)
        checked = _checked(flow, parameters, device, run_name)
        if api is not None:
            _use_the_time(flow, api.service.answers)
    with serving(api):
        flow_run = _made(flow, checked, run_name, named_owner({}, parameters))
        with _sole(flow_run):
            _run(flow, flow_run, checked, limit_s)
        return UUID(str(flow_run.id))


def exec_here(program: ProgramParams, run_name: str) -> int:
    """Run a person's command on a slot, in this process's folder, to its end, and return its exit code.

    Args:
        program: what, and on which device; `SessionParams` of one that somebody sits at.
        run_name: in Prefect and MLflow.

    Raises:
        ConfigError: it needs several devices, and names one.
        GpuError: this machine does not have the device, or it is taken and TRAINYARD_WHEN_BUSY is `refuse`.
        KeyboardInterrupt: it was stopped; `gpu_pools.stopping.asked` says by what.
    """
    resolve_device(program.device, get_probe())
    check_device_count({"program": vars(program)})
    with _beginning("your command") as api, uncollected():
        make_prefect_home()
        from flows.program import own_program, own_session

        flow = own_session if isinstance(program, SessionParams) else own_program
        if api is not None and flow is own_program:
            _use_the_time(flow, api.service.answers)
    with serving(api):
        flow_run = _made(flow, {"program": program}, run_name, "")
        with _sole(flow_run):
            advice = ""  # nothing to resume: what it has saved is the command's own
            state = _run(flow, flow_run, {"program": program}, advice=advice, return_type="state")
    result = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return int(result)


def _made(flow: Any, parameters: dict[str, Any], name: str | None, owner: str) -> Any:
    """Return a new flow run, of `owner` or, where that is "", of who asks."""
    from prefect.client.orchestration import get_client
    from prefect.states import Pending

    from gpu_pools.prefect_client import PoolClient

    asked = os.environ.get(PRIORITY)
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(
            flow,
            name=name,
            parameters=flow.serialize_parameters(parameters),
            state=Pending(),
            job_variables={"priority": int(asked)} if asked else None,
        )
        if owner:
            os.environ[OWNER] = owner  # code in this process reads the owner from there
        PoolClient().set_labels(str(flow_run.id), {OWNER_LABEL: asker(), **process_label()})
    return flow_run


def _checked(flow: Any, parameters: dict[str, Any], device: str | None, run_name: str | None) -> dict[str, Any]:
    """Return the parameters as the flow takes them, held against what is on this machine."""
    parameters, sections = for_flow(flow, parameters), device_sections(flow)
    if device is not None:
        if not sections:
            raise ConfigError(f"found --device for {flow.name}, which uses none")
        override(parameters, [f"{section}.device={json.dumps(device)}" for section in sections])
    if run_name is not None and "track" in inspect.signature(flow.fn).parameters:
        override(parameters, [f"track.run_name={json.dumps(run_name)}"])
    checked = check_parameters(flow, parameters)
    check_one_host(_sections(checked))
    check_data(checked.get("data", checked.get("dataset")))
    for section in checked.keys() & set(sections):
        resolve_device(checked[section].device, get_probe())  # here and now, not after hours of preparation
    return checked


def _use_the_time(flow: Any, is_over: Callable[[], bool]) -> None:
    """Import what the first step of a flow needs, piece by piece, until the server that is waited for answers."""
    for module in getattr(getattr(import_module(flow.fn.__module__), "steps", None), "NEEDED_FIRST", ()):
        if is_over():
            return
        import_module(module)


@contextmanager
def _beginning(what: str) -> Iterator[SharedApi | None]:
    """Yield the API as `choose_api` does; where it is this home's own, it starts while the block reads flows.

    Says so before anything else: on a busy machine it takes a while.
    """
    api = choose_api()
    started = "and starts Prefect's server, as none is up" if api else f"for Prefect at {os.environ['PREFECT_API_URL']}"
    console.print(f"yard {version()} reads {what} {started}", highlight=False, soft_wrap=True)
    with ExitStack() as stack:
        if api is not None:
            stack.callback(api.give_up)
            api = api.begin()
        yield api
        stack.pop_all()


def resume_here(run_id: UUID | None, limit_s: float | None = None, n_devices: int | None = None) -> UUID:
    """Run a flow run that was cut off again, under its own id, in its own folder; without an id the newest run.

    Args:
        run_id: of the run.
        limit_s: seconds after which it ends, from now on; None: never.
        n_devices: GPUs that it computes on from now on; None: as many as before.

    Raises:
        TrainyardError: its time is over.
        ConfigError: there is no such run, it is finished, its process lives, it cannot have so many GPUs, or it was on
            several hosts, and n_devices says nothing else.
    """
    with _beginning(f"run {run_id}" if run_id else "the newest run") as api, uncollected():
        from prefect.client.orchestration import get_client
        from prefect.states import Pending

        from gpu_pools.prefect_client import PoolClient
    with serving(api):
        with get_client(sync_client=True) as client:
            flow_run = _unfinished(client, run_id)
            with _sole(flow_run):
                flow = load_flow(client.read_flow(flow_run.flow_id).name)
                parameters = _on_devices(flow, flow_run.parameters, n_devices)
                check_one_host(parameters)
                PoolClient().set_labels(str(flow_run.id), process_label())
                client.set_flow_run_state(flow_run.id, Pending(message="resumed by hand"), force=True)
                flow_run = client.read_flow_run(flow_run.id)
                _run(flow, flow_run, check_parameters(flow, parameters), limit_s)
        return flow_run.id


def _on_devices(flow: Any, parameters: dict[str, Any], n_devices: int | None) -> dict[str, Any]:
    if n_devices is None:
        return parameters
    sections = parallel_sections(flow.name)
    if not sections:
        raise ConfigError(f"flow {flow.name} computes on one device, found --devices {n_devices}")
    return with_device_count(parameters, sections, n_devices)


def _sole(flow_run: Any) -> AbstractContextManager[None]:
    """Hold a run, so that nobody resumes it while it lives."""
    return file_lock(run_dir(str(flow_run.id)) / "lock", f"run {flow_run.id} ({flow_run.name})")


def _unfinished(client: Any, run_id: UUID | None) -> Any:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentTaskRunId
    from prefect.client.schemas.sorting import FlowRunSort

    if run_id is None:
        wanted = FlowRunFilter(parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True))
    else:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    runs = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_DESC, limit=1)
    if not runs:
        raise ConfigError(f"found no run {run_id or ''} in {os.environ['PREFECT_HOME']}")
    if runs[0].state is not None and runs[0].state.is_completed():
        raise ConfigError(f"run {runs[0].id} ({runs[0].name}) is completed: nothing is left to do")
    return runs[0]


def _run(
    flow: Any,
    flow_run: Any,
    parameters: dict[str, Any],
    limit_s: float | None = None,
    advice: str = _RESUME,
    **options: Any,
) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Cancelled

    from gpu_pools.prefect_states import call_cancelled

    limit = TimeLimit(limit_s)
    call_cancelled(limit.said, advice)
    log_through_console()
    console.print(f"run {flow_run.id}, files in {run_dir(str(flow_run.id))}", highlight=False, soft_wrap=True)
    try:
        with limit:
            return obey(
                lambda: run_flow(flow, flow_run=flow_run, parameters=parameters, **options),
                on_signal=_say_so if advice else _say_whom,
            )
    except Interrupted as exc:
        if text := limit.said():
            raise TrainyardError(f"{text}: `yard resume {flow_run.id} --time-limit 2h` goes on") from exc
        raise KeyboardInterrupt from exc
    except KeyboardInterrupt:  # the second Ctrl-C: the run could not say it itself
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(message="stopped by Ctrl-C, at once"), force=True)
        raise
    finally:
        _send_the_rest()


def _say_so() -> None:
    with suppress(OSError):  # the terminal is gone
        console.print("stops as soon as its state is saved; Ctrl-C again ends it at once", highlight=False)


def _say_whom() -> None:
    with suppress(OSError):
        console.print("waits for the command, which was told to stop; Ctrl-C again ends it at once", highlight=False)


def _send_the_rest() -> None:
    """Hand Prefect the log lines and events still under way; its service ends next, and they would wait for it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)
