"""The Prefect task of housekeeping."""

import time
from pathlib import Path

from prefect import task

from tasks.base.workspace import write_json
from tasks.housekeeping.params import KeepParams
from tasks.run.prefect_page import show_table
from tasks.run.run_log import logger
from tasks.run.step_context import step_dir

RECEIPT = "receipt.json"


@task(task_run_name="housekeeping")
def keep_house(dry_run: bool, keep: KeepParams) -> Path:
    """Apply all rules; return the file of the receipt.

    Raises:
        StorageError: the receipt cannot be written.
    """
    from tasks.housekeeping.rounds import go_round

    receipt = go_round(keep, time.time(), dry_run=dry_run)
    for row in receipt.largest():
        logger().info("%(rule)s: %(what)s: %(why)s, %(bytes)d bytes", row)
    for note in receipt.notes:
        logger().warning("%s", note)
    path = step_dir(None, "housekeeping") / RECEIPT
    logger().info("%s; all of it: %s", receipt.sentence(), path)
    show_table("housekeeping-rules", list(receipt.rows()), receipt.sentence())
    show_table("housekeeping-largest", receipt.largest(), "What freed most")
    write_json(path, receipt.as_json())
    return path
