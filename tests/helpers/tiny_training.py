"""A training of one weight, to see what callbacks do."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader


class Line(LightningModule):
    """One weight that follows its inputs; ``val/loss`` is what ``losses`` says of each epoch."""

    def __init__(self, losses=(3.0, 1.0, 2.0)):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False).double()
        torch.nn.init.zeros_(self.model.weight)
        self.losses, self.seen = losses, []
        self.higher_is_better, self.criteria = {"val/loss": False}, {"val/loss": "min"}

    def training_step(self, batch, _):
        return (self.model(batch["x"]) - batch["x"]).square().mean()

    def on_train_batch_end(self, *_):
        self.seen.append(self.model.weight.detach().clone())

    def validation_step(self, batch, _):
        self.log("val/loss", torch.tensor(self.losses[self.current_epoch]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)


def rows(count=12, batch_size=4):
    """Batches as those of pairs: ``row``, and one number each."""
    items = [{"row": row, "x": torch.tensor([1.0 + row % 3], dtype=torch.float64)} for row in range(count)]
    return DataLoader(items, batch_size)


def train(module, folder, *callbacks, epochs=3, **options):
    """Fit it, quietly, and return the trainer."""
    checkpoints = any(isinstance(callback, Checkpoint) for callback in callbacks)
    trainer = Trainer(
        max_epochs=epochs, default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        enable_checkpointing=checkpoints,
        **options,
    )  # fmt: skip
    trainer.fit(module, rows(), rows(4))
    return trainer
