"""Begins, goes on with and cancels a sweep; one process at a time conducts it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from deployments.api import Api, connect
from deployments.runs import run_actions
from deployments.runs.find import ENDED
from deployments.runs.flow_list import load_flow
from deployments.runs.flow_parameters import flow_parameters
from deployments.runs.submit import Wishes, prepare
from deployments.sharing.acts import Acts
from deployments.sharing.permissions import Target, run_target
from deployments.sweeps.objective import check_moves, objective_of
from deployments.sweeps.record import (
    Sweep,
    Terms,
    call_cancelled,
    call_ended,
    is_cancelled,
    is_new,
    lock_of,
    read_sweep,
    write_sweep,
)
from deployments.sweeps.results import BEST, write_results
from deployments.sweeps.space import check_space, parse_space, read_space_file
from deployments.sweeps.study import Study
from deployments.sweeps.sweeping import Sweeper
from deployments.sweeps.trial_runs import YardRuns
from gpu_pools.names import asker
from tasks.base.errors import ConfigError, TrainyardError
from tasks.base.file_locks import file_lock
from tasks.tracking.tracker import Tracker

Say = Callable[[str], None]

_POLL_S = 2.0
_STOPPED = 130  # as of a program that Ctrl-C has ended


@dataclass(frozen=True, slots=True)
class Asked:
    """What `yard sweep FLOW` was given; the fields are those of `Sweep` and `objective_of`, not yet checked."""

    flow: str
    parameters: dict[str, Any]
    space: Path
    name: str | None
    metric: str | None
    direction: str | None
    terms: Terms
    owner: str | None


def begin(asked: Asked, say: Say) -> int:
    """Begin a sweep and conduct it to its end; return the exit code.

    Raises:
        ConfigError: the space, the parameters or the name are wrong; nothing was started then.
    """
    with connect() as api:
        sweep = _checked(api, asked)
        n, at_once = sweep.terms.n_trials, sweep.terms.n_parallel
        say(f"sweep {sweep.name}: {n} trial{'s' * (n > 1)}, {at_once} at once, in {sweep.folder}")
        return _conduct(api, sweep, say)


def go_on(name: str, n_trials: int | None, say: Say) -> int:
    """Go on with a sweep whose process has ended; return the exit code.

    Args:
        name: of the sweep.
        n_trials: in all, from now on; None: as before.
        say: is given each line.

    Raises:
        ConfigError: there is none of that name, it was cancelled, or a process conducts it.
    """
    sweep = read_sweep(name)
    if is_cancelled(sweep):
        raise ConfigError(f"sweep {name} was cancelled, need a new one")
    with connect() as api:
        terms = replace(sweep.terms, n_trials=n_trials or sweep.terms.n_trials)
        return _conduct(api, replace(sweep, terms=terms), say)


def cancel(name: str, *, force: bool, say: Say) -> None:
    """End a sweep: its process stops, then its waiting and running trials are cancelled.

    Raises:
        ConfigError: there is none of that name.
        NotAllowedError: it is somebody else's.
    """
    sweep = read_sweep(name)
    with connect() as api:
        acts = Acts.of(api, force=force)
        with acts.act("cancel", Target("sweep", "", name, sweep.owner)):
            call_cancelled(sweep)  # seen by the process that conducts it, which ends then
            with file_lock(lock_of(sweep), f"sweep {name}", wait=True):
                _cancel_trials(api, acts, sweep, say)
    say(f"sweep {name} is cancelled; what its trials have saved stays")


def _checked(api: Api, asked: Asked) -> Sweep:
    """Return the sweep that was asked for, everything checked that can be checked now."""
    name = asked.name or f"{asked.flow}-{datetime.now():%Y-%m-%d-%H%M%S}"
    is_new(name)
    objective = objective_of(asked.flow, asked.metric, asked.direction)
    known = flow_parameters(asked.flow)
    content = read_space_file(asked.space)
    space = parse_space(content, known)
    check_moves(asked.flow, objective, space)
    flow = load_flow(asked.flow)
    check_space(space, flow, asked.parameters)
    owner = asked.owner or asker()
    terms = asked.terms
    wishes = Wishes(terms.device, terms.priority, None, terms.time_limit, None, owner)
    parameters = prepare(api, asked.flow, asked.parameters, wishes).body["parameters"]
    shipped = next((each.default for each in known if each.name == "track.experiment"), None)
    return Sweep(
        name=name,
        uid=uuid4().hex,
        flow=asked.flow,
        parameters=parameters,
        space=content,
        objective=objective,
        experiment=(parameters.get("track") or {}).get("experiment") or shipped or "sweeps",
        terms=terms,
        owner=owner,
    )


def _study_of(sweep: Sweep) -> Study:
    space = parse_space(sweep.space, flow_parameters(sweep.flow))
    terms = sweep.terms
    return Study(sweep.folder, space, sweep.objective, seed=terms.seed, prune_after=terms.prune_after)


def _parent_of(sweep: Sweep) -> Tracker:
    """Return the sweep's run in MLflow, under which those of the trials are shown; it goes on where it is there."""
    said = {
        "flow": sweep.flow,
        "metric": sweep.objective.metric,
        "direction": sweep.objective.direction,
        "n_parallel": sweep.terms.n_parallel,
        "seed": sweep.terms.seed,
        "prune_after": sweep.terms.prune_after,
        "space": {name.replace(".", "/"): str(entry) for name, entry in sweep.space.items()},
    }
    return Tracker.open(sweep.folder / "mlflow", sweep.experiment, sweep.name, said, {"sweep": sweep.name})


