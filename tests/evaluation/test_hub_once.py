"""Out of reach of the hub: it is asked once per model, however many data sets a suite has, and never for a path."""

import huggingface_hub
import pytest
import transformers

from modiste.cli import main


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The names that a hub out of reach is asked for."""
    names = []

    def offline(name, *_, **__):
        names.append(name)
        raise OSError("We couldn't connect to the hub to load the files, and couldn't find them in the cached files.")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **_: offline(name))
    for part in (transformers.AutoConfig, transformers.AutoModel):
        monkeypatch.setattr(part, "from_pretrained", offline)
    monkeypatch.chdir(tmp_path)
    return names


def test_a_suite_asks_for_its_model_once(asked, capsys):
    assert main(["evaluate", "model=fashionclip_2", "suite=fashionclip_2022"]) == 1
    assert asked == ["patrickjohncyh/fashion-clip"]
    said = capsys.readouterr().err
    assert said.count("hf download patrickjohncyh/fashion-clip") == 1
    assert said.count("Error") == 1


@pytest.mark.parametrize("source", ["./nope", "/no/such/folder", "models/nope/deep", "'~/nope'"])
def test_what_looks_like_a_path_is_never_asked_for(source, asked, capsys):
    assert main(["evaluate", "model=pretrained", f"model.source={source}", "data=synthetic"]) == 1
    assert asked == []
    assert "does not exist" in capsys.readouterr().err
