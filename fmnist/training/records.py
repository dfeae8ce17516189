"""What is kept of a training: each epoch's figures, and how the network came about."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch.

    `loss` and `accuracy` are means over the epoch's augmented training images, with dropout;
    `val_loss` and `val_accuracy` are those of the validation images after it. `learning_rate` is
    the rate that the epoch ended with. `seconds` includes the validation.
    """

    number: int
    total: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """How a network came about; its file is known by its digest.

    `best_epoch` is the one whose weights were kept, by validation accuracy; `temperature` is what
    the logits were divided by to calibrate the probabilities, as fitted on the validation images.
    """

    model_sha256: str
    parameters: int
    history: tuple[Epoch, ...]
    best_epoch: int
    stopped_early: bool
    temperature: float
    seconds: float

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept."""
        return self.history[self.best_epoch - 1]

    @property
    def end_of_validation_loss(self) -> float:
        """The last validation loss, relative to the lowest: 1 means it never rose again."""
        return self.history[-1].val_loss / min(epoch.val_loss for epoch in self.history)
