import pytest

from gpu_pools.slurm.hidden import hidden, hide, job_environment
from tasks.base.errors import StorageError
from tasks.base.workspace import home

ENV = {
    "PATH": "/bin",
    "PREFECT_API_AUTH_STRING": "yard:x",
    "MLFLOW_TRACKING_PASSWORD": "y",
    "AWS_SECRET_ACCESS_KEY": "z",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    (tmp_path / "slurm").mkdir()


def test_secrets_reach_a_job_by_a_file_alone():
    assert job_environment(ENV) == {"PATH": "/bin", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    hide(ENV)
    assert hidden() == {name: ENV[name] for name in ENV.keys() - job_environment(ENV).keys()}
    assert (home() / "slurm" / "secrets").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_is_gone_is_forgotten():
    hide(ENV)
    hide({"PATH": "/bin"})
    assert hidden() == {}


def test_without_a_file_there_are_none():
    assert hidden() == {}


@pytest.mark.parametrize("damage", [lambda path: path.chmod(0o644), lambda path: path.write_text("[")])
def test_a_file_that_others_read_or_that_is_damaged_is_refused(damage):
    hide(ENV)
    damage(home() / "slurm" / "secrets")
    with pytest.raises(StorageError, match="secrets"):
        hidden()


def test_a_job_inherits_nothing_of_the_job_that_its_service_is_in():
    env = {"SLURM_JOB_ID": "3", "SLURM_CONF": "/c", "CUDA_VISIBLE_DEVICES": "1", "SBATCH_PARTITION": "gpu"}
    assert job_environment(env) == {"SLURM_CONF": "/c", "SBATCH_PARTITION": "gpu"}
