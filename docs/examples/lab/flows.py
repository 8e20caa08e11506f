"""The training of `lab.training` as a flow of the yard."""

from typing import Annotated

from prefect import flow, task
from pydantic import Field

from gpu_pools.slots.local_slot import on_device
from tasks.base.errors import StopAsked
from tasks.base.params import Device, Params, Seed
from tasks.base.workspace import replacing
from tasks.run.mlflow_run import open_mlflow_run
from tasks.run.prefect_page import Page, show_link
from tasks.run.step_context import ProgressReporter, given_name, step_dir
from tasks.run.stop_request import exit_for_resume, stop_asked


class TrainParams(Params):
    """How the network learns, and on what device."""

    n_epochs: Annotated[int, Field(ge=1, description="Passes over the images")] = 20
    batch_size: Annotated[int, Field(ge=1)] = 64
    learning_rate: Annotated[float, Field(gt=0, description="Of Adam")] = 1e-3
    seed: Seed = 0
    device: Device = "cuda"


@task(task_run_name="train")
def train_digits(params: TrainParams) -> str | None:
    """Train, every epoch going to MLflow as it happens; return the id of the MLflow run, if it has one."""
    import torch

    from lab.training import fit

    folder = step_dir(None, "training")
    checkpoint, reporter = folder / "checkpoint.pt", ProgressReporter("epoch")
    recorded = {"train": params.model_dump()}
    name = given_name() or "digits"
    try:
        with open_mlflow_run(folder, recorded, params.device, "digits", name, free={"train.device"}, last=True) as held:
            tracker, device, log = held
            show_link("mlflow-run", tracker.url, "Curves and files in MLflow")
            settings = params.model_dump(exclude={"device"})
            with Page("training", "Training") as page:
                for epoch, metrics, state in fit(**settings, device=device, checkpoint=checkpoint):
                    tracker.metrics(metrics, epoch)
                    tracker.sync()  # metrics first, then the checkpoint: a crash between them loses neither
                    with replacing(checkpoint) as file:
                        torch.save(state, file)
                    page.row({"epoch": epoch, **metrics})
                    page.progress(epoch / params.n_epochs)
                    reporter.report(epoch, params.n_epochs)
                    if stop_asked():
                        raise StopAsked(f"stopped after epoch {epoch}")
            log.info("%.1f %% of 297 unseen digits are right", 100 * (tracker.latest("accuracy/test") or 0))
            tracker.artifact(checkpoint, "weights")
    except StopAsked:
        exit_for_resume()
    return tracker.known_id


@flow(name="digits", flow_run_name="digits-{train.n_epochs}-epochs")
def digits(train: TrainParams = TrainParams()) -> str | None:
    """Train a small network on handwritten digits.

    Args:
        train: how the network learns, and on what device.

    Returns:
        The id of the MLflow run; None: MLflow was away all along.
    """
    with on_device(train.device, "training"):
        return train_digits(train)
