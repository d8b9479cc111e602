"""The model of an index, which may be somebody else's."""

import pytest

from modiste.errors import ModisteError
from modiste.search.encoder import Encoder


def test_the_configuration_of_a_strangers_index_is_data(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    (tmp_path / "config.yaml").write_text(
        "name: a\nfingerprint: f\ntune: {}\nmodel: {_target_: modiste.models.two_tower, x: '${oc.env:SECRET_TOKEN}'}\n"
    )
    with pytest.raises(ModisteError, match=r"'model\.x' calls a resolver") as refused:
        Encoder(tmp_path).model  # noqa: B018
    assert "hunter2" not in str(refused.value)


def test_a_damaged_configuration_is_one_sentence(tmp_path):
    (tmp_path / "config.yaml").write_text("name: a\n")
    with pytest.raises(ModisteError, match="has no 'model'"):
        Encoder(tmp_path).model  # noqa: B018
