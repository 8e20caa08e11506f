"""Trains an embedding on views that are altered anew in every epoch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.base.progress import finish
from tasks.recognition.index.embedding import embedding, view_reader
from tasks.recognition.index.lookup import recalls
from tasks.recognition.index.networks import Embedder
from tasks.recognition.index.training.augment import augmented
from tasks.recognition.index.training.events import EpochMetrics
from tasks.recognition.index.training.losses import MarginHead
from tasks.recognition.index.views import Views, evenly
from tasks.recognition.params import IndexParams
from tasks.training.batches import Batches
from tasks.training.early_stopping import Score
from tasks.training.events import BatchDone
from tasks.training.pieces import parts_of
from tasks.training.precision import autocast
from tasks.training.trainer import Group, TensorTrainer

_MARGIN_RISE = 0.3
"""The share of the training over which the margin rises to its full size."""
_GALLERY = 32
"""Training views of each part that validation searches among: embedding all of them would cost half an epoch."""


class Recogniser(nn.Module):
    """The embedder, and the head that it is trained with."""

    def __init__(self, embedder: Embedder, head: MarginHead) -> None:
        super().__init__()
        self.embedder, self.head = embedder, head

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take (B, 3, S, S) uint8 and (B,) class numbers; give (B, n_classes) logits."""
        return self.head(self.embedder(images), labels)


class Trainer(TensorTrainer[Recogniser, IndexParams, EpochMetrics]):
    """The training of an embedding; its head is of no use afterwards.

    The model is the embedder and its head; labels are the numbers of classes.
    """

    N_SUMS = 2  # loss, views
    IMAGE = "view"
    SMALLER = "image_size or backbone"

    @property
    def graded_model(self) -> Embedder:
        """Return the embedder that is validated and kept."""
        return self.average.embedder

    def run(self, train: Views, val: Views, n_parts: int) -> Iterator[BatchDone | EpochMetrics]:
        """Train from where the state stands; at every yield `state_dict` is whole.

        Args:
            train: of the parts, and of shapes that are none under labels from `n_parts` on.
            val: of the parts.
            n_parts: how many parts there are.

        Raises:
            TrainingError: the loss is not finite, or one view does not fit into the GPU's memory.
        """
        gallery = train.chosen(train.labels < n_parts)
        gallery = gallery.chosen(evenly(gallery.labels, _GALLERY))
        yield from self._epochs(lambda: self._batches(train), lambda: self._grade(gallery, val))

    def _batches(self, views: Views) -> Batches:
        params, epoch = self.params, self.epoch
        return self._shuffled(lambda place: augmented(views.read(place), params, epoch, place), views.labels.tolist())

    def _backward(self, group: Group, sizes: Sequence[int], steps_per_epoch: int) -> None:
        ((images, labels),) = group
        # From the start, a margin would hold all vectors at one place: no direction is then better than another.
        rise = _MARGIN_RISE * self.params.num_epochs * steps_per_epoch
        self.model.head.share = min(1.0, self.step / rise)

        def attempt(n_pieces: int) -> Tensor:
            sums, size = torch.zeros_like(self._sums), -(-len(labels) // n_pieces)
            for part in parts_of(len(labels), size):
                # Gradients are averaged over processes, and are to be those of the mean over the batch.
                sums += self._backward_piece(images[part], labels[part], self.ranks.size / sizes[0])
            return sums

        self._sums += self.ranks.add_up(self._in_pieces(attempt, images, sizes[0]))

    def _backward_piece(self, images: Tensor, labels: Tensor, scale: float) -> Tensor:
        """Backpropagate `scale` times the summed loss; return (2,): summed loss, views."""
        with autocast(self.device, self.precision):
            logits = self._forward(images, labels)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        self.scaler.scale(loss * scale).backward()
        return torch.stack([loss.detach().double(), torch.full_like(loss, len(labels), dtype=torch.float64)])

    def _vectors(self, views: Views) -> np.ndarray:
        begin, end = self.ranks.bounds(len(views))
        own = views.chosen(np.arange(begin, end))
        reader = view_reader(own, self.params.image_size)
        work = embedding(
            self.graded_model, reader, len(own), self.device, self.precision, n_workers=self.params.n_workers
        )
        vectors = torch.from_numpy(finish(work)).to(self.device)
        return self.ranks.joined(vectors, len(views)).cpu().numpy()

    def _grade(self, gallery: Views, val: Views) -> EpochMetrics:
        """Validate, and compare with the best epoch so far."""
        found = recalls(self._vectors(gallery), gallery.labels, self._vectors(val), val.labels)
        is_best = self._is_best((found.at_1, found.gap))
        loss, n_views = (float(value) for value in self._sums)
        return EpochMetrics(
            **self._basics(loss / n_views, is_best),
            recall_1=found.at_1,
            recall_5=found.at_5,
            val_gap=found.gap,
            best_recall_1=self.stopping.best[0],
        )

    def _best_state(self) -> dict[str, Any]:
        return {"figures": list(self.stopping.best)}

    def _load_best(self, state: dict[str, Any]) -> Score:
        recall, gap = state["figures"]
        return recall, gap
