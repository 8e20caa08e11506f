"""The file of a lab is read with all its faults at once, and secrets come from files of their own."""

import pytest

from deployments.lab.checks import skewed
from deployments.lab.config import read_config, secret_of
from tasks.base.errors import ConfigError, StorageError

WORKER = "prefect: https://yard.lab/api\nmlflow: https://yard.lab:5443\nauth: auth\nhere: [worker]\n"
WHOLE = """
prefect: https://yard.lab/api
mlflow: https://yard.lab:5443
auth: auth
certificates: ca.pem
database: {address: "db.lab:5432", password_file: postgres}
redis: {address: "redis.lab:6379", password_file: redis, number: 2}
files: {place: s3://yard/mlflow/here, endpoint: "http://s3.lab:9000", key_file: s3}
"""


@pytest.fixture
def lab(tmp_path):
    for name, text in {"postgres": "p@ss/word", "redis": "r:s", "s3": "name:se:cret"}.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(f"{text}\n")

    def write(text):
        (tmp_path / "lab.yaml").write_text(text)
        return tmp_path / "lab.yaml"

    return write


def test_paths_are_taken_from_its_folder_and_secrets_are_quoted(lab, tmp_path):
    config = read_config(lab(WHOLE))
    assert (config.auth, config.certificates) == (tmp_path / "auth", tmp_path / "ca.pem")
    assert config.database.url("asyncpg", "prefect") == "postgresql+asyncpg://yard:p%40ss%2Fword@db.lab:5432/prefect"
    assert config.redis.url == "redis://:r%3As@redis.lab:6379/2"
    assert config.files.key == ("name", "se:cret")
    assert (config.files.bucket, config.files.prefix) == ("yard", "mlflow/here")
    assert list(config.ports) == [4201, 4202]
    assert config.here == ("services",)
    assert read_config(lab(WHOLE), ["worker"]).here == ("worker",)


def test_connections_may_be_encrypted(lab, tmp_path):
    text = WHOLE.replace("password_file: postgres", "password_file: postgres, tls: true")
    config = read_config(lab(text.replace("number: 2", "certificates: ca.pem")))
    assert config.database.url("asyncpg", "prefect").endswith("@db.lab:5432/prefect?ssl=require")
    assert config.database.url("psycopg", "mlflow").endswith("@db.lab:5432/mlflow?sslmode=require")
    assert config.redis.url == f"rediss://:r%3As@redis.lab:6379/0?ssl_ca_certs={tmp_path}/ca.pem"


def test_a_worker_needs_nothing_of_the_services(lab):
    config = read_config(lab(WORKER))
    assert config.database is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WORKER.replace("worker", "services"), "the services on this host need database, redis, files"),
        (WORKER.replace("/api", ""), "need the address of its API, which ends with /api"),
        (WORKER + "colour: red\n", "colour: Extra inputs are not permitted"),
        (WORKER.replace("worker", "wrker"), "here.0: Input should be 'services', 'worker' or 'inbox'"),
        (WHOLE.replace("db.lab:5432", "db.lab"), "database.address: String should match"),
        (WHOLE + "mlflow_port: 4202\n", "found mlflow_port 4202 among the ports of Prefect's processes"),
        ("[]", "found a list in"),
    ],
)
def test_faults_are_said_with_their_place(lab, text, said):
    with pytest.raises(ConfigError) as caught:
        read_config(lab(text))
    assert said in str(caught.value)
    assert "lab.yaml" in str(caught.value)


def test_a_secret_that_is_missing_or_open_is_said(lab, tmp_path):
    config = read_config(lab(WHOLE))
    (tmp_path / "s3").write_text("name only")
    with pytest.raises(ConfigError, match="found no NAME:SECRET in .*/s3"):
        assert config.files.key
    (tmp_path / "redis").unlink()
    with pytest.raises(ConfigError, match="found no .*/redis that this user can read"):
        assert config.redis.url
    (tmp_path / "postgres").chmod(0o644)
    with pytest.raises(StorageError, match="open to others"):
        secret_of(tmp_path / "postgres")


def test_clocks_may_differ_by_seconds_but_not_by_minutes(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1000.0)
    assert list(skewed("x", 1029)) == list(skewed("x", 971)) == []
    assert list(skewed("x", 1120)) == [
        "the clock of x is 120 s ahead of this host's, need 30 s at most: run NTP on both"
    ]
    assert list(skewed("x", 940)) == ["the clock of x is 60 s behind this host's, need 30 s at most: run NTP on both"]
