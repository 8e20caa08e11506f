"""A fit that several processes share: the Gaussians of one process, how it ends when one fails, and how it goes on."""

import json
from pathlib import Path

import pytest
import torch

from tasks.base.errors import TrainingError, TrainyardError
from tasks.base.progress import Note
from tasks.splatting.capture.frame_table import IMAGES, MODEL
from tasks.splatting.fit.fit_events import MeasurementDone, StepsDone
from tasks.splatting.fit.scene import normalized, read_scene
from tasks.splatting.fit.session import FitSession
from tasks.splatting.params import SplatParams
from tasks.splatting.poses.colmap_model import PinholeModel, write_model
from tasks.splatting.render.cpu_rasterizer import CpuRasterizer
from tasks.training.parallel.ranks import ALONE, Ranks
from tests.samples import after
from tests.tasks.splatting.fit_scene import make_fit, make_scene
from tests.together import CPU, compute_together, end_of_both, handed_on, helpers

STRATEGIES = ("mcmc", "default")
EVERYTHING = {
    "max_steps": 40,
    "cap_max": 2000,
    "refine_start": 5,
    "refine_every": 20,  # images: at batch_size 2 after 10 steps
    "refine_stop": 35,
    "reset_every": 50,
    "eval_every": 20,
    "random_bkgd": True,
    "exposure_opt": True,
    "pose_opt": True,
}
SMALL = {"preset": "quick", "cap_max": 400, "test_every": 4, "device": "cuda", "num_threads": 1}


def fitted(pictures: Path, strategy: str, ranks: Ranks) -> dict:
    """Return what a fit comes to: its Gaussians, and the metrics of its measurements."""
    fit = make_fit(make_scene(pictures), batch_size=2, strategy=strategy, **EVERYTHING)
    fit.join(ranks)
    measured = [event.metrics for event in fit.run() if isinstance(event, MeasurementDone)]
    figures = [[one.step, one.n_gaussians, one.psnr, one.ssim, one.l1, one.train_loss] for one in measured]
    return {"figures": figures, **fit.state_dict()["optimizer"], "exposures": fit.exposures.affine.detach()}


def take_part(ranks: Ranks, folder: Path) -> None:
    made = {strategy: fitted(folder / str(ranks.rank), strategy, ranks) for strategy in STRATEGIES}
    if ranks.rank == 1:  # all have them
        torch.save(made, folder / "fitted.pt")


def test_two_processes_of_one_image_each_end_with_the_bits_of_one_that_draws_two(tmp_path):
    compute_together(2, take_part, tmp_path)
    together = torch.load(tmp_path / "fitted.pt", weights_only=True)
    torch.set_num_threads(1)
    for strategy in STRATEGIES:
        alone = fitted(tmp_path / "alone", strategy, ALONE)
        assert together[strategy]["figures"] == alone["figures"]
        for name in ("gaussians", "first", "second", "exposures"):
            torch.testing.assert_close(together[strategy][name], alone[name], rtol=0, atol=0)
        assert alone["figures"][-1][1] != alone["figures"][0][1]  # Gaussians came or went


def meet_another(ranks: Ranks, folder: Path) -> None:
    fit = make_fit(make_scene(folder / str(ranks.rank)), batch_size=2, max_steps=300)
    fit.join(ranks)
    with pytest.raises(TrainingError, match="after step 100 of 300, process 2 of 2 has other Gaussians"):
        for event in fit.run():
            if ranks.rank and isinstance(event, StepsDone) and event.step == 50:
                fit.gaussians.means.data[7, 1] += 1e-7


def test_processes_that_part_say_so(tmp_path):
    compute_together(2, meet_another, tmp_path)


def see_when_they_compare(ranks: Ranks, folder: Path) -> None:
    fit = make_fit(make_scene(folder / str(ranks.rank)), batch_size=2, max_steps=101)
    fit.join(ranks)
    steps, different = [], Ranks.different
    Ranks.different = lambda self, own: (steps.append(fit.step), different(self, own))[1]  # in a process of its own
    list(fit.run())
    assert steps == [0, 100, 101]


def test_processes_compare_what_they_have_once_after_a_step(tmp_path):
    compute_together(2, see_when_they_compare, tmp_path)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """The folder of a scene, as the preparation leaves it."""
    folder = tmp_path_factory.mktemp("scene")
    made = make_scene(folder / IMAGES)
    cameras = tuple(view.camera for view in made.views)
    write_model(folder / MODEL, PinholeModel(cameras, made.points, made.colors))
    return folder


def session(scene: Path, folder: Path, **values) -> FitSession:
    params = SplatParams(**{**SMALL, "max_steps": 100, "eval_every": 40, "batch_size": 2, **values})
    world, _ = normalized(read_scene(scene))
    options = {"rasterizer": CpuRasterizer(num_threads=1), "clock_ms": lambda: 17, "source": scene}
    return FitSession(world, folder, params, CPU, **options)


def test_two_processes_leave_what_one_does_and_another_number_goes_on(scene, tmp_path):
    list(session(scene, tmp_path / "alone").run())
    stop = after(1, StepsDone)
    _, seen = handed_on(lambda n: session(scene, tmp_path / "shared", n_devices=n), [(2, stop), (1, stop)], last=2)
    assert Note("fits in 2 processes, each on a share of the images of every step") in seen[2]
    one, other = (torch.load(tmp_path / name / "gaussians.pt", weights_only=True) for name in ("alone", "shared"))
    torch.testing.assert_close(other, one, rtol=0, atol=0)
    rows = [json.loads((tmp_path / name / "finished.json").read_text())["history"] for name in ("alone", "shared")]
    assert [row["psnr"] for row in rows[0]] == [row["psnr"] for row in rows[1]]


def test_an_image_that_only_another_process_reads_is_named(scene, tmp_path):
    fit = session(scene, tmp_path / "run", n_devices=2, test_every=0)
    shots, index = fit.data.train, 1  # the second image of the first step
    from tasks.splatting.fit.training_images import order_of

    broken = shots.views[order_of(0, len(shots), index)].image
    kept = broken.read_bytes()
    list(shots.read())  # this process has it
    broken.write_bytes(b"not an image")
    try:
        with pytest.raises(TrainyardError, match=f"process 2 of 2 failed: .*{broken.name}"):
            list(fit.run())
    finally:
        broken.write_bytes(kept)
    assert not helpers()


SCRIPT = """
import sys
from pathlib import Path
from tasks.splatting.fit.fit_events import StepsDone
from tests.tasks.splatting.fit.test_parallel import session
fit = session(Path(sys.argv[1]), Path(sys.argv[2]), n_devices=2, max_steps=100000)
fit._checkpoint_every_s = 0.1
for event in fit.run():
    if isinstance(event, StepsDone):
        print(event.step, flush=True)
"""


def test_a_kill_of_one_process_ends_all_and_the_fit_goes_on(scene, tmp_path):
    end_of_both(SCRIPT, scene, tmp_path / "run", reached=100)
    notes = (
        event.text for event in session(scene, tmp_path / "run", max_steps=100000).run() if isinstance(event, Note)
    )
    assert any(text.startswith("goes on after step") for text in notes)


@pytest.mark.parametrize("values", [{"device": "cuda:1"}, {"device": "cpu"}, {"batch_size": 1}], ids=str)
def test_what_several_devices_cannot_do_is_refused(values):
    with pytest.raises(ValueError, match="n_devices 2 needs"):
        SplatParams(**{**SMALL, "n_devices": 2, "batch_size": 2, **values})
