"""A person's own command, as a run on a slot; no deployment, so nobody else runs it."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from gpu_pools.slots.local_slot import on_device
from tasks.programs import steps
from tasks.programs.params import ProgramParams, SessionParams


@flow(name="own_program")
def own_program(program: ProgramParams) -> State[Any]:
    """Run a command on a slot of a device, in the folder and with the environment of who calls.

    Args:
        program: what, and on which device.

    Returns:
        The state, which says the exit code.
    """
    with on_device(program.device, "training", program.n_devices) as slot:
        code = steps.run_program(program, slot)
    return Failed(message=f"exit code {code}", data=code) if code else Completed(message="exit code 0", data=code)


@flow(name="own_session")
def own_session(program: SessionParams) -> State[Any]:
    """Hold a slot of a device for an interactive program, such as a shell or Jupyter.

    Args:
        program: what, on which device, and until when.

    Returns:
        The state, which says how the session ended.
    """
    with on_device(program.device, "training", lasts_s=program.lasts) as slot:
        code, reason = steps.hold_session(program, slot)
    return Completed(message=reason or f"exit code {code}", data=0 if reason else code)
