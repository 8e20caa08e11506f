"""The child process that computes the checks of a trial, one line of JSON for each.

Checks come as ["name"] on stdin, {"rows": [...]} goes to stdout; all else that is said goes to stderr. It ends when
stdin does, also in the middle of a check: whoever started it is gone then.
"""

import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.trial.plan import CHECKS
from tasks.trial.report import Place
from tasks.trial.runner import call


def main() -> None:
    """Answer until stdin ends."""
    folder, tag, name, uuid, kind = sys.argv[1:]
    place = Place(tag, name, uuid, "cuda" if kind == "cuda" else "cpu")
    known = {check.name: check for check in CHECKS}
    said: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(said,), daemon=True).start()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        while True:
            (wanted,) = json.loads(said.get())
            rows: list[dict[str, Any]] = [asdict(row) for row in call(known[wanted], place, Path(folder))]
            print(json.dumps({"rows": rows}), file=answers, flush=True)


def _listen(said: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        said.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