def _conduct(api: Api, sweep: Sweep, say: Say) -> int:
    with file_lock(lock_of(sweep), f"sweep {sweep.name}"):
        write_sweep(sweep)
        with _parent_of(sweep) as parent:
            state = _conduct_below(api, sweep, parent, say)
        if state.done:
            call_ended(sweep)
        if parent.unsent:
            say(parent.unsent)
        return state.code


def _conduct_below(api: Api, sweep: Sweep, parent: Tracker, say: Say) -> "_Conducting":
    """Conduct a sweep that this process holds; its run in MLflow stays open unless the sweep comes to its end."""
    study = _study_of(sweep)
    with _interruptible(sweep, study, say) as state:
        sweeper = Sweeper(sweep, study, YardRuns(api, sweep, lambda: parent.known_id), say)
        state.done = _turns(sweeper, sweep, study, parent)
    if state.done:
        _finish(sweep, study, parent, say)
        state.code = 0 if study.best() is not None else 1
    else:
        parent.leave_open()
    return state


class _Conducting:
    """How it ended: all trials done, or cut off; and the exit code."""

    done = False
    code = 1


@contextmanager
def _interruptible(sweep: Sweep, study: Study, say: Say) -> Iterator[_Conducting]:
    """Say after Ctrl-C, or where somebody has cancelled the sweep, what becomes of it."""
    state = _Conducting()
    try:
        yield state
    except KeyboardInterrupt:
        state.code = _STOPPED
        n = len(study.living())
        say(f"stopped; {n} of its trials go on in their queues, no others are started")
        say(f"`yard sweep --resume {sweep.name}` goes on, `yard sweep --cancel {sweep.name}` cancels them")
        return
    except TrainyardError:
        say(f"the sweep stops here, its trials go on; `yard sweep --resume {sweep.name}` goes on with it")
        raise
    if not state.done:
        say(f"stopped: somebody has called `yard sweep --cancel {sweep.name}`")


def _turns(sweeper: Sweeper, sweep: Sweep, study: Study, parent: Tracker) -> bool:
    """Take turns until the last trial has ended; return false where the sweep was cancelled meanwhile."""
    n_ended = -1
    while not is_cancelled(sweep):
        going = sweeper.turn()
        trials, best = study.trials(), study.best()
        if (now := sum(trial.state != "running" for trial in trials)) != n_ended:
            n_ended = now
            write_results(sweep, trials, best)
            parent.metrics({"sweep/ended": n_ended, "sweep/best": best.value if best else None}, n_ended)
        if not going:
            return True
        time.sleep(_POLL_S)
    return False


def _finish(sweep: Sweep, study: Study, parent: Tracker, say: Say) -> None:
    """Draw the pictures and give all files to MLflow."""
    from deployments.sweeps.pictures import draw_all

    best = study.best()
    files = write_results(sweep, study.trials(), best)
    files += draw_all(sweep.folder, study, parse_space(sweep.space, flow_parameters(sweep.flow)), sweep.objective)
    for path in files:
        parent.artifact(path)
    states = [trial.state for trial in study.trials()]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    say(f"sweep {sweep.name} has ended: {counted}; {parent.url}")
    if best is not None:
        parent.tag("best_trial", str(best.number))
        say(f"the best is trial {best.number}, {sweep.objective.metric} {best.value:.4g}:")
        say(f"  yard submit {sweep.flow} --file {sweep.folder / BEST}")


def _cancel_trials(api: Api, acts: Acts, sweep: Sweep, say: Say) -> None:
    """Cancel the runs of the living trials and end the sweep's run in MLflow; the caller holds the sweep."""
    study, parent = _study_of(sweep), _parent_of(sweep)
    runs = YardRuns(api, sweep, lambda: parent.known_id)
    for trial in study.living():
        run_id = trial.run or runs.found(trial.number)
        found = list(api.pages("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})) if run_id else []
        for run in found:
            if run["state_type"] not in ENDED:
                with acts.act("cancel", run_target(run)):
                    say(run_actions.cancel(api, run))
        study.fail(trial.number, "the sweep was cancelled")
    for path in write_results(sweep, study.trials(), study.best()):
        parent.artifact(path)
    parent.end("KILLED")
