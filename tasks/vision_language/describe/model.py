"""Asks a vision-language model several questions at once, in batches that the device's memory holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils import logging

from gpu_pools.stopping import asked, look
from tasks.base.errors import ConfigError, WeightsError
from tasks.base.memory import free_memory
from tasks.base.outside import MIB
from tasks.training.pieces import ran_out_of_memory
from tasks.training.precision import DTYPES, Precision

Message = Mapping[str, Any]
"""As transformers' templates have them: role and content; content is a list of images and texts, or a text."""

_BAD_FOLDER = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises of files that are damaged, missing, or do not fit each other."""

_NO_INPUT = (ValueError, RuntimeError)
"""What processors raise of images that they cannot bring to their form."""

_MOST = 64
_MOST_ON_CPU = 8
_CPU_QUESTION_BYTES = 1024 * MIB  # activations and cache of an image of 1280 tokens in a model of 7 billion weights
_SHARE = 0.8  # of the free memory: questions differ in length


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says to one question."""

    text: str
    n_prompt: int  # tokens, those of the images included
    n_new: int  # tokens
    finish: Literal["stop", "length"]
    refusal: str | None = None  # why nothing was said


def _refused(why: str) -> Reply:
    return Reply("", 0, 0, "stop", why)


_TOO_LARGE = _refused(
    "the device's memory does not hold this question, need smaller or fewer images, or a larger device"
)


def load_model(folder: Path, device: torch.device, precision: str) -> tuple[Any, Any, Precision]:
    """Return model, processor and number format; only safetensors are read, and no code of the folder is run.

    Args:
        folder: as `check_model_folder` returns it.
        device: where the model goes.
        precision: auto, or as `Precision`.

    Raises:
        ConfigError: fp16 on the CPU.
        WeightsError: the files do not fit together.
    """
    chosen = _precision(device, precision)
    options = {"local_files_only": True, "trust_remote_code": False}
    logging.disable_progress_bar()
    try:
        processor = AutoProcessor.from_pretrained(folder, **options)
        model = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, dtype=DTYPES[chosen], **options
        )
    except _BAD_FOLDER as exc:
        reason = str(exc).strip().split("\n")[0][:300]
        raise WeightsError(f"transformers cannot load this model ({type(exc).__name__}: {reason}): {folder}") from exc
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not (getattr(processor, "chat_template", None) or tokenizer.chat_template):
        raise WeightsError(f"found no chat template, need a model that is made for questions: {folder}")
    tokenizer.padding_side = "left"  # the answer is what comes after the last token of all
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = model.eval()
    model.to(device)
    return model, processor, chosen


def _precision(device: torch.device, wanted: str) -> Precision:
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("found ask.precision=fp16 on the CPU, need fp32, bf16 or auto there")
    if wanted != "auto":
        return next(name for name in DTYPES if name == wanted)
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


