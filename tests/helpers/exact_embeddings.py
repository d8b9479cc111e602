"""Embeddings whose scores have no rounding errors."""

import torch


def integers(*shape, low=-2, high=3, seed=0):
    """Embeddings whose dot products are exact in float32, in any order of summation, and often tie."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).float()
