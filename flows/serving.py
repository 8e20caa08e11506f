"""A vision-language model that answers questions about images, for as long as it is asked."""

from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from gpu_pools.slots.local_slot import on_device
from tasks.images.params import PrepareParams
from tasks.vision_language import steps
from tasks.vision_language.params import GateParams, ServeParams


@flow(name="serve", flow_run_name=steps.name_server)
def serve(
    model: Path,
    serve: ServeParams = ServeParams(),
    gate: GateParams = GateParams(),
    prepare: PrepareParams = PrepareParams(),
) -> State[str]:
    """Serve a vision-language model on a slot of a device, in the form of OpenAI's chat API.

    Args:
        model: a folder with config.json and *.safetensors, as transformers saves it.
        serve: what answers, on what device, and for how long.
        gate: what the gate in front of it lets in.
        prepare: how large an image may be.

    Returns:
        The state, which says why it has ended.
    """
    folder = steps.check_request(model, serve)
    with on_device(serve.device, "inference"):
        why = steps.serve(folder, serve, gate, prepare)
    return Completed(message=why, data=why)
