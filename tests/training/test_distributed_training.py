"""Two processes train to what one process trains to with the same global batch."""

import pytest
import torch

import modiste as package
from helpers.commands import TINY, modiste

pytestmark = pytest.mark.slow

# No batch normalisation: its statistics are each process's own.
SAME = [*TINY, "image.name=test_vit", "trainer.max_epochs=2", "optim.optimizer._target_=torch.optim.SGD"]
SAME += ["~optim.optimizer.betas", "~optim.optimizer.eps", "optim.lr=0.1"]


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same_weights(first, second):
    """The last weights of a run, which are those of another."""
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    return one


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_two_gloo_processes_equal_one(loss, tmp_path):
    for trainer in ("cpu", "ddp_cpu"):
        run = modiste("train", *SAME, f"trainer={trainer}", f"loss={loss}", f"hydra.run.dir={trainer}", cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
    assert "sync_dist=True" not in run.stdout + run.stderr, "Lightning warns of a metric of one process"
    one = same_weights(tmp_path / "cpu", tmp_path / "ddp_cpu")
    start = modiste("train", *SAME, "optim.lr=1e-12", f"loss={loss}", "hydra.run.dir=start", cwd=tmp_path)
    assert start.returncode == 0, start.stdout + start.stderr
    still = weights(tmp_path / "start")
    moved = [float((one[name] - still[name]).abs().max()) for name in one if one[name].is_floating_point()]
    assert max(moved) > 100 * 2e-5, "training moved nothing, the comparison says nothing"


def test_two_processes_that_share_the_weights_equal_one(tmp_path):
    """FSDP2; its checkpoint is that of a single process, and is loaded as such."""
    for trainer in ("cpu", "fsdp_cpu"):
        words = [f"trainer={trainer}", "trainer.gradient_clip_val=null", f"hydra.run.dir={trainer}"]
        run = modiste("train", *SAME, *words, cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
    same_weights(tmp_path / "cpu", tmp_path / "fsdp_cpu")
    assert package.load(str(tmp_path / "fsdp_cpu")).model.embed_dim == 32
