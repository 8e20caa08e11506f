"""The report as a run, without any server: its files, its page in Prefect, its run in MLflow."""

import csv
import sqlite3

from tests.flows.test_housekeeping import yard


def test_a_report_has_files_a_page_in_prefect_and_a_run_in_mlflow(tmp_path):
    code, said = yard(tmp_path, "run", "report", "--set", "report.since=7d")
    assert code == 0, said
    assert "No run had a device." in said
    (folder,) = tmp_path.glob("runs/*/report")
    assert {"occupation.png", "runs.csv", "owners.csv", "report.html"} <= {path.name for path in folder.iterdir()}
    with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as prefect:
        ((key, data),) = prefect.execute("SELECT key, data FROM artifact WHERE key = 'daily-report'")
    assert "(data:image/png;base64," in data
    with sqlite3.connect(tmp_path / "mlflow" / "mlflow.db") as mlflow:
        ((experiment,),) = mlflow.execute("SELECT e.name FROM runs r JOIN experiments e USING (experiment_id)")
        metrics = dict(mlflow.execute("SELECT key, value FROM latest_metrics WHERE key LIKE 'report/%'"))
    assert experiment == "reports"
    assert metrics["report/runs"] == 0
    assert not list(csv.DictReader((folder / "runs.csv").open()))  # the report itself is housekeeping


def test_a_time_that_is_none_is_refused_with_its_field(tmp_path):
    code, said = yard(tmp_path, "run", "report", "--set", "report.since=soon")
    assert (code, "report.since: found 'soon'" in said) == (1, True), said
