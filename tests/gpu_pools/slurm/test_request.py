import pytest

from gpu_pools.placement.queues import Queue
from gpu_pools.slurm.request import HOST, job_name, request_of, sbatch_options
from tasks.base.errors import ConfigError

GPU, CPU = Queue("cuda", "training", HOST), Queue("cpu", "preparation", HOST)


def options(queue=GPU, n_gpus=1, limit_s=None, **variables):
    return sbatch_options(request_of(variables), queue, n_gpus, limit_s)


def test_what_is_not_asked_for_is_left_to_slurm():
    assert options() == ["--nodes=1", "--ntasks=1", "--gres=gpu:1"]
    assert options(CPU) == ["--nodes=1", "--ntasks=1"]


def test_each_wish_is_an_option_of_sbatch():
    asked = options(cpus=8, memory="32G", gpu_type="a100", partition="gpu,short", account="lab", qos="high", n_gpus=2)
    assert asked[2:] == [
        *("--gres=gpu:a100:2", "--cpus-per-task=8", "--mem=32G", "--partition=gpu,short"),
        *("--account=lab", "--qos=high"),
    ]


def test_slurm_gives_more_time_than_the_run_has():
    assert options(limit_s=3600)[-1] == "--time=65"
    assert options(limit_s=1)[-1] == "--time=6"


@pytest.mark.parametrize(
    "wrong",
    [{"cpus": 0}, {"memory": "16"}, {"partition": "--uid=0"}, {"account": "a b"}, {"constraint": "a;b"}, {"qos": "-x"}],
)
def test_a_wrong_wish_is_refused_with_its_name(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: found"):
        request_of(wrong)


def test_job_variables_of_others_do_not_count():
    assert request_of({"owner": "anna@boxa", "priority": 3, "cpus": "4"}).cpus == 4


@pytest.mark.parametrize(("name", "job"), [("a b/c", "a_b_c"), ("Größe 1", "Gr_e_1"), ("--x", "x"), ("???", "run")])
def test_squeue_shows_the_name_of_the_run(name, job):
    assert job_name(name) == job
