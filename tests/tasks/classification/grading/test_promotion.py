"""Who is champion after a training: compared on the same files, and decided also where the old one is lost."""

import itertools
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tasks.classification.data.samples import Samples
from tasks.classification.grading.answers import answer
from tasks.classification.grading.promotion import (
    CONFIG,
    SEEN,
    WEIGHTS,
    Challenger,
    ask_champion,
    decide_promotion,
)
from tasks.classification.models import build_model
from tasks.classification.params import EvaluateParams
from tasks.tracking import registry
from tasks.training.champion import read_champion_answers

CPU = torch.device("cpu")
MODEL = {"model": "mobilenet_v3_small", "classes": ["a", "b"], "image_size": 32}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four images of two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
    return Samples(sorted(folder.iterdir()), [0, 1, 0, 1])


@pytest.fixture
def trained(client, experiment, pictures, tmp_path):
    """A function that makes the next version of a model, as a training does, and returns it as a challenger."""
    numbers = itertools.count()

    def make(name: str, *, right: bool) -> Challenger:
        folder = tmp_path / str(next(numbers))
        model = build_model("mobilenet_v3_small", 2, 32).eval()
        with torch.no_grad():  # answers nothing but `a`, or nothing but `b`
            model.classifier[3].weight.zero_()
            model.classifier[3].bias.copy_(torch.tensor([1.0, 0.0] if right else [0.0, 1.0]))
        for place in (WEIGHTS, CONFIG, SEEN):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(MODEL))
        (folder / SEEN).write_text("[]")
        run_id = client.create_run(experiment).info.run_id
        client.log_artifacts(run_id, str(folder))
        logged = client.create_logged_model(experiment, source_run_id=run_id)
        client.finalize_logged_model(logged.model_id, "READY")
        version = registry.register(name, run_id, f"models:/{logged.model_id}")
        only_a = Samples(pictures.paths[::2] * 10, [0] * 20)  # of one class: who answers `a` is always right
        return Challenger(name, version, answer(model, MODEL, only_a, CPU, cache=tmp_path / "cache"), MODEL)

    return make


def decide(challenger, tmp_path):
    return decide_promotion(challenger, EvaluateParams(), None, CPU, cache=tmp_path / "cache")


def ask(challenger, tmp_path):
    """Return what the champion answers, as a training keeps it for its report."""
    theirs = ask_champion(challenger.model_name, challenger.answers, CPU, cache=tmp_path / "cache")
    assert theirs is not None
    theirs.keep(tmp_path / "champion.npz")
    return read_champion_answers(tmp_path / "champion.npz")


def artifacts_of(client, version) -> Path:
    run = client.get_run(client.get_model_version(version.model_name, str(version.version)).run_id)
    return Path(run.info.artifact_uri.removeprefix("file://"))


def test_the_better_one_takes_over_and_the_worse_one_does_not(client, trained, tmp_path):
    assert decide(trained("race", right=False), tmp_path).promote
    better = decide(trained("race", right=True), tmp_path)
    worse = decide(trained("race", right=False), tmp_path)
    assert (better.promote, better.accuracy_champion, better.accuracy_challenger) == (True, 0, 1)
    assert (worse.promote, worse.accuracy_champion, worse.accuracy_challenger) == (False, 1, 0)
    assert int(registry.champion("race").version) == 2


def test_the_answers_kept_are_taken_while_the_champion_is_the_same(client, trained, tmp_path):
    old = trained("kept", right=True)
    decide(old, tmp_path)
    new = trained("kept", right=False)
    known = ask(new, tmp_path)
    assert (known.version, known.classes, known.fair.all()) == (1, ["a", "b"], True)
    assert (known.predicted == 0).all()
    (artifacts_of(client, old) / WEIGHTS).write_bytes(b"not to be read again")
    found = decide_promotion(new, EvaluateParams(), known, CPU, cache=tmp_path / "cache")
    assert (found.promote, found.accuracy_champion, found.accuracy_challenger) == (False, 1, 0)


def test_a_champion_that_came_meanwhile_is_asked_itself(client, trained, tmp_path):
    decide(trained("meanwhile", right=False), tmp_path)
    new = trained("meanwhile", right=True)
    known = ask(new, tmp_path)
    assert decide(trained("meanwhile", right=True), tmp_path).promote
    found = decide_promotion(new, EvaluateParams(), known, CPU, cache=tmp_path / "cache")
    assert (found.accuracy_champion, found.accuracy_challenger) == (1, 1)  # the first one had 0
    assert int(client.get_model_version("meanwhile", "2").tags["compared_with"]) == 3


@pytest.mark.parametrize("gone", ["weights", "config", "dataset/seen_digests.json", "."])
def test_of_a_champion_whose_files_were_deleted_the_new_one_takes_over_and_says_why(client, trained, tmp_path, gone):
    name = f"files {gone.replace('/', '-')}"
    old = trained(name, right=True)
    decide(old, tmp_path)
    place = artifacts_of(client, old) / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    new = trained(name, right=False)
    found = decide(new, tmp_path)
    assert found.promote
    assert int(registry.champion(name).version) == 2
    version = client.get_model_version(name, "2")
    assert version.description == found.reason
    assert found.reason.startswith("promoted: version 1, the champion, cannot be compared any more: ")
    assert found.reason.endswith("is gone from MLflow")
    assert version.tags == {"promoted": "true", "compared_with": "1"}


def test_of_a_champion_whose_run_is_gone_the_new_one_takes_over_and_says_why(client, trained, tmp_path):
    old = trained("run", right=True)
    decide(old, tmp_path)
    run_id = client.get_model_version("run", "1").run_id
    client._tracking_client.store._hard_delete_run(run_id)  # as `mlflow gc` does
    found = decide(trained("run", right=False), tmp_path)
    assert found.promote
    assert f"its run {run_id} is gone" in client.get_model_version("run", "2").description


def test_a_champion_whose_run_lies_in_the_waste_basket_is_compared(client, trained, tmp_path):
    decide(trained("basket", right=True), tmp_path)
    client.delete_run(client.get_model_version("basket", "1").run_id)
    assert not decide(trained("basket", right=False), tmp_path).promote


def test_a_champion_registered_by_hand_without_a_run_is_replaced(client, trained, tmp_path):
    client.create_registered_model("hand")
    client.create_model_version("hand", str(tmp_path))
    client.set_registered_model_alias("hand", "champion", "1")
    found = decide(trained("hand", right=False), tmp_path)
    assert found.promote
    assert "registered without a run" in found.reason