class _Asked(StoppingCriteria):
    """Ends a generation once a signal has come."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), asked() is not None, dtype=torch.bool, device=input_ids.device)


class Asker:
    """A model on its device that answers batches of questions, always with the likeliest token.

    Args:
        model, processor: as `load_model` returns them.
        max_tokens: new ones, of an answer.
        batch_size: questions at once; 0: as many as free memory holds.
        say: is told what a person should read.
    """

    def __init__(
        self, model: Any, processor: Any, max_tokens: int, batch_size: int, say: Callable[[str], None]
    ) -> None:
        self._model, self._processor, self._max_tokens, self._say = model, processor, max_tokens, say
        self.device: torch.device = model.device
        self._measures = batch_size == 0 and self.device.type == "cuda"
        self.size = batch_size or (1 if self._measures else _size_on_cpu(free_memory()))
        ends = model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        # Not those the model was saved with: they are of sampling, and each would be warned of.
        self._options = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}

    def ask(self, conversations: Sequence[Sequence[Message]]) -> list[Reply]:
        """Return the replies, in order; where memory runs out, fewer questions are asked at once from then on.

        Raises:
            Interrupted: a signal has come.
        """
        replies: list[Reply] = []
        while len(replies) < len(conversations):
            piece = conversations[len(replies) : len(replies) + self.size]
            try:
                replies += self._measured(piece)
                continue
            except RuntimeError as exc:
                if not ran_out_of_memory(exc):
                    raise
            # Outside the except block, because the traceback keeps the tensors of the attempt alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._measures = False
            if len(piece) == 1:
                replies.append(_TOO_LARGE)
                continue
            self.size = len(piece) // 2
            self._say(f"the device's memory does not hold {len(piece)} questions at once: {self.size} from now on")
        return replies

    def _measured(self, piece: Sequence[Sequence[Message]]) -> list[Reply]:
        """Reply, and learn from the first question how many fit into a GPU's memory."""
        if not self._measures:
            return self._reply(piece)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        replies = self._reply(piece)
        if all(reply.refusal for reply in replies):
            return replies
        took = torch.cuda.max_memory_allocated(self.device) - before
        torch.cuda.empty_cache()
        self._measures, self.size = False, fitting(torch.cuda.mem_get_info(self.device)[0], took)
        self._say(f"{self.size} question(s) at once: the first one took {took / MIB:.0f} MiB")
        return replies

    def _reply(self, piece: Sequence[Sequence[Message]]) -> list[Reply]:
        """Reply to those that the processor takes; it refuses, for one, images far longer than wide."""
        try:
            inputs = self._inputs(piece)
        except _NO_INPUT as exc:
            if isinstance(exc, RuntimeError) and ran_out_of_memory(exc):
                raise
            faults = [self._fault(conversation) for conversation in piece]
            if not any(faults):
                raise
            taken = [conversation for conversation, fault in zip(piece, faults, strict=True) if fault is None]
            replies = iter(self._reply(taken) if taken else ())
            return [next(replies) if fault is None else _refused(fault) for fault in faults]
        return self._generated(inputs)

    def _fault(self, conversation: Sequence[Message]) -> str | None:
        try:
            self._inputs([conversation])
        except _NO_INPUT as exc:
            reason = str(exc).strip().split("\n")[0][:300]
            return f"this model's processor does not take it ({type(exc).__name__}: {reason})"
        return None

    def _inputs(self, piece: Sequence[Sequence[Message]]) -> Any:
        return self._processor.apply_chat_template(
            [list(conversation) for conversation in piece],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.device, dtype=self._model.dtype)

    @torch.inference_mode()
    def _generated(self, inputs: Any) -> list[Reply]:
        n_before = inputs["input_ids"].shape[1]
        tokens = self._model.generate(
            **inputs,
            **self._options,
            max_new_tokens=self._max_tokens,
            stopping_criteria=StoppingCriteriaList([_Asked()]),
        )
        look()
        new = tokens[:, n_before:].tolist()
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._read(row, n) for row, n in zip(new, lengths, strict=True)]

    def _read(self, tokens: list[int], n_prompt: int) -> Reply:
        """Return the text of an answer's tokens; after the one that ends it comes the padding of a longer neighbour."""
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        said = tokens if end is None else tokens[:end]
        text = self._processor.tokenizer.decode(said, skip_special_tokens=True).strip()
        return Reply(text, int(n_prompt), len(said) + (end is not None), "length" if end is None else "stop")


def _size_on_cpu(free_bytes: int) -> int:
    """Return how many questions are asked at once: more at once bring a CPU little, and take their memory."""
    return min(_MOST_ON_CPU, fitting(free_bytes, _CPU_QUESTION_BYTES))


def fitting(free_bytes: int, question_bytes: int) -> int:
    """Return how many questions fit into free memory, at least 1 and at most 64.

    Args:
        free_bytes: there are.
        question_bytes: that one takes.
    """
    return max(1, min(_MOST, int(_SHARE * free_bytes / max(1, question_bytes))))
