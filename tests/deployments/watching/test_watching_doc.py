"""The example of the chapter on watching does what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

from deployments.services.service import free_port

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
SECTION = PAGE.partition("\n## Watching\n")[2].partition("\n## ")[0]


def test_the_example_shows_the_slots_to_prometheus_and_in_the_terminal(tmp_path):
    (block,) = re.findall(r"```bash\n(.*?)```", SECTION, re.S)
    ports = f"--detach --prefect-port {free_port()} --mlflow-port {free_port()}"
    block = block.replace("--detach", ports).replace("9469", str(free_port()))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TRAINYARD_HOME": str(tmp_path / "home"),
        "TRAINYARD_DATABASE": "sqlite",
        "TRAINYARD_SIMULATE_GPUS": "2",
    }
    ran = subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r'^trainyard_slots_free\{device="cuda:1",host="\S+",kind="training"\} 1\.0$', ran.stdout, re.M)
    assert "simulated GPU 1" in ran.stdout[ran.stdout.index("yard top  ") :]
    assert "0 runs wait" in ran.stdout
    assert ran.stdout.endswith("all has ended\n")
