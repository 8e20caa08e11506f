"""Packs all that `run.py` needs on a GPU machine without a network: made here, where there is one and no GPU.

    python benchmarks/gpu/prepare.py FOLDER --python /path/to/python3.12 --have pip-list.txt
        [--torch 2.11.0] [--torchvision 0.26.0] [--arch 9.0] [--scene FOLDER]

The GPU machine has Python 3.12, torch for CUDA and torchvision, gcc, and the packages that `--have` lists, a name a
line (`pip list --format=freeze` of that machine is well). In FOLDER then lie archives of at most 55 MiB: the project,
the kernels for gsplat (three minutes for each capability on two cores), a scene with known cameras (rendered, or the
one given), and every package that is missing there, those above that size split from the rest.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))


from tasks.splatting.demo.render import make_room, render
from tasks.splatting.demo.scene import demo_cameras
from tasks.splatting.poses.colmap_model import PinholeModel, write_model

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_BYTES = 55 * 2**20
# Never wanted there: torch and CUDA are the machine's own, the pages of Prefect and MLflow are looked at by nobody.
NEVER = {"trainyard", "torch", "torchvision", "triton", "uv", "pip", "setuptools"}
LEFT_OUT = ("mlflow/server/js/", "prefect/server/ui", "/tests/", "gsplat/cuda/csrc/", "__pycache__")
PARTS = {"embreex", "faiss-cpu", "manifold3d", "onnx", "onnxruntime", "onnxscript", "transformers", "trimesh"}
PIECE = {"av": "heavy", "pycolmap": "heavy"} | dict.fromkeys(PARTS, "parts")
"""The archive of a package; those not here are in `packages`."""


def normalised(name: str) -> str:
    """Return a package's name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def packed(target: Path, files: Iterable[tuple[Path, str]]) -> None:
    """Write a .tar.xz of (file, name inside).

    Raises:
        SystemExit: it is larger than a machine may be sent at once.
    """
    with tarfile.open(target, "w:xz", preset=6) as archive:
        for path, name in files:
            archive.add(path, name)
    size = target.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"{target} has {size / 2**20:.0f} MiB, need at most {MOST_BYTES / 2**20:.0f}: take more out of it")
    print(f"{target.name}: {size / 2**20:.1f} MiB", flush=True)


def environment(folder: Path, python: str, torch: str, torchvision: str) -> Path:
    """Return the interpreter of an environment like the GPU machine's, with this project in it."""
    venv = folder / "venv"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--allow-existing", "--python", python, venv], check=True)
    wanted = [f"torch=={torch}", f"torchvision=={torchvision}", "-e", f"{ROOT}[gpu,parts]", "pytest", "pytest-timeout"]
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", venv / "bin" / "python", *wanted], check=True)
    return venv / "bin" / "python"


def packages(python: Path, have: set[str], piece: str) -> list[tuple[Path, str]]:
    """Return the files of the packages of an archive that the GPU machine lacks, with their names."""
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True
    )
    site = Path(where.stdout.decode().strip())
    files = []
    for found in importlib.metadata.distributions(path=[str(site)]):
        name = normalised(found.metadata["Name"])
        missing = name not in have | NEVER and not name.startswith(("nvidia-", "cuda-"))
        if missing and PIECE.get(name, "packages") == piece:
            names = [str(file) for file in found.files or [] if not str(file).startswith("..")]
            files += [(site / file, file) for file in names if not any(part in file for part in LEFT_OUT)]
    return files


def kernels(python: Path, folder: Path, arch: str) -> list[tuple[Path, str]]:
    """Build gsplat's kernels and return the libraries with their names."""
    home = folder / "home"
    command: list[str | Path] = [python, "-m", "deployments.cli.app", "kernels", "build", "--arch", arch]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "TRAINYARD_HOME": str(home)})
    return [(path, str(path.relative_to(home))) for path in sorted((home / "kernels").rglob("*")) if _kept(path)]


def _kept(path: Path) -> bool:
    return path.suffix in {".so", ".json"}


def made_scene(target: Path, n_views: int, width: int) -> Path:
    """Render the room of `make demo` from known cameras; return the folder as users of COLMAP have it, no points."""
    room = make_room(0)
    cameras = tuple(
        replace(camera.resized(width, width * 3 // 4), name=f"{number:03}.jpg")
        for number, camera in enumerate(demo_cameras(n_views))
    )
    for camera in cameras:
        (target / "images").mkdir(parents=True, exist_ok=True)
        picture = render(room, camera)[..., ::-1]
        cv2.imwrite(str(target / "images" / camera.name), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
    nothing = np.zeros((0, 3))
    (target / "sparse" / "0").mkdir(parents=True, exist_ok=True)
    write_model(target / "sparse" / "0", PinholeModel(cameras, nothing.astype(np.float32), nothing.astype(np.uint8)))
    return target


def main() -> None:
    """Make what is missing and pack it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", required=True, help="Python 3.12")
    parser.add_argument("--have", type=Path, required=True, help="packages of the GPU machine, a name a line")
    parser.add_argument("--torch", default="2.11.0")
    parser.add_argument("--torchvision", default="0.26.0")
    parser.add_argument("--arch", default="9.0", help="compute capabilities, by commas")
    parser.add_argument("--scene", type=Path, help="images/ and sparse/0; else the room of `make demo` is rendered")
    given = parser.parse_args()
    folder: Path = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    have = {normalised(re.split(r"[=@ ]", line)[0]) for line in given.have.read_text().splitlines() if line.strip()}
    python = environment(folder, given.python, given.torch, given.torchvision)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    kept = [name for name in tracked if name and not name.startswith("docs/pictures/")]
    packed(folder / "project.tar.xz", [(ROOT / name, name) for name in kept])
    for piece in ("packages", "heavy", "parts"):
        packed(folder / f"{piece}.tar.xz", packages(python, have, piece))
    scene = given.scene or made_scene(folder / "scene", 50, 1000)
    packed(folder / "scene.tar.xz", [(scene / part, part) for part in ("images", "sparse")])
    packed(folder / "kernels.tar.xz", kernels(python, folder, given.arch))
    shutil.copy(Path(__file__).with_name("run.py"), folder / "run.py")
    (folder / "made_for.json").write_text(json.dumps({"torch": given.torch, "arch": given.arch}))


if __name__ == "__main__":
    main()
