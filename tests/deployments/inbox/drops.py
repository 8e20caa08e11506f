"""What people drop into an inbox."""

import zipfile
from pathlib import Path

from PIL import Image


def images(folder: Path) -> Path:
    """Write six images of each of two classes; return the folder."""
    for name in ("calm", "loud"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (16, 16), (40 * i, 100, 0 if name == "calm" else 200)).save(folder / name / f"{i}.png")
    return folder


def zipped(folder: Path, path: Path) -> None:
    """Pack the images of a folder, below its name."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, Path(folder.name) / file.relative_to(folder))
