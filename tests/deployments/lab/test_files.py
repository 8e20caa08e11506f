"""The files that are shipped for a lab agree with one another, and with what reads them."""

import configparser
from pathlib import Path

import yaml

from deployments.lab.config import read_config
from tests.deployments.closed_yard import ROOT

FILES = ROOT / "deployments" / "lab"


def test_the_settings_are_whole_and_those_of_a_worker_are_a_part_of_them(tmp_path):
    config = read_config(FILES / "lab.yaml")
    assert config.here == ("services",)
    kept = ("prefect", "mlflow", "auth", "certificates")
    lines = [line for line in (FILES / "lab.yaml").read_text().splitlines() if line.startswith(kept)]
    (tmp_path / "worker.yaml").write_text("\n".join([*lines, "here: [worker]"]))
    assert read_config(tmp_path / "worker.yaml").prefect == config.prefect


def test_the_services_of_compose_are_those_of_the_settings():
    config, compose = read_config(FILES / "lab.yaml"), yaml.safe_load((FILES / "compose.yaml").read_text())
    ports = {name: service["ports"][0].rpartition(":")[0] for name, service in compose["services"].items()}
    assert ports == {
        "postgres": config.database.address,
        "redis": config.redis.address,
        "s3": config.files.endpoint.removeprefix("http://"),
    }
    secrets = {name: Path(one["file"]) for name, one in compose["secrets"].items()}
    assert secrets["postgres"] == config.database.password_file
    assert secrets["redis"] == config.redis.password_file
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= secrets.keys()


def test_the_proxy_asks_the_processes_of_the_settings():
    config, unit = read_config(FILES / "lab.yaml"), (FILES / "trainyard-proxy.service").read_text()
    assert '"YARD_PREFECT=' + " ".join(f"127.0.0.1:{port}" for port in config.ports) + '"' in unit
    assert f"YARD_MLFLOW=127.0.0.1:{config.mlflow_port}" in unit


def test_units_are_read_by_systemd_s_rules():
    for path in FILES.glob("*.service"):
        unit = configparser.RawConfigParser(strict=False)
        unit.read(path)
        assert unit["Service"]["ExecStart"].startswith("/")
        assert unit["Install"]["WantedBy"] == "multi-user.target"
