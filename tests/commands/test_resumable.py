"""Commands that keep what is finished end with one sentence and exit code 130 on Ctrl-C."""

import pytest
from omegaconf import OmegaConf

from modiste.commands import embed, merge, prepare


@pytest.mark.parametrize(
    ("command", "called", "kept"),
    [
        (prepare, "modiste.data.prepare.prepare_config", "shards"),
        (embed, "modiste.embedding.api.embed_config", "shards"),
        (merge, "modiste.evaluation.merge.merge_config", "alphas"),
    ],
)
def test_ctrl_c_says_how_to_resume(command, called, kept, monkeypatch, capsys):
    def interrupted(cfg, line):
        raise KeyboardInterrupt

    monkeypatch.setattr(called, interrupted)
    with pytest.raises(SystemExit) as stop:
        command.run(OmegaConf.create())
    assert stop.value.code == 130
    assert capsys.readouterr().err == f"\nInterrupted; finished {kept} are kept. Resume with the same command.\n"
