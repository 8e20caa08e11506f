"""How many images a second a question over a folder keeps of a bare loop of transformers on the same batches.

`python benchmarks/describe.py [--images 32] [--rounds 7] [--batch 4] [--tokens 40]`; the last line is one JSON object.
The loop has its images in memory; the yard reads and prepares JPEG files, and keeps each answer on the disk. The loop
runs in a process of its own, as somebody would write it, and once more beside the yard, whose runs keep the memory that
they free. With traces, the yard hands each question to MLflow as well, for which a thread shares the same cores.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks.base.memory import keep_freed_memory
from tasks.images.params import PrepareParams
from tasks.images.prepare import read_prepared
from tasks.tracking.tracker import Tracker
from tasks.vision_language.describe.answer_log import AnswerLog
from tasks.vision_language.describe.asking import asking
from tasks.vision_language.describe.model import Asker, load_model
from tasks.vision_language.describe.params import AnswerGradeParams, ReadParams
from tasks.vision_language.describe.questions import Question, find_questions
from tasks.vision_language.describe.shown_talk import trace_of
from tasks.vision_language.tiny_model import make_tiny_model

PROMPT = "What is on the image?"


def make_images(folder: Path, n: int) -> None:
    """Write JPEG files of 400x300, with structure at several scales as photographs have it."""
    rng = np.random.default_rng(0)
    for i in range(n):
        image = np.zeros((300, 400, 3), np.float32)
        for scale in (8, 60, 300):
            coarse = rng.random((300 // scale + 1, 400 // scale + 1, 3), dtype=np.float32)
            image += cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(folder / f"{i:04}.jpg"), (image * 85).astype(np.uint8))


def bare_loop(model: Any, processor: Any, images: Sequence[Image.Image], batch: int, n_tokens: int) -> list[str]:
    """Return what the model says to each image, by transformers alone."""
    texts: list[str] = []
    for start in range(0, len(images), batch):
        talks = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": PROMPT}]}]
            for image in images[start : start + batch]
        ]
        inputs = processor.apply_chat_template(
            talks,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(model.device)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=n_tokens, do_sample=False)
        texts += processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


@dataclass(frozen=True, slots=True)
class Round:
    """What one side took for all images."""

    texts: tuple[str, ...]
    wall_s: float
    cpu_s: float  # of all threads


def timed(work: Callable[[], list[str]]) -> Round:
    begun, before = time.perf_counter(), time.process_time()
    texts = work()
    return Round(tuple(texts), time.perf_counter() - begun, time.process_time() - before)


def pictures_in(folder: Path) -> list[Image.Image]:
    return [Image.fromarray(read_prepared(path, PrepareParams(), 1024)) for path in sorted(folder.iterdir())]


def bare_process(channel: Connection, root: Path, batch: int, n_tokens: int) -> None:
    """Run the bare loop once for each word that comes, until it is None."""
    model, processor, _ = load_model(root / "tiny", device(), "fp32")
    pictures = pictures_in(root / "images")
    while channel.recv() is not None:
        channel.send(timed(lambda: bare_loop(model, processor, pictures, batch, n_tokens)))


@contextmanager
def bare_elsewhere(root: Path, batch: int, n_tokens: int) -> Iterator[Callable[[], Round]]:
    """Yield what runs the bare loop in another process."""
    context = multiprocessing.get_context("spawn")
    channel, theirs = context.Pipe()
    process = context.Process(target=bare_process, args=(theirs, root, batch, n_tokens), daemon=True)
    process.start()

    def run() -> Round:
        channel.send("go")
        found: Round = channel.recv()
        return found

    yield run
    channel.send(None)
    process.join()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ours(asker: Asker, questions: Sequence[Question], folder: Path, tracker: Tracker | None) -> list[str]:
    """Return the same by the yard, each answer kept in a file, and shown in MLflow where there is a tracker."""
    folder.mkdir(exist_ok=True)
    with AnswerLog(folder) as kept:
        for talks in asking(questions, asker, None, PrepareParams()):
            for talk in talks if tracker is not None else ():
                assert tracker is not None
                tracker.trace(trace_of(talk, None, "tiny", 60))
            kept.add([talk.answer for talk in talks])
    return [str(kept.answers[question.key].text) for question in questions]


def main() -> None:
    """Measure all in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("images", 32), ("rounds", 7), ("batch", 4), ("tokens", 40)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as tmp:
        root = Path(tmp)
        for name in ("images", "tiny", "logs"):
            (root / name).mkdir()
        os.environ["TRAINYARD_HOME"] = str(root / "home")
        make_images(root / "images", args.images)
        make_tiny_model(root / "tiny")
        with bare_elsewhere(root, args.batch, args.tokens) as bare:
            rounds = measure(root, args, bare)
    for name in rounds[0]:
        rates = [args.images / each[name].wall_s for each in rounds]
        cpu_ms = 1000 * statistics.median(each[name].cpu_s for each in rounds) / args.images
        spread = f"({min(rates):.2f} to {max(rates):.2f})"
        print(f"{name:<20}{statistics.median(rates):7.2f} images/s {spread}, {cpu_ms:.1f} ms of processor time each")
    # Processor time says what the images cost beside the model also where other processes take the cores.
    found = {
        "ratio": [each["bare"].wall_s / each["yard"].wall_s for each in rounds],
        "cpu_ratio": [each["bare"].cpu_s / each["yard"].cpu_s for each in rounds],
        "ratio_memory_kept": [each["bare, memory kept"].wall_s / each["yard"].wall_s for each in rounds],
        "cpu_ratio_memory_kept": [each["bare, memory kept"].cpu_s / each["yard"].cpu_s for each in rounds],
        "ratio_with_traces": [each["bare"].wall_s / each["yard, with traces"].wall_s for each in rounds],
    }
    shown = {name: round(statistics.median(values), 3) for name, values in found.items()}
    same = len({side.texts for each in rounds for side in each.values()}) == 1
    print(json.dumps({**shown, "same_answers": same, "images": args.images, "batch": args.batch}))


def measure(root: Path, args: argparse.Namespace, bare: Callable[[], Round]) -> list[dict[str, Round]]:
    """Return the rounds of all sides in turn, without the first one, which warms up."""
    keep_freed_memory()  # as the step does
    model, processor, _ = load_model(root / "tiny", device(), "fp32")
    asker = Asker(model, processor, args.tokens, args.batch, print)
    questions = find_questions(root / "images", PROMPT, ReadParams(), AnswerGradeParams())
    pictures, rounds = pictures_in(root / "images"), []
    with Tracker.open(root / "run", "bench", "bench", {}) as tracker:
        for number in range(args.rounds + 1):
            plain, traced = root / "logs" / f"{number}", root / "logs" / f"t{number}"
            found = {"bare": bare()}
            found["yard"] = timed(partial(ours, asker, questions, plain, None))
            found["bare, memory kept"] = timed(lambda: bare_loop(model, processor, pictures, args.batch, args.tokens))
            found["yard, with traces"] = timed(partial(ours, asker, questions, traced, tracker))
            tracker.flush()  # what is left to send is not a part of the next side
            rounds.append(found)
    return rounds[1:]


if __name__ == "__main__":
    main()
