"""How many images a second a question over a folder keeps of a bare loop of transformers on the same batches.

`python benchmarks/describe.py [--images 32] [--rounds 7] [--batch 4] [--tokens 40]`; the last line is one JSON object.
The loop has its images in memory; the yard reads and prepares JPEG files, and keeps each answer on the disk. With
traces, it hands each question to MLflow as well, for which a thread shares the same cores.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as tmp:
        root = Path(tmp)
        for name in ("images", "tiny", "logs"):
            (root / name).mkdir()
        os.environ["TRAINYARD_HOME"] = str(root / "home")
        make_images(root / "images", args.images)
        make_tiny_model(root / "tiny")
        model, processor, _ = load_model(root / "tiny", device, "fp32")
        asker = Asker(model, processor, args.tokens, args.batch, print)
        questions = find_questions(root / "images", PROMPT, ReadParams(), AnswerGradeParams())
        pictures = [Image.fromarray(read_prepared(question.images[0], PrepareParams(), 1024)) for question in questions]
        rates: dict[str, list[float]] = {"bare": [], "yard": [], "yard, with traces": []}
        cpu_s: dict[str, list[float]] = {name: [] for name in rates}  # of all threads
        texts: dict[str, list[str]] = {}
        with Tracker.open(root / "run", "bench", "bench", {}) as tracker:
            for number in range(args.rounds + 1):
                sides = {
                    "bare": lambda: bare_loop(model, processor, pictures, args.batch, args.tokens),
                    "yard": lambda n=number: ours(asker, questions, root / "logs" / f"{n}", None),
                    "yard, with traces": lambda n=number: ours(asker, questions, root / "logs" / f"t{n}", tracker),
                }
                for name, work in sides.items():
                    begun, before = time.perf_counter(), time.process_time()
                    texts[name] = work()
                    rate = len(questions) / (time.perf_counter() - begun)
                    tracker.flush()  # what is left to send is not a part of the next side
                    if number:  # the first round warms up
                        rates[name].append(rate)
                        cpu_s[name].append(time.process_time() - before)
    for name, values in rates.items():
        cpu_ms = 1000 * statistics.median(cpu_s[name]) / len(questions)
        spread = f"({min(values):.2f} to {max(values):.2f})"
        print(f"{name:<18}{statistics.median(values):7.2f} images/s {spread}, {cpu_ms:.1f} ms of processor time each")
    # Processor time says what the images cost beside the model also where other processes take the cores.
    found = {
        "ratio": [ours / alone for ours, alone in zip(rates["yard"], rates["bare"], strict=True)],
        "cpu_ratio": [alone / ours for ours, alone in zip(cpu_s["yard"], cpu_s["bare"], strict=True)],
        "ratio_with_traces": [
            ours / bare for ours, bare in zip(rates["yard, with traces"], rates["bare"], strict=True)
        ],
    }
    shown = {name: round(statistics.median(values), 3) for name, values in found.items()}
    same = len({tuple(value) for value in texts.values()}) == 1
    print(json.dumps({**shown, "same_answers": same, "images": len(questions), "batch": args.batch}))


if __name__ == "__main__":
    main()
