"""Stored configurations of earlier versions: classes and keys have their present names."""

from modiste.config import load_config
from modiste.config.aliases import rename_keys

STORED = """
data:
  prepared: ready
  batches: {alike: colour, run: 4, guard: 0.9, one_per_product: true}
transfer:
  other: {data.prepared: other, split: val}
grad_cache: {micro_batch: 8, keep: 2}
loss:
  _target_: modiste.losses.matryoshka.MatryoshkaLoss
  inner: {_target_: modiste.losses.clip.ClipLoss, keep: 16, products: bfloat16}
name: x
"""


def test_a_run_of_an_earlier_version_has_todays_keys(tmp_path):
    (tmp_path / "config.yaml").write_text(STORED)
    config = load_config(tmp_path / "config.yaml")
    assert config.data.batches == {
        "group_by": "colour", "group_size": 4, "false_negative_margin": 0.9, "one_per_product": True,
    }  # fmt: skip
    assert config.data.preprocessed == "ready"
    assert "prepared" not in config.data
    assert config.grad_cache == {"micro_batch": 8, "kept_micro_batches": 2}
    assert {"logits_cache_mib": 16, "matmul_dtype": "bfloat16"}.items() <= dict(config.loss.inner).items()
    assert config.transfer.other == {"data.preprocessed": "other", "split": "val"}


def test_todays_configuration_stays_as_it_is():
    config = {"data": {"preprocessed": None, "batches": {"group_size": 16}}, "name": "${data.preprocessed}"}
    assert rename_keys(config) == config
    assert rename_keys({"data": "x"}) == {"data": "x"}
    others = {"loss": {"_target_": "mine.Loss", "keep": 3}}
    assert rename_keys(others) == others
