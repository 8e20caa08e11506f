"""Shows on the terminal how far a sending is, or a fetching."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.store.packing import Progress as Told


@contextmanager
def transfer_bar(text: str, *, quiet: bool = False) -> Iterator[Told]:
    """Yield what moves a bar on the terminal: bytes that are done, and all."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True, quiet=quiet)
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
