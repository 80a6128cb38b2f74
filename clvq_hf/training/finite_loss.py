"""Training that stops when its loss is no number any more, before the weights follow."""

from typing import Any

import torch
from transformers import Trainer


class FiniteLossTrainer(Trainer):
    """A [`~transformers.Trainer`] that stops at a loss that is NaN or infinite."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One batch, forward and backward.

        Raises:
            ValueError: If the loss is NaN or infinite. The weights are those before this step.
        """
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss).all():
            precision = " Train with bf16=True in place of fp16=True." if self.args.fp16 else ""
            raise ValueError(
                f"The loss is {loss.item()} after {self.state.global_step} steps, so training has stopped.{precision} "
                f"A lower learning_rate (it is {self.args.learning_rate:g}) or more warmup_steps may help."
            )
        return loss


__all__ = ["FiniteLossTrainer"]
