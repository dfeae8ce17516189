"""What is kept of a training: each epoch's figures, and how the network was made."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import AliasChoices, Field


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch.

    Attributes:
        number: counts from 1.
        total: the most epochs that the training may take.
        loss: mean cross-entropy over the augmented training images, with dropout.
        accuracy: share of those images that were classified right.
        val_loss: mean cross-entropy over the validation images after the epoch.
        val_accuracy: share of the validation images that were classified right.
        learning_rate: the rate of the epoch's last step.
        seconds: how long the epoch took, validation included.
    """

    number: int
    # Older files call it `of`.
    total: Annotated[int, Field(validation_alias=AliasChoices("total", "of"))]
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """How a network was made.

    Attributes:
        model_sha256: the digest of its file, in hexadecimal.
        parameters: how many weights it has.
        history: every epoch, in order.
        best_epoch: the number of the epoch whose weights were kept, by validation accuracy.
        stopped_early: whether training ended before the last epoch.
        temperature: what the logits were divided by, fitted on the validation images.
        seconds: how long the training took.
        image_shape: height and width in pixels of the images it takes.
    """

    model_sha256: str
    parameters: int
    history: tuple[Epoch, ...]
    best_epoch: int
    stopped_early: bool
    temperature: float
    seconds: float
    image_shape: tuple[int, int] = (28, 28)

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.history[self.best_epoch - 1]

    @property
    def end_of_validation_loss(self) -> float:
        """The last validation loss relative to the lowest; 1 means it never rose."""
        return self.history[-1].val_loss / min(epoch.val_loss for epoch in self.history)
