"""The moving average is that of a loop, is what validation sees, and leaves training alone."""

import pytest
import torch

from helpers.tiny_training import Line, train
from modiste.training.callbacks import EMA


class Watched(Line):
    """Remembers the weight at every validation."""

    def __init__(self):
        super().__init__()
        self.validated = []

    def validation_step(self, batch, index):
        super().validation_step(batch, index)
        self.validated.append(self.model.weight.detach().clone())


@pytest.mark.parametrize("decay", [0.999, 0.2])
def test_validation_sees_the_average_of_a_loop_in_float64(tmp_path, decay):
    averaged, plain = Watched(), Watched()
    train(averaged, tmp_path, EMA(decay))
    train(plain, tmp_path)
    torch.testing.assert_close(torch.stack(averaged.seen), torch.stack(plain.seen), rtol=0, atol=0)
    average, wanted = torch.zeros(1, 1, dtype=torch.float64), []
    for n, weight in enumerate(plain.seen):
        # The first update copies the weights, as in torch.optim.swa_utils.
        step = 1 - min(decay, (1 + n) / (10 + n)) if n else 1.0
        average = average + step * (weight - average)
        wanted += [average] if n % 3 == 2 else []
    torch.testing.assert_close(torch.stack(averaged.validated), torch.stack(wanted), rtol=1e-12, atol=1e-12)
    assert not torch.equal(averaged.validated[0], plain.validated[0])
