"""Finds damaged JPEG files by libjpeg's warnings, in processes whose stderr it can read.

OpenCV and Pillow show a JPEG that is damaged in its middle as if it were whole, its rest grey or shifted.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import LifoQueue
from typing import Self

import cv2

from tasks.base.errors import DatasetError, ImageError
from tasks.base.startup import module_command
from tasks.images.decoding import MAX_PIXELS
from tasks.images.images import content_digest, decode_rgb, read_bytes

_READY = b"ready\n"
_JPEG = b"\xff\xd8"
# libjpeg's warnings for data that does not give the pixels that the header names. A few bytes too many do no
# harm: some cameras fill up to a round number.
_DAMAGE = re.compile(
    r"Corrupt JPEG data: (premature end of data segment|bad Huffman code|found marker .*|\d{3,} extraneous bytes .*)"
)


class Checkers:
    """Checks images, JPEGs in other processes; `check` may be called from `n_processes` threads at once."""

    def __init__(self, n_processes: int) -> None:
        # A stack: for few images, most processes are never started.
        self._free: LifoQueue[subprocess.Popen[bytes] | None] = LifoQueue()
        for _ in range(n_processes):
            self._free.put(None)
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Return it as it is: processes start when there is a JPEG to check."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for process in self._started:
            process.kill()
            process.communicate()

    def check(self, path: Path) -> str:
        """Return the digest of an image's file, blake2b-16.

        Raises:
            ImageError: it cannot be used.
            DatasetError: no process can be started.
        """
        data = read_bytes(path, MAX_PIXELS)
        if not data.startswith(_JPEG):
            return _decoded_digest(data, path)
        process = self._free.get()
        try:
            if process is None:
                process = self._start()
            answer = _ask(process, path)
            if answer is None:
                code, process = process.wait(), None
                raise ImageError(f"the process that decoded it ended with {code}: {path}")
        finally:
            self._free.put(process)
        if "error" in answer:
            raise ImageError(answer["error"])
        return answer["digest"]

    def _start(self) -> subprocess.Popen[bytes]:
        command = module_command("tasks.images.jpeg_check")
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._started.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != _READY:
            raise DatasetError(f"the process that checks images ended with {process.wait()}, its reason is on stderr")
        return process


def _ask(process: subprocess.Popen[bytes], path: Path) -> dict[str, str] | None:
    """Return the answer, or None when there will be none."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return dict(json.loads(line)) if line else None


def sound_digest(path: Path) -> str:
    """Return the digest of an image's file, in a process where nothing else writes to stderr.

    Raises:
        ImageError: it cannot be used, or libjpeg finds its data damaged.
    """
    data = read_bytes(path, MAX_PIXELS)
    with heard() as said:
        digest = _decoded_digest(data, path)
        text = said()
    if damage := _DAMAGE.search(text):
        raise ImageError(f"damaged JPEG, {damage[1]}: {path}")
    return digest


def _decoded_digest(data: bytes, path: Path) -> str:
    # An eighth of the size reads all of the file and takes half the time.
    decode_rgb(data, path, MAX_PIXELS, min_side=1)
    return content_digest(data)


@contextmanager
def heard() -> Iterator[Callable[[], str]]:
    """Yield a function that returns what this process has written to file descriptor 2 since the block began."""
    before = os.dup(2)
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)  # what a pipe cannot hold is lost, and is not needed
    os.dup2(write, 2)

    def said() -> str:
        try:
            return os.read(read, 2**16).decode(errors="replace")
        except BlockingIOError:
            return ""

    try:
        yield said
    finally:
        os.dup2(before, 2)
        for fd in (before, read, write):
            os.close(fd)


def main() -> None:
    """Answer each path on stdin, a line of JSON, by a line on stdout, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then ends this process
    cv2.setNumThreads(1)
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        try:
            answer = {"digest": sound_digest(Path(json.loads(line)))}
        except ImageError as exc:
            answer = {"error": str(exc)}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
