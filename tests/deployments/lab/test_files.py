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


def compose():
    return yaml.safe_load((FILES / "compose.yaml").read_text())


def test_the_services_of_compose_are_those_of_the_settings():
    config = read_config(FILES / "lab.yaml")
    ports = {name: one["ports"] for name, one in compose()["services"].items() if "ports" in one}
    assert {name: [port.rpartition(":")[0] for port in all_of] for name, all_of in ports.items()} == {
        "postgres": [config.database.address],
        "redis": [config.redis.address],
        "s3-door": [config.files.endpoint.removeprefix("http://")],
    }
    assert {name: Path(one["file"]) for name, one in compose()["secrets"].items()} == {
        "postgres": config.database.password_file,
        "redis": config.redis.password_file,
        "s3": config.files.key_file,
    }


def test_what_the_services_of_compose_use_is_there():
    content = compose()
    for name, service in content["services"].items():
        assert set(service.get("secrets", [])) <= content["secrets"].keys(), name
        for place in (volume.split(":")[0] for volume in service["volumes"]):
            assert (FILES / place).exists() if place.startswith(".") else place in content["volumes"], name


def test_services_that_ask_for_no_password_are_out_of_reach():
    """SeaweedFS lets whoever reaches its other ports read, write, and make keys."""
    assert compose()["services"]["s3"]["network_mode"] == "none"


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
