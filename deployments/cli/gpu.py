"""Commands for a new machine: `yard doctor` and `yard kernels`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gpu_pools.kernels import Target

Json = Annotated[bool, typer.Option("--json", help="One JSON document, for programs")]


def register(app: typer.Typer) -> None:
    """Add the commands to `yard`."""
    app.command()(doctor)
    kernels = typer.Typer(help="gsplat's CUDA kernels, built once per kind of GPU.", no_args_is_help=True)
    kernels.command()(build)
    kernels.command()(status)
    app.add_typer(kernels, name="kernels")


def doctor(
    device: Annotated[
        str | None,
        typer.Option(
            "--try", metavar="DEVICE", help="Compute on cpu, cuda or cuda:0 for some minutes, on a slot of it"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine has and lacks; exit code 1 where the services or a training on the CPU cannot work.

    With --try: whether a device computes rightly and fast; exit code 1 where a check fails.
    """
    if device is not None:
        _try(device, as_json)
        return
    from dataclasses import asdict

    from deployments.cli.terminal.tables import print_json
    from deployments.machine.doctor import examine, lines

    checks = examine()
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for line in lines(checks):
            typer.echo(line)
    sys.exit(1 if any(check.stops for check in checks) else 0)


def _try(device: str, as_json: bool) -> None:
    from deployments.cli.terminal.tables import console, print_json
    from deployments.trial import print_report, try_here

    report = try_here(device)
    if as_json:
        print_json(report.as_json())
    else:
        print_report(report, console())
    sys.exit(1 if report.failed else 0)


def build(
    arch: Annotated[
        str | None, typer.Option(help="Compute capability, such as 9.0 or 8.6,9.0; those of this host's GPUs without")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Compilers at once; as many as fit without")] = None,
) -> None:
    """Build the kernels that splatting on a GPU needs: many minutes, once, and no GPU is taken for it."""
    from deployments.machine.kernels import default_jobs, needed_target, wanted_archs
    from gpu_pools.placement.probe import get_probe

    targets = [needed_target(name) for name in wanted_archs(arch, [] if arch else get_probe().devices())]
    for target in targets:
        _build(target, jobs or default_jobs())


def _build(target: "Target", n_jobs: int) -> None:
    from deployments.cli.terminal.tables import duration
    from deployments.machine.kernels import build, build_log
    from tasks.run.display import bars

    what = f"kernels of gsplat {target.gsplat} for torch {target.torch}, compute capability {target.arch}"
    typer.echo(f"{what}: {n_jobs} compilers at once; log: {build_log(target)}")
    with bars() as shown:
        made = shown.watch(f"sm {target.arch}", build(target, n_jobs))
    took = f"built in {duration(made.seconds)}" if made.fresh else "there already"
    typer.echo(f"{took}: {made.folder}")


def status(as_json: Json = False) -> None:
    """Show which kernels are built, and whether each GPU of this host has its own."""
    from deployments.cli.terminal.tables import duration, print_json
    from deployments.machine.kernels import all_built
    from gpu_pools.kernels import built, target_for
    from gpu_pools.placement.probe import get_probe

    whole, gpus = all_built(), [gpu for gpu in get_probe().devices() if not gpu.simulated]
    targets = {gpu.tag: target_for(gpu.compute_capability) for gpu in gpus}
    ready = {tag: bool(target and built(target)) for tag, target in targets.items()}
    if as_json:
        print_json({"built": [made.as_json() for made in whole], "devices": ready})
        return
    for made in whole:
        what = f"torch {made.target.torch}, gsplat {made.target.gsplat}, compute capability {made.target.arch}"
        typer.echo(f"built   {what}: {made.folder}, in {duration(made.seconds)}")
    for gpu in gpus:
        have = "has its kernels" if ready[gpu.tag] else "has none: `yard kernels build`"
        typer.echo(f"{gpu.tag:<8}{gpu.name}, compute capability {gpu.compute_capability}: {have}")
    if not whole and not gpus:
        typer.echo("nothing is built, and this host has no GPU: `yard kernels build --arch 9.0` builds for another one")
