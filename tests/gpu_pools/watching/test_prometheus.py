"""A real Prometheus scrapes a worker, and every query of the dashboard and of the alerts has an answer there."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib.resources import files

import pytest

from deployments.services.service import free_port
from gpu_pools.slots.slot_files import SlotProgress
from tests.deployments.waiting import wait_for
from tests.deployments.watching.test_files import alerts, dashboard_queries, named
from tests.gpu_pools.watching.test_exporter import exporting, host, worker
from tests.gpu_pools.worker.monitored import take_slot

__all__ = ["host", "worker"]

pytestmark = pytest.mark.yard
FOLDER = files("deployments.watching")


@pytest.fixture
def busy(prefect, worker, tmp_path):
    """Yield a worker with a run on the CPU, one that waits though slots are free, and a GPU that is hot."""
    (tmp_path / "gpus.json").write_text(json.dumps({"cuda:0": {"utilisation_percent": 97, "temperature_c": 91}}))
    prefect.add_run("SCHEDULED", "cuda.training")
    prefect.queues.append({"name": "cuda.training", "concurrency_limit": None, "is_paused": False})
    prefect.pool["is_paused"] = True
    with take_slot("trains") as lease:
        lease.record(progress=SlotProgress(3, 10, 700.0, time.time()))
        worker.tick()
        yield worker


@pytest.fixture
def prometheus(tmp_path):
    """Return a function that starts one which scrapes a port every second, and returns how to ask it (path -> data)."""
    started = []

    def start(port):
        own = free_port()
        text = (FOLDER / "prometheus.yml").read_text()
        for old, new in (("127.0.0.1:9469", f"127.0.0.1:{port}"), ("15s", "1s")):
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "prometheus.yml").write_text(text)
        shutil.copy(str(FOLDER / "alerts.yml"), tmp_path)
        words = (f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{own}")
        started.append(subprocess.Popen(["prometheus", f"--config.file={tmp_path}/prometheus.yml", *words]))

        def ask(path, **values):
            url = f"http://127.0.0.1:{own}/api/v1/{path}?{urllib.parse.urlencode(values)}"
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    return json.load(answer)["data"]
            except urllib.error.HTTPError as exc:
                raise AssertionError(f"{values}: {exc.read().decode()}") from exc
            except urllib.error.URLError:
                return {"result": [], "groups": []}  # it starts

        return ask

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


def plain(query):
    """Return a query of the dashboard as Grafana sends it for all hosts."""
    return query.replace("$host", ".*").replace("$__rate_interval", "30s")


def test_the_rules_are_valid():
    done = subprocess.run(
        ["promtool", "check", "rules", str(FOLDER / "alerts.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(alerts())} rules found" in done.stdout


def test_every_query_has_an_answer(busy, prometheus):
    with exporting(busy) as scrape:
        ask = prometheus(scrape.port)

        def value(query):
            return ask("query", query=query)["result"]

        assert wait_for(lambda: value("trainyard_worker_runs"), 60)
        there = set(ask("label/__name__/values"))
        for query in [query for _, query in dashboard_queries()] + [rule["expr"] for rule in alerts()]:
            assert named(query) <= there, query
        busy._scheduler.gaps.note("cpu", "training", 0.7)
        scrape.exporter.publish(busy.state())
        gaps = "sum(rate(trainyard_dispatch_gap_seconds_count[30s])) > 0"
        assert wait_for(lambda: value(gaps), 60)
        for title, query in dashboard_queries():
            found = value(plain(query))
            assert found, f"{title}: {query}"
            assert "NaN" not in {sample["value"][1] for sample in found}, f"{title}: {query}"
        fires = {rule["alert"] for rule in alerts() if value(rule["expr"])}
        assert fires - {"TrainyardDiskLow"} == {"TrainyardGpuHot", "TrainyardQueueStuck"}
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    # The worker is gone.
    assert wait_for(lambda: value(next(rule["expr"] for rule in alerts() if rule["alert"].endswith("Silent"))), 60)
