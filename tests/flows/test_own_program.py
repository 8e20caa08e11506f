"""The program in docs/classification.md answers what `yard run predict` answers, from the same files."""

import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from flows.inference import predict
from tasks.classification.networks import build
from tasks.images.params import PrepareParams
from tasks.inference.params import PredictParams
from tasks.tracking import mlflow_api

ROOT = Path(__file__).parents[2]
(PROGRAM,) = [
    code
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "classification.md").read_text(), re.S)
    if "best.pt" in code
]
CLASSES = ["calm", "loud", "wide"]
CONFIG = {
    "model": "resnet18",
    "classes": CLASSES,
    "image_size": 64,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def noise(height: int, width: int) -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PICTURES = {
    "photo.jpg": lambda path: Image.fromarray(noise(1200, 1600)).save(path, quality=90, exif=rotated()),
    "small.jpg": lambda path: Image.fromarray(noise(48, 60)).save(path),
    "plain.png": lambda path: Image.fromarray(noise(300, 400)).save(path),
    "alpha.png": lambda path: Image.fromarray(np.dstack([noise(300, 400), noise(300, 400)[..., 0]])).save(path),
    "grey16.png": lambda path: cv2.imwrite(str(path), noise(300, 400)[..., 0].astype(np.uint16) * 257),
    "cmyk.jpg": lambda path: Image.fromarray(noise(300, 400)).convert("CMYK").save(path),
    "large.png": lambda path: Image.fromarray(noise(1200, 1800)).save(path),
}


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """The folder of a training; without one, batch norm leaves much of what pixels are."""
    folder = tmp_path_factory.mktemp("training")
    torch.manual_seed(0)
    network = build(CONFIG["model"], len(CLASSES), CONFIG["image_size"])
    torch.save(network.state_dict(), folder / "best.pt")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, write in PICTURES.items():
        write(folder / name)
    return folder


def predicted(training, pictures, home, **prepare):
    params = PredictParams(weights=str(training / "best.pt"), device="cpu", n_workers=1, precision="fp32")
    run_id = predict(pictures, params, PrepareParams(**prepare))
    key = mlflow_api.client().get_run(run_id).data.tags["prefect.flow_run_id"]
    table = pd.read_csv(home / "runs" / key / "prediction" / "predictions.csv")
    assert table["error"].isna().all()
    tops = [(f"top{k}", f"top{k}_probability") for k in range(1, len(CLASSES) + 1)]
    return {Path(row["path"]).name: {row[name]: row[value] for name, value in tops} for _, row in table.iterrows()}


def said(program, training, picture):
    """Return what a program prints, run here: importing torch anew takes seconds."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", ["own.py", str(training), str(picture)])
        exec(compile(program, "own.py", "exec"), {})
    answer = json.loads(printed.getvalue())
    assert list(answer) == CLASSES
    return answer


def test_the_program_answers_as_predict_does(prefect_api, yard_home, training, pictures):
    table = predicted(training, pictures, yard_home, max_side=2000, max_pixels=4_000_000)
    bounded = predicted(training, pictures, yard_home)
    for name in PICTURES:
        answer = said(PROGRAM, training, pictures / name)
        assert answer == pytest.approx(table[name], abs=1e-5), name
        assert answer == pytest.approx(bounded[name], abs=0.02 if name == "large.png" else 1e-5), name


def test_copies_of_its_two_files_are_all_it_needs(training, pictures, tmp_path):
    for code in ("images/decoding.py", "classification/networks.py"):
        shutil.copy(ROOT / "tasks" / code, tmp_path)
    (tmp_path / "own.py").write_text(
        PROGRAM.replace("tasks.images.", "").replace("tasks.classification.", "")
        + "\nassert 'tasks' not in sys.modules\n"
    )
    argv = [sys.executable, tmp_path / "own.py", training, pictures / "plain.png"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == said(PROGRAM, training, pictures / "plain.png")


def test_another_preparation_would_be_noticed(training, pictures):
    resized = "__import__('numpy').array(__import__('PIL.Image').Image.open(image).resize((64, 64), 0))"
    other, n = re.subn(r"decode_sized\(image.*?\]\)", resized, PROGRAM, count=1)
    assert n == 1
    plain = [said(code, training, pictures / "plain.png") for code in (PROGRAM, other)]
    assert max(abs(plain[0][name] - plain[1][name]) for name in CLASSES) > 0.01
