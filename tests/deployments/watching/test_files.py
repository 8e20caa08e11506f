"""The example files for Prometheus and Grafana name metrics that there are."""

import json
import re
from importlib.resources import files
from pathlib import Path

import yaml

from gpu_pools.watching.families import GAPS, GAUGES, GPU_INFO, NAMES

FOLDER = files("deployments.watching")
PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()


def dashboard():
    return json.loads((FOLDER / "grafana-dashboard.json").read_text())


def dashboard_queries():
    """Return the title of each panel of the dashboard with a query of it."""
    return [(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel["targets"]]


def alerts():
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return group["rules"]


def named(query):
    return set(re.findall(r"trainyard_\w+", query))


def test_every_metric_that_is_asked_for_is_one_that_there_is():
    queries = [query for _, query in dashboard_queries()] + [rule["expr"] for rule in alerts()]
    asked = set().union(*map(named, queries))
    assert asked <= NAMES
    unseen = {name for name in NAMES if name not in asked} - {
        *("trainyard_worker_draining", "trainyard_worker_runs", "trainyard_reading_up", GPU_INFO, "trainyard_slots"),
        "trainyard_journal_backlog_runs",
    }
    assert not unseen, "neither on the dashboard nor in an alert"


def test_each_alert_says_what_to_do():
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_panels_have_ids_and_places_of_their_own_and_a_source_that_a_person_chooses():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


def test_the_configuration_of_prometheus_reads_the_alerts_that_lie_beside_it():
    content = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [(FOLDER / name).is_file() for name in content["rule_files"]] == [True]
    (job,) = content["scrape_configs"]
    assert f'job="{job["job_name"]}"' in alerts()[0]["expr"]


def test_the_page_lists_every_metric_with_its_labels():
    rows = dict(re.findall(r"^\| `(trainyard_\w+)` \| (.*?) \|", PAGE, re.M))
    for name, family in GAUGES.items():
        assert rows.pop(name) == (", ".join(f"`{label}`" for label in family.labels) or "-")
    assert rows.keys() == {GPU_INFO, GAPS}
