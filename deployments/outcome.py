"""What `yard` says at the end of a run: the figures, the files, and where to look."""

import json
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.table import Table

from deployments.stack import running_stack
from tasks.workspace import run_dir


def print_outcome(run_id: UUID) -> None:
    """Print the figures of a finished run, where its files are, and how to see it in the browser."""
    console = Console()
    folder = run_dir(str(run_id))
    figures, splat = folder / "training" / "report" / "metrics.json", folder / "training" / "finished.json"
    if figures.is_file():
        console.print(_table("on the test part", json.loads(figures.read_text())))
        console.print(f"pictures and tables: {figures.parent}", highlight=False, soft_wrap=True)
        console.print(f"weights: {folder / 'training' / 'best.pt'}", highlight=False, soft_wrap=True)
    elif splat.is_file() and "metrics" in (found := json.loads(splat.read_text())):
        console.print(_table("the splat, on held-out views", found["metrics"]))
        console.print(f"viewer: {splat.parent / 'splat' / 'viewer.html'}", highlight=False, soft_wrap=True)
        console.print(f"all files: {splat.parent / 'splat' / 'splat.zip'}", highlight=False, soft_wrap=True)
    else:
        console.print(f"files: {folder}", highlight=False, soft_wrap=True)
    prefix = "" if running_stack() else "`yard up`, then "
    stack = running_stack() or {"prefect": "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5000"}
    console.print(f"see the run: {prefix}{stack['prefect']}/runs/flow-run/{run_id}", highlight=False, soft_wrap=True)
    card = folder / "training" / "run.json"
    if card.is_file():
        console.print(f"see curves:  {prefix}{stack['mlflow']}/{_page(card)}", highlight=False, soft_wrap=True)


def _table(title: str, figures: dict[str, float | int | None]) -> Table:
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        shown = "null" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
        table.add_row(name.replace("_", " "), shown)
    return table


def _page(card: Path) -> str:
    ids = json.loads(card.read_text())
    # Without the type MLflow opens the page of language models.
    return f"#/experiments/{ids['experiment_id']}/runs/{ids['run_id']}?workflowType=machine_learning"
