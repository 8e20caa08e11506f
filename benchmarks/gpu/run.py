"""Tries Trainyard on a GPU, part by part in order of worth, each with its own limit; every result is written at once.

    python run.py OUT [--pieces FOLDER] [--seconds 360] [--parts self tests ...]     on the GPU machine
    python benchmarks/gpu/run.py OUT --rehearse                                      all of it on a CPU, at toy size

FOLDER holds what `prepare.py` packed; they are unpacked beside OUT, into an environment that sees the machine's own
packages behind ours. OUT gets `results.json` (one object a part), `full.log`, and a table at the end; the last line
printed is that JSON.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SPLIT = ("split.train_ratio=0.9", "split.val_ratio=0.05")
DEMO = "tasks.recognition.demo.parts"
MODELS = {"detect": "detector", "predict": "index"}
FIGURES = {"map50": "map50/test", "recall1": "recall/test_1"}
FOUGHT_IN = "home-fight"
"""A rehearsal has a simulated GPU there: the CPU has room for several."""
REHEARSAL = 6.0
"""The limits of parts are that much longer on a CPU, where the smallest sizes still take longer than a GPU's own."""


@dataclass(slots=True)
class Bench:
    """Where things are, how much time is left, and what came of it."""

    out: Path
    work: Path
    project: Path
    python: Path
    scene: Path
    kernels: Path | None
    seconds: float
    rehearse: bool
    begun: float = field(default_factory=time.monotonic)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Return seconds until the whole has to end."""
        return self.seconds - (time.monotonic() - self.begun)

    @property
    def device(self) -> str:
        """Return what runs ask for."""
        return "cpu" if self.rehearse else "cuda"

    def environ(self, home: str) -> dict[str, str]:
        """Return the environment of a command, with a home and locks of its own."""
        own = {"TRAINYARD_HOME": str(self.work / home), "TRAINYARD_LOCK_DIR": str(self.work / f"{home}-locks")}
        path = f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        built = {"TORCH_EXTENSIONS_DIR": str(self.kernels)} if self.kernels else {}
        made_up = {"TRAINYARD_SIMULATE_GPUS": "1"} if self.rehearse and home == FOUGHT_IN else {}
        return {
            **os.environ,
            **own,
            **built,
            **made_up,
            "PATH": path,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(self.project),
        }

    def start(self, name: str, command: Sequence[str | Path], home: str = "home") -> subprocess.Popen[bytes]:
        """Start a command whose output goes to a file of that name."""
        with (self.work / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environ(home),
                cwd=self.project,
                start_new_session=True,
            )

    def end(self, name: str, process: subprocess.Popen[bytes], limit_s: float) -> tuple[int | None, str, float]:
        """Wait for a command; return its exit code (None: it was ended at the limit), output and seconds."""
        begun = time.monotonic()
        code: int | None = None
        try:
            code = process.wait(max(1.0, min(limit_s * (REHEARSAL if self.rehearse else 1.0), self.left)))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        text = (self.work / f"{name}.log").read_text(errors="replace")
        with (self.out / "full.log").open("a") as log:
            log.write(f"=== {name}: exit code {code}\n{text}\n")
        return code, text, time.monotonic() - begun

    def run(self, name: str, command: Sequence[str | Path], limit_s: float, home: str = "home") -> tuple[str, float]:
        """Run a command to its end; return its output and seconds.

        Raises:
            RuntimeError: it failed, or took longer; says how it ended.
        """
        code, text, seconds = self.end(name, self.start(name, command, home), limit_s)
        if code != 0:
            lines = [line for line in text.splitlines() if line.strip()]
            what = f"exit code {code}" if code is not None else f"ended after {seconds:.0f} s"
            raise RuntimeError(f"{name}: {what}: {' | '.join(lines[-3:])[-400:]}")
        return text, seconds

    def yard(self, *words: str | Path) -> list[str | Path]:
        """Return a command of yard."""
        return [self.python, "-m", "deployments.cli.app", *words]

    def training(
        self, model: str, batch: int, epochs: int, data: Path, *more: str, device: str = ""
    ) -> list[str | Path]:
        """Return the command of a classification from scratch on a folder of classes."""
        settings = (f"train.model={model}", f"train.batch_size={batch}", f"train.num_epochs={epochs}")
        rest = ("train.pretrained=false", "augment.enabled=false", *more)
        return self.yard(
            *("run", "classification", "--data", data, "--device", device or self.device),
            *(word for setting in (*settings, *rest) for word in ("--set", setting)),
        )

    def pictures(self, name: str, n: int) -> Path:
        """Return a folder of JPEG files of ten classes, made once."""
        folder = self.work / name
        if not folder.is_dir():
            self.run(f"make-{name}", [self.python, self.project / "benchmarks/gpu/pictures.py", folder, str(n)], 120)
        return folder


def json_of(text: str) -> dict[str, Any]:
    """Return the last line that is a JSON object."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def series(home: Path, key: str) -> list[float]:
    """Return a metric's values over the runs of a home's MLflow, by start and step."""
    rows: list[float] = []
    for base in home.rglob("mlflow*.db"):
        with sqlite3.connect(base) as connection:
            query = (
                "select value from metrics join runs using (run_uuid) where key = ? "
                "order by runs.start_time, step, timestamp"
            )
            rows += [value for (value,) in connection.execute(query, (key,))]
    return rows


