"""Rows 1 to 4: memory and time of the contrastive losses, forward and backward, against open_clip's."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import harness
import torch
from harness import Row, Work
from torch.nn import functional as F

D = 512
Loss = Any


def features(pairs: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit-norm image and text features (N, 512) that agree a little, as in training, and the scale 100."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(pairs, D, generator=generator)
    text = F.normalize(image + 4 * torch.randn(pairs, D, generator=generator), dim=-1)
    return (
        F.normalize(image, dim=-1).to(dtype).requires_grad_(),
        text.to(dtype).requires_grad_(),
        torch.tensor(100.0, dtype=dtype).requires_grad_(),
    )


def ours(kind: str, pairs: int, **options: Any) -> Work:
    """A forward and a backward pass of our loss at N = ``pairs``."""
    from modiste.losses.clip import ClipLoss
    from modiste.losses.siglip import SigLipLoss

    loss = {"clip": ClipLoss, "siglip": SigLipLoss}[kind](**options)
    image, text, _ = features(pairs)
    product = torch.arange(pairs)
    return functools.partial(_step, image, text, lambda: loss(image, text, product))


def peer(kind: str, pairs: int) -> Work:
    """The same of open_clip's."""
    from open_clip.loss import ClipLoss, SigLipLoss

    image, text, scale = features(pairs)
    if kind == "clip":
        clip = ClipLoss()
        return functools.partial(_step, image, text, lambda: clip(image, text, scale))
    siglip = SigLipLoss(**_chunks())
    bias = torch.tensor(-10.0).requires_grad_()
    return functools.partial(_step, image, text, lambda: siglip(image, text, scale, bias))


def _chunks() -> dict[str, int]:
    """``chunk_size=1024`` where this version of open_clip has it."""
    import inspect

    from open_clip.loss import SigLipLoss

    return {"chunk_size": 1024} if "chunk_size" in inspect.signature(SigLipLoss).parameters else {}


def _step(image: torch.Tensor, text: torch.Tensor, loss: Any) -> None:
    image.grad = text.grad = None
    loss().backward()


def error(pairs: int = 2048) -> tuple[float, float]:
    """Largest relative error of the gradients at scale 100 to those in float64: ours, open_clip's."""
    from open_clip.loss import ClipLoss as Peer

    from modiste.losses.clip import ClipLoss

    exact = features(pairs, torch.float64)
    Peer()(exact[0], exact[1], exact[2]).backward()
    image, text, _ = features(pairs)
    loss = ClipLoss(init_scale=100.0)
    loss.initialise(None, None, pairs)
    loss(image, text, torch.arange(pairs)).backward()
    theirs = features(pairs)
    Peer()(theirs[0], theirs[1], theirs[2]).backward()
    return _distance((image, text), exact), _distance(theirs[:2], exact)


def _distance(found: Any, exact: Any) -> float:
    return max(float((a.grad.double() - b.grad).norm() / b.grad.norm()) for a, b in zip(found, exact, strict=False))


def rows(quick: bool) -> Iterator[Row]:
    """Memory and time at N = 8,192 and 32,768."""
    small, large = (512, 1024) if quick else (8192, 32768)
    if harness.wanted(1):
        mine, theirs = error(256 if quick else 2048)
        exact = f"gradients against float64 at scale 100: {mine:.1e} (open_clip's {theirs:.1e})"
        yield _memory(1, "clip", small, (6, 9), exact)
        yield _time(1, "clip", small, 5, (None, None), "no target for time at this size")
    if harness.wanted(2):
        yield _memory(2, "clip", large, (40, 60))
        yield _time(2, "clip", large, 1, (2, 3.5), "one round")
    if harness.wanted(3):
        yield _reduced(small)
    if harness.wanted(4):
        chunked = f"open_clip SigLipLoss({', '.join(f'{k}={v}' for k, v in _chunks().items())})"
        yield _memory(4, "siglip", large, (5, 9), peer_name=chunked)
        yield _time(4, "siglip", small, 3, (None, None), "no target for time", peer_name=chunked)


def _memory(number: int, kind: str, pairs: int, targets: tuple, note: str = "", peer_name: str = "") -> Row:
    rounds = 1 if pairs > 10_000 else 3
    a = harness.peak_mib(__file__, f"ours_{kind}", rounds, pairs=pairs)
    b = harness.peak_mib(__file__, f"peer_{kind}", rounds, pairs=pairs)
    return Row(
        number, _what(kind, pairs), peer_name or "open_clip ClipLoss", "memory", a, b, "MiB", b / a, *targets, note
    )


def _time(number: int, kind: str, pairs: int, rounds: int, targets: tuple, note: str, peer_name: str = "") -> Row:
    warm_up = 0 if rounds == 1 else 1
    a, b, ratio = harness.interleave(ours(kind, pairs), peer(kind, pairs), rounds, warm_up)
    return Row(number, _what(kind, pairs), peer_name or "open_clip ClipLoss", "time", a, b, "s", ratio, *targets, note)


def _reduced(pairs: int) -> Row:
    from modiste.losses.matmul import has_bfloat16

    a, b, ratio = harness.interleave(
        ours("clip", pairs, matmul_dtype="bfloat16", logits_cache_mib=256), peer("clip", pairs), 3
    )
    note = "bf16 matmul inputs, fp32 logits, of which 256 MiB are kept for the backward pass; peer in fp32"
    if not has_bfloat16("cpu"):
        note = (
            "this processor has no bfloat16 units: the option says so and stays in float32, which is what is measured"
        )
    what = f"clip loss, forward and backward, N = {pairs:,}, D = {D}, matmul_dtype=bfloat16 logits_cache_mib=256"
    return Row(3, what, "open_clip ClipLoss", "time", a, b, "s", ratio, 3, 8, note)


def _what(kind: str, pairs: int) -> str:
    return f"{kind} loss, forward and backward, N = {pairs:,}, D = {D}, fp32"


CASES = {
    "ours_clip": functools.partial(ours, "clip"),
    "peer_clip": functools.partial(peer, "clip"),
    "ours_siglip": functools.partial(ours, "siglip"),
    "peer_siglip": functools.partial(peer, "siglip"),
}

if __name__ == "__main__":
    harness.main(__file__, rows, CASES)
