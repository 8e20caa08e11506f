"""The parts of a pipeline in a person's own process: what is done is left out, and the slot is held to the end."""

import os
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Pending

from flows.stages import hold_device, run_stage, stage_variables
from gpu_pools.placement.queues import Queue


def note(folder: Path, what: str) -> None:
    """Write down that a part runs, and whether its process holds a slot."""
    with (folder / "notes").open("a") as file:
        file.write(f"{what} {'with' if 'TRAINYARD_LEASE' in os.environ else 'without'} a slot\n")


@flow(name="compute")
def compute(folder: Path) -> None:
    """Be the part that needs the device."""
    note(folder, "computes")


@flow(name="tell")
def tell(folder: Path) -> None:
    """Be the part that follows; it fails where nothing says that it is well."""
    note(folder, "tells")
    if not (folder / "well").exists():
        raise ValueError("found nothing, need something")


@flow(name="both")
def both(folder: Path) -> None:
    """Be a pipeline."""
    with hold_device(compute, "cpu"):
        run_stage(compute, Queue("cpu", "training"), folder=folder)
        run_stage(tell, Queue("cpu", "inference"), folder=folder)


def test_a_part_that_failed_is_done_again_alone_and_waits_for_no_device(prefect_api, yard_home, tmp_path):
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(both, parameters={"folder": tmp_path}, state=Pending())
        with pytest.raises(ValueError, match="found nothing"):
            run_flow(both, flow_run=run, parameters={"folder": tmp_path})
        (tmp_path / "well").touch()
        client.set_flow_run_state(run.id, Pending(), force=True)  # as `yard resume` does
        run_flow(both, flow_run=client.read_flow_run(run.id), parameters={"folder": tmp_path})
        assert client.read_flow_run(run.id).state.is_completed()
    lines = ["computes with a slot", "tells with a slot", "tells without a slot"]
    assert (tmp_path / "notes").read_text().splitlines() == lines


def test_a_stage_asks_its_engine_for_what_its_pipeline_was_given():
    given = {
        "owner": "anna@boxa",
        "on": "slurm",
        "cpus": 8,
        "partition": "gpu",
        "keep_files": "12h",
        "time_limit": "1h",
    }
    found = stage_variables(given, Queue("cuda", "training"), {"train": {"n_devices": 2}})
    assert found == {key: value for key, value in given.items() if key != "keep_files"}


def test_a_stage_in_a_pod_has_the_gpus_of_its_parameters():
    given = {"on": "kubernetes", "memory": "8G", "time_limit": "1h"}
    parameters = {"train": {"n_devices": 2}}
    training = stage_variables(given, Queue("cuda", "training"), parameters)
    assert training == {**given, "gpus": 2, "seconds": 3900}
    assert stage_variables(given, Queue("cpu", "preparation"), parameters)["gpus"] == 0