def self_test(bench: Bench) -> dict[str, Any]:
    """What the machine has, in the words of `yard doctor`."""
    code, text, _ = bench.end("doctor", bench.start("doctor", bench.yard("doctor")), 60)
    return {"exit_code": code, "doctor": text.splitlines()[-12:]}


def tests(bench: Bench) -> dict[str, Any]:
    """The tests marked gpu, wherever they are, and those of our kernels with the real compiler."""
    folder = bench.project / "tests"
    marked = [path for path in sorted(folder.rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    ours = [folder / "tasks/splatting" / name for name in ("loss/test_triton_loss.py", "fit/test_triton_steps.py")]
    wanted = "not gpu" if bench.rehearse else "gpu"
    pytest: list[str | Path] = [bench.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if bench.rehearse:
        marked = [folder / name for name in ("tasks/training/test_late.py", "gpu_pools/placement/test_probe.py")]
    text, seconds = bench.run("tests", [*pytest, "-m", wanted, *marked], 150)
    found = {"marked": text.strip().splitlines()[-1], "files": len(marked), "seconds": round(seconds, 1)}
    if not bench.rehearse:
        text, _ = bench.run("kernels", [*pytest, *ours], 90)
        found["kernels"] = text.strip().splitlines()[-1]
    return found


def trial(bench: Bench) -> dict[str, Any]:
    """What `yard doctor --try` finds."""
    device = "cpu" if bench.rehearse else "cuda:0"
    code, text, seconds = bench.end("trial", bench.start("trial", bench.yard("doctor", "--try", device, "--json")), 180)
    checks = json.loads(text[text.index("{") :])["checks"]
    figures = {check["check"]: f"{check['verdict']}: {check['figure']}" for check in checks}
    return {"exit_code": code, "seconds": round(seconds, 1), **figures}


def splats(part: str, limit_s: float) -> Callable[[Bench], dict[str, Any]]:
    """Return one part of `splats.py`."""

    def run(bench: Bench) -> dict[str, Any]:
        script = bench.project / "benchmarks/gpu/splats.py"
        command: list[str | Path] = [bench.python, script, part, "--scene", bench.scene]
        command += ["--rehearse"] if bench.rehearse else ["--kernels", bench.kernels or ""]
        text, _ = bench.run(f"splats-{part}", command, limit_s)
        return json_of(text)

    return run


def splat_run(bench: Bench) -> dict[str, Any]:
    """A whole `yard run train_splat`: from the command to the first step, to the last, to the end."""
    short = ["--set", "train.max_steps=30", "--set", "train.max_side=64"] if bench.rehearse else []
    command = bench.yard("run", "train_splat", "--device", bench.device, "--set", f"scene={bench.scene}")
    text, seconds = bench.run("train_splat", [*command, "--set", "train.preset=quick", *short], 150)
    return {"seconds": round(seconds, 1), "fit_s": _last(bench, "speed/seconds"), "psnr": _last(bench, "psnr/held_out")}


def _last(bench: Bench, key: str, home: str = "home") -> float | None:
    values = series(bench.work / home, key)
    return round(values[-1], 2) if values else None


def classifier(model: str, batch: int, epochs: int, limit_s: float, *more: str) -> Callable[[Bench], dict[str, Any]]:
    """Return a training of that model, perhaps with more settings, against the plain loop on random tensors."""
    name = "-".join([model, *(setting.partition("=")[0].rpartition(".")[2] for setting in more)])

    def run(bench: Bench) -> dict[str, Any]:
        size, n = (4, 60) if bench.rehearse else (batch, 16_000)
        rounds = 2 if bench.rehearse else epochs
        side = 32 if bench.rehearse and model != "vit_b_16" else 224  # of both sides
        home = f"home-{name}"
        data = bench.pictures("pictures", n)
        training = bench.training(model, size, rounds, data, *SPLIT, f"train.image_size={side}", *more)
        _, seconds = bench.run(name, training, limit_s, home)
        script = bench.project / "benchmarks/gpu/classifier.py"
        plain: list[str | Path] = [bench.python, script, model, "--batch", str(size), "--side", str(side)]
        text, _ = bench.run(f"plain-{name}", [*plain, *(["--rehearse"] if bench.rehearse else [])], 60)
        limit, found = json_of(text), series(bench.work / home, "speed/images_per_s")
        waits = series(bench.work / home, "speed/data_wait_share")
        best = max(found[1:], default=found[-1])
        return {
            "images_s": [round(value) for value in found],
            "wait_share": [round(value, 3) for value in waits],
            "limit_images_s": limit["images_s"],
            "ratio": round(best / limit["images_s"], 3),
            "seconds": round(seconds, 1),
        }

    return run


def resume(bench: Bench) -> dict[str, Any]:
    """A training that is killed and resumed has the losses of one that was not."""
    data = bench.pictures("few", 100 if bench.rehearse else 3000)
    settings = ("train.deterministic=true", "train.image_size=64")
    epochs = 3 if bench.rehearse else 6
    command = bench.training("resnet18", 32, epochs, data, *settings)
    bench.run("whole", command, 90, "home-whole")
    process = bench.start("cut", command, "home-cut")
    log = bench.work / "cut.log"
    while process.poll() is None and b"epoch 2/" not in log.read_bytes() and bench.left > 0:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    bench.run("resumed", bench.yard("resume"), 90, "home-cut")
    losses = [series(bench.work / home, "loss/val") for home in ("home-whole", "home-cut")]
    return {"whole": losses[0], "resumed": losses[1], "equal": losses[0] == losses[1]}


def fight(bench: Bench) -> dict[str, Any]:
    """Three processes want one GPU: one has it, one is refused, one waits; the first is killed, the third goes on."""
    data = bench.pictures("few", 100 if bench.rehearse else 3000)
    training = partial(bench.training, "resnet18", 32, device="cuda:0")
    first = bench.start("first", training(500, data, "train.image_size=64"), FOUGHT_IN)
    log, second = bench.work / "first.log", training(1, data, "train.image_size=64")
    while first.poll() is None and b"epoch 1/" not in log.read_bytes() and bench.left > 0:
        time.sleep(0.05)
    refused = bench.start("refused", [*second, "--when-busy", "refuse"], FOUGHT_IN)
    code, text, refused_s = bench.end("refused", refused, 40)
    third = bench.start("third", second, FOUGHT_IN)
    time.sleep(min(15.0, max(0.0, bench.left)))
    waited = third.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    ended, _, seconds = bench.end("third", third, 90)
    lines = [line for line in text.splitlines() if line.strip()]
    return {
        "refused": code not in (0, None),
        "refused_s": round(refused_s, 1),
        "said": lines[-1][:200] if lines else "",
        "third_waited": waited,
        "third_completed": ended == 0,
        "from_the_kill_to_its_end_s": round(seconds, 1),
    }


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """A batch that does not fit is cut into pieces, and the run completes."""
    data = bench.pictures("few", 100 if bench.rehearse else 3000)
    batch, size = (16, 32) if bench.rehearse else (2560, 224)
    settings = (f"train.image_size={size}", "train.precision=fp32")
    text, seconds = bench.run("oom", bench.training("resnet50", batch, 1, data, *settings), 120, "home-oom")
    notes = [line for line in text.splitlines() if "out of memory at" in line]
    return {"completed": True, "cut": len(notes), "seconds": round(seconds, 1)}


def predict(bench: Bench) -> dict[str, Any]:
    """Images a second of `yard run predict`, with the weights of the training before."""
    weights = sorted(bench.work.glob("home-*/runs/*/training/best.pt"))
    if not weights:
        raise RuntimeError("no training before it left weights")
    data = bench.pictures("few", 100 if bench.rehearse else 3000)
    command = bench.yard("run", "predict", "--data", data, "--device", bench.device)
    text, seconds = bench.run("predict", [*command, "--set", f"predict.weights={weights[0]}"], 90)
    found = re.search(r"([\d.,]+) a second", text)
    if found is None:
        raise RuntimeError("predict does not say how many images a second it reads")
    return {"seconds": round(seconds, 1), "images_s": float(found[1].replace(",", ""))}


def decode(bench: Bench) -> dict[str, Any]:
    """What decoding on the GPU would bring a prediction."""
    command: list[str | Path] = [bench.python, bench.project / "benchmarks/gpu/decoding.py"]
    text, _ = bench.run("decode", [*command, *(["--rehearse"] if bench.rehearse else [])], 60)
    return json_of(text)


def recognition(bench: Bench) -> dict[str, Any]:
    """A detector and an index of the demo's parts, trained on the device; then both find and name on whole images."""
    meshes = bench.work / "meshes"
    if not meshes.is_dir():
        meshes.mkdir()
        make = f"from pathlib import Path; from {DEMO} import make_demo_parts; make_demo_parts(Path({str(meshes)!r}))"
        bench.run("meshes", [bench.python, "-c", make], 30)
    n, epochs = (4, 1) if bench.rehearse else (80, 8)
    settings = (
        *(f"render.{name}={n}" for name in ("train_views", "train_scenes")),
        *(f"render.{name}={max(2, n // 8)}" for name in ("val_views", "test_views", "val_scenes", "test_scenes")),
        *(f"{method}.num_epochs={epochs}" for method in ("detector", "index")),
    )
    words = [word for setting in settings for word in ("--set", setting)]
    command = bench.yard("run", "recognition", "--data", meshes, "--device", bench.device, *words)
    _, seconds = bench.run("recognition", command, 150, "home-parts")
    scenes = sorted((bench.work / "home-parts" / "runs").glob("*/rendered/scenes/test/images"))[-1]
    uses = (f"{section}.weights=models:/recognition-{name}@champion" for section, name in MODELS.items())
    words = [word for use in uses for word in ("--set", use)]
    command = bench.yard("run", "predict", "--data", scenes, "--device", bench.device, *words)
    _, predict_s = bench.run("find", command, 60, "home-parts")
    found = {name: _last(bench, key, "home-parts") for name, key in FIGURES.items()}
    return {"seconds": round(seconds, 1), "predict_s": round(predict_s, 1), **found}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "self": self_test,
    "tests": tests,
    "trial": trial,
    "loss": splats("loss", 40),
    "draw": splats("draw", 60),
    "fit": splats("fit", 120),
    "resnet50": classifier("resnet50", 256, 4, 120),
    "splat_run": splat_run,
    "resume": resume,
    "fight": fight,
    "million": splats("million", 60),
    "vit_b_16": classifier("vit_b_16", 128, 2, 110),
    "oom": out_of_memory,
    "predict": predict,
    "decode": decode,
    "compile": classifier("resnet50", 256, 3, 150, "train.compile=true"),
    "recognition": recognition,
}


def unpacked(pieces: Path, work: Path) -> tuple[Path, Path, Path, Path | None]:
    """Return project, interpreter, scene and kernels after unpacking; the machine's own packages come behind ours."""
    for name in ("project", "packages", "heavy", "parts", "scene", "kernels"):
        if (pieces / f"{name}.tar.xz").is_file() and not (work / name).is_dir():
            with tarfile.open(pieces / f"{name}.tar.xz") as archive:
                archive.extractall(work / name, filter="data")
    venv = work / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    purelib: list[str | Path] = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(purelib, check=True, capture_output=True, text=True).stdout.strip())
    own = [path for path in sys.path if path.endswith("site-packages")]
    ours = [str(work / name) for name in ("project", "packages", "heavy", "parts")]
    (site / "zz.pth").write_text("\n".join([*ours, *own]) + "\n")
    for name, module, function in (("prefect", "prefect.cli", "app"), ("mlflow", "mlflow.cli", "cli")):
        script = venv / "bin" / name
        script.write_text(f"#!{python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        script.chmod(0o755)
    compile_all: list[str | Path] = [python, "-m", "compileall", "-q", "-j", "0", work / "project", work / "packages"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(compile_all, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ, check=False)
    folder = next(iter(sorted((work / "kernels" / "kernels").glob("*"))), None)
    if folder is not None:
        shutil.copytree(folder, work / "home" / "kernels" / folder.name, dirs_exist_ok=True)
    return work / "project", python, work / "scene", folder


def rehearsal(work: Path) -> tuple[Path, Path, Path, None]:
    """Return this checkout, this interpreter and a small scene."""
    project = HERE.parent.parent
    sys.path.insert(0, str(project))
    from benchmarks.gpu.prepare import made_scene

    return project, Path(sys.executable), made_scene(work / "scene", 12, 96), None


def main() -> int:
    """Run the parts; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pieces", type=Path, default=HERE)
    parser.add_argument("--seconds", type=float, help="for all of it; 360 without it, or an hour to rehearse")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    out: Path = given.out.resolve()
    work = out.with_name(out.name + ".work")
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    found = rehearsal(work) if given.rehearse else unpacked(given.pieces.resolve(), work)
    seconds = given.seconds or (3600.0 if given.rehearse else 360.0)
    bench = Bench(out, work, *found, seconds, given.rehearse, begun)
    print(f"ready after {time.monotonic() - begun:.0f} s", flush=True)
    for name in given.parts:
        begun = time.monotonic()
        if bench.left < 10:
            bench.results[name] = {"not run": "no time left"}
        else:
            try:
                bench.results[name] = PARTS[name](bench)
            except (RuntimeError, OSError, LookupError, ValueError, sqlite3.Error) as exc:
                bench.results[name] = {"failed": f"{type(exc).__name__}: {exc}"}
        (out / "results.json").write_text(json.dumps(bench.results, indent=1))
        print(f"{name:10} {time.monotonic() - begun:5.0f} s  {json.dumps(bench.results[name])}", flush=True)
    print(json.dumps(bench.results))
    return int(any("failed" in result for result in bench.results.values()))


if __name__ == "__main__":
    sys.exit(main())
