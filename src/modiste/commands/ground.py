"""Find phrases on a photo: modiste ground RUN photo.jpg collar sleeves"""

from __future__ import annotations

from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Draw the heat maps, and print each phrase's location and what is known about the model's grounding."""
    from modiste.evaluation.ground import ground_config

    done = ground_config(cfg)
    width = max(map(len, done.found))
    for phrase, one in done.found.items():
        left, top, right, bottom = one.box
        print(f"{phrase:{width}}  {one.place:12}  box {left},{top} to {right},{bottom}  score {one.score:.3f}")
    print("\n" + "\n".join(done.known))
    print(f"Picture: {done.picture}")
