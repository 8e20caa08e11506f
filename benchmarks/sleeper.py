"""The flow that the benchmarks of the yard start: it notes when its first line runs, sleeps, and notes its last."""

import json
import os
import time
from pathlib import Path

from prefect import flow


@flow(name="sleeper")
def sleeper(folder: str, seconds: float = 0.0) -> None:
    """Hold a slot for some seconds."""
    begin = time.time()
    time.sleep(seconds)
    target = Path(folder) / f"{os.environ['PREFECT__FLOW_RUN_ID']}.json"
    target.with_suffix(".tmp").write_text(json.dumps({"begin": begin, "end": time.time()}))
    target.with_suffix(".tmp").rename(target)
