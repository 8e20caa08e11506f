"""Makes batches of tensors from a split folder, in an order that only seed and epoch decide."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tasks.images.files import n_cores, one_cv2_thread

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, in RGB on a scale of 0 to 1; RFUAV and torchvision's weights expect these."""

Batch = tuple[Tensor, Tensor]
_PIECE = 16  # images that one thread reads at once: few enough that all threads work on the first batch


def batch_indices(
    n: int, batch_size: int, order: Sequence[int] | np.ndarray, *, join_last: bool = True
) -> list[np.ndarray]:
    """Cut `order` (a permutation of range(n)) into batches; with `join_last` a single left-over joins the one before.

    Batch normalisation cannot be trained on one image.
    """
    cuts = list(range(batch_size, n, batch_size))
    if join_last and batch_size > 1 and cuts and n - cuts[-1] == 1:
        cuts.pop()
    return np.split(np.asarray(order), cuts)


class Batches:
    """Batches of one part, loaded ahead by threads; the order is a function of (seed, epoch).

    Args:
        read: sample number -> (S, S, 3) uint8 RGB, only looked at; called from several threads.
        labels: (N,) class numbers.
        batch_size: at least 1.
        shuffle: another order every epoch, else the order given.
        seed: of the order.
        n_workers: threads; 0: as many as cores.
        pin: load into page-locked memory, which a GPU fetches while it computes.
        join_last: a last batch of one image joins the one before it, as training needs it; no batch for evaluation
            is larger than `batch_size`.
        mine: returns what this process reads of the batches, where several train together; the rest of this class
            speaks of whole batches, which are the same in all of them.
    """

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        labels: Sequence[int],
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        n_workers: int = 0,
        pin: bool = False,
        join_last: bool = True,
        mine: Callable[[Sequence[np.ndarray]], list[np.ndarray]] = list,
    ) -> None:
        self._read = read
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._n_workers = n_workers or n_cores()
        self._pin = pin
        self._join_last = join_last
        self._mine = mine

    @property
    def n_images(self) -> int:
        """Return how many images one epoch has."""
        return len(self.labels)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Return how many images each batch has."""
        return [len(batch) for batch in self._cut(np.arange(self.n_images))]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on.

        Yields:
            images (B, 3, S, S) uint8, channels last in memory; labels (B,) int64. B may be 0 where several processes
            share a batch of fewer images.
        """
        order = np.arange(self.n_images)
        if self._shuffle:
            order = np.random.default_rng((self._seed, epoch)).permutation(self.n_images)
        todo = iter(self._mine(self._cut(order)[start:]))
        with one_cv2_thread(), ThreadPoolExecutor(self._n_workers, thread_name_prefix="load") as pool:
            # So far ahead that every thread has work while a batch is taken, and bounded in memory.
            n_ahead = 2 + self._n_workers * _PIECE // self.batch_size
            waiting = deque(self._begin(pool, indices) for indices in islice(todo, n_ahead))
            try:
                while waiting:
                    batch = waiting.popleft().whole.result()
                    waiting.extend(self._begin(pool, indices) for indices in islice(todo, 1))
                    yield batch
            finally:
                for coming in waiting:
                    coming.cancel()

    def _begin(self, pool: ThreadPoolExecutor, indices: np.ndarray) -> "_Coming":
        return _Coming(pool, indices, self._read, self._joined)

    def _joined(self, rows: Sequence[np.ndarray], indices: np.ndarray) -> Batch:
        shape = rows[0].shape if rows else self._read(0).shape
        images = torch.empty((len(rows), *shape), dtype=torch.uint8, pin_memory=self._pin)  # (B, S, S, 3)
        if rows:
            np.stack(rows, out=images.numpy())
        labels = self.labels[torch.from_numpy(indices)]
        return images.permute(0, 3, 1, 2), labels.pin_memory() if self._pin else labels

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        return batch_indices(self.n_images, self.batch_size, order, join_last=self._join_last)


class _Coming:
    """A batch under way: several threads read its pieces, and whichever is the last puts them together."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        indices: np.ndarray,
        read: Callable[[int], np.ndarray],
        join: Callable[[Sequence[np.ndarray], np.ndarray], Batch],
    ) -> None:
        self.whole: Future[Batch] = Future()
        self._indices, self._read, self._join = indices, read, join
        starts = range(0, max(1, len(indices)), _PIECE)
        self._pieces: list[list[np.ndarray]] = [[] for _ in starts]
        self._n_left = len(starts)
        self._lock = threading.Lock()
        self._jobs = [pool.submit(self._load, number) for number in range(len(starts))]

    def _load(self, number: int) -> None:
        part = self._indices[number * _PIECE : (number + 1) * _PIECE]
        try:
            self._pieces[number] = [self._read(int(index)) for index in part]
            with self._lock:
                self._n_left -= 1
                is_last = self._n_left == 0
            if is_last:
                self.whole.set_result(self._join([row for piece in self._pieces for row in piece], self._indices))
        except Exception as exc:  # raised again where the batch is taken
            with self._lock:
                if not self.whole.done():
                    self.whole.set_exception(exc)

    def cancel(self) -> None:
        """Leave out what no thread has begun."""
        for job in self._jobs:
            job.cancel()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on the device; a GPU fetches it when it comes to it, and is not waited for."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def ahead(batches: Iterator[Batch], device: torch.device, *, labels_stay: bool = False) -> Iterator[Batch]:
    """Yield the batches on the device; a GPU fetches each, on a stream of its own, while it computes on the one before.

    Args:
        batches: on the host; page-locked for a GPU.
        device: where they shall be; on the CPU they are yielded as they are.
        labels_stay: on the host, for whoever looks something up by them.
    """

    def fetched_of(images: Tensor, labels: Tensor) -> Batch:
        there = images.to(device, non_blocking=True)
        return there, labels if labels_stay else labels.to(device, non_blocking=True)

    if device.type != "cuda":
        for batch in batches:
            yield fetched_of(*batch)
        return
    stream = torch.cuda.Stream(device)
    fetched: Batch | None = None
    for batch in batches:
        ready = fetched
        try:
            with torch.cuda.stream(stream):
                fetched = fetched_of(*batch)
        except torch.OutOfMemoryError:
            fetched = None
        if ready is not None:
            yield ready
        if fetched is None:  # no memory for two: this batch is made after the other one is done
            ready = None
            torch.cuda.empty_cache()
            with torch.cuda.stream(stream):
                fetched = fetched_of(*batch)
        _use_here(fetched, stream)
    if fetched is not None:
        yield fetched


def _use_here(batch: Batch, stream: torch.cuda.Stream) -> None:
    """Let the current stream wait for the copy, and keep the memory until it is done with it."""
    current = torch.cuda.current_stream()
    current.wait_stream(stream)
    for tensor in batch:
        if tensor.is_cuda:
            tensor.record_stream(current)


class Normalise:
    """Turn (B, 3, S, S) uint8 into the float32 the models take, channels last in memory, on the device."""

    def __init__(self, device: torch.device) -> None:
        scale = 255 * torch.tensor(STD, device=device)
        self._shift = 255 * torch.tensor(MEAN, device=device) / scale  # (3,)
        self._scale = 1 / scale
        self._row_shift, self._row_scale = self._shift, self._scale  # (3 W,)

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).float()  # (B, S, S, 3)
        # By whole rows: by channels, which lie three numbers apart, the CPU takes twice as long.
        rows = pixels.flatten(2)  # (B, S, 3 S)
        if len(self._row_scale) != rows.shape[2]:
            self._row_shift, self._row_scale = (each.repeat(pixels.shape[2]) for each in (self._shift, self._scale))
        return rows.mul_(self._row_scale).sub_(self._row_shift).view(pixels.shape).permute(0, 3, 1, 2)
