"""The command line: what it answers at once, what it says of mistakes, and how a job is started."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

import modiste.commands
from modiste import __version__, config
from modiste.cli import main, outline
from modiste.cli.call import Call
from modiste.cli.completion import completions
from modiste.config import paths
from modiste.config.comments import head, summary
from modiste.errors import ModisteError

HEAVY = ("torch", "lightning", "transformers", "datasets", "timm", "matplotlib", "pandas", "sklearn")
SEW = '''"""`modiste sew cloth=linen`: sew a suit."""
import json, os, sys
from omegaconf import OmegaConf
from modiste.errors import ModisteError

def run(cfg):
    plain = OmegaConf.to_container(cfg, resolve=True)
    with open(cfg.log, "a") as log:
        print(json.dumps({"cfg": plain, "argv": sys.argv[1:], "out": cfg.out}), file=log)
    if cfg.seed == 7:
        raise ModisteError("seven is unlucky")
    if cfg.seed == 8:
        raise RuntimeError("the needle broke")
    if cfg.seed == 9:
        raise KeyboardInterrupt
    if cfg.seed == 10:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    if cfg.seed == 11:
        sys.exit(3)
    return 1.0
'''
FILES = {
    "commands/__init__.py": "",
    "commands/sew.py": SEW,
    "commands/measure.py": '"""Compare suits."""\nimport json\n\ndef run(cfg): print(json.dumps(list(cfg.sources)))\n',
    "conf/sew.yaml": """\
# Sew a suit
# modiste sew -m cloth=linen,wool
defaults:
  - cloth: wool     # what it is made of
  - extras: [lace]  # what is on it
  - recipe: null
  - _self_

seed: 0             # decides the pattern
title: x
swift: true
out: ${hydra:runtime.output_dir}
log: log.jsonl
init: null
resume: null
continue: null

hydra:
  run: {dir: "suits/${now:%H-%M-%S-%f}"}
  sweep: {dir: suits, subdir: "${hydra.job.num}"}
  job_logging: {root: {handlers: []}}
  hydra_logging: {root: {handlers: []}}
""",
    "conf/measure.yaml": "# Compare suits\nsources: []\nunit: cm\nhydra: {run: {dir: .}, output_subdir: null}\n",
    "conf/cloth/wool.yaml": """\
# Warm
weight: 3
yarn: {ply: 2}   # of two threads, or more: the wool is spun
#   in the house and keeps its colour even when it is washed
""",
    "conf/cloth/linen.yaml": "# Cool\nweight: 2\n",
    "conf/cloth/due.yaml": "# Not chosen yet\nweight: ???\n",
    "conf/cloth/_base.yaml": "# Private\nweight: 1\n",
    "conf/cloth/dye/red.yaml": "# Red\nname: red\n",
    "conf/extras/lace.yaml": "lace: {price: 1}\n",
    "conf/extras/buttons.yaml": "buttons: {price: 2}\n",
    "conf/recipe/summer.yaml": "# @package _global_\n# Summer\ndefaults: [{override /cloth: linen}]\nseed: 5\n",
}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A tailor's shop with the commands sew and measure, and a working directory."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(outline, "COMMANDS", tmp_path / "commands")
    monkeypatch.setattr(paths, "config_dir", lambda: tmp_path / "conf")
    monkeypatch.setattr(modiste.commands, "__path__", [str(tmp_path / "commands")])
    monkeypatch.chdir(tmp_path)
    for name in ("HYDRA_FULL_ERROR", "MODISTE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for name in ("sew", "measure"):
        sys.modules.pop(f"modiste.commands.{name}", None)


def jobs(shop):
    """What the jobs of sew were given, in order."""
    log = shop / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


# ------------------------------------------------------------------------------------------------- answered at once


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["--completion", "bash"], 0),
        (["train", "--help"], 0),
        (["trian"], 2),
        (["train", "lss=clip"], 2),
        (["train", "loss=siglop"], 2),
        (["train", "--cfg", "job"], 0),
        (["-sc", "query=bash"], 0),
        (["index", "out=shop.index"], 2),
        (["export", "run=runs/gone"], 2),
        (["merge", "first=runs/a"], 2),
        (["search", "red shoes"], 2),
        (["serve"], 1),
        (["push", "folder=export"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers_at_once_without_a_heavy_import(argv, code, tmp_path):
    script = (
        "import sys, time; from modiste.cli import main; code = main(sys.argv[1:]); "
        f"heavy = [name for name in {HEAVY} if name in sys.modules]; "
        "print('REPORT', code, heavy, time.process_time() < 1.5)"
    )
    environment = {**os.environ, "COMP_LINE": "modiste train loss.", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.splitlines()[-1] == f"REPORT {code} [] True"
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_command_has_a_config_of_its_name_and_a_line_of_help():
    assert set(outline.commands()) <= {file.stem for file in config.config_dir().glob("*.yaml")}
    assert all(len(line) > 10 and "modiste " not in line for line in outline.commands().values())


def test_help_lists_the_commands_and_no_arguments_at_all_is_a_mistake(shop, capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  measure  Compare suits$", out, re.M)
    assert re.search(r"^  sew      Sew a suit$", out, re.M)
    assert main([]) == 2
    assert capsys.readouterr().out == out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"modiste {__version__}\n"


def test_help_of_a_command_lists_groups_options_keys_and_examples(shop, capsys):
    assert main(["sew", "--help"]) == 0
    out = capsys.readouterr().out
    for line in (
        r"cloth=  what it is made of",
        r"    linen  Cool",
        r"  \* wool   Warm",
        r"cloth/dye=",
        r"    red  Red",
        r"  \* lace",
        r"    summer  Summer",
        r"    seed=0 +decides the pattern",
        r"    cloth.yarn. +of two threads, or more: the wool is spun in .*",
        r" +.*even when it is washed",
        r"    cloth.yarn.ply=2",
        r"  modiste sew cloth=linen",
        r"  modiste sew -m cloth=linen,wool",
    ):
        assert re.search(rf"^{line}$", out, re.M), line
    assert "_base" not in out
    assert out.index("extras=") < out.index("recipe=")


def test_help_shows_the_users_own_options(shop, capsys):
    (shop / "mine/cloth").mkdir(parents=True)
    (shop / "mine/cloth/silk.yaml").write_text("# Mine\nweight: 1\n")
    assert main(["sew", "--help", "--config-dir", "mine"]) == 0
    assert re.search(r"^    silk   Mine$", capsys.readouterr().out, re.M)


def test_help_of_an_option_ends_with_a_sentence():
    files = [file for options in config.list_groups([config.config_dir()]).values() for file in options.values()]
    assert len(files) > 80
    for file in files:
        text, header = summary(file), " ".join(" ".join(head(file)).split())
        rest = header.removeprefix(text).strip()
        assert text.endswith(".") or not rest or rest.startswith("modiste "), f"{file}: {text}"
        assert text.count("(") == text.count(")"), f"{file}: {text}"
        assert text[-1] not in ",:;", f"{file}: {text}"


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("swe", ["'swe'", "Did you mean 'sew'?"]),
        ("sew clth=wool", ["Did you mean 'cloth'?"]),
        ("sew cloth=linnen", ["Did you mean 'linen'?"]),
        ("sew +cloth/dye=read", ["Did you mean 'red'?"]),
        ("sew cloth.wieght=1", ["Did you mean 'cloth.weight'?"]),
        ("sew --mutirun", ["Did you mean '--multirun'?"]),
        ("sew cloth", ["'cloth' is not an override", "write cloth=…"]),
        ("sew seed", ["write seed=…"]),
        ("sew --cloth wool", ["write cloth=wool"]),
        ("sew epochs=1", ["write trainer.max_epochs=1"]),
        ("sew --seed 3", ["write seed=3"]),
        ("sew --cloth.weight=3", ["write cloth.weight=3"]),
        ("measure --seed 3", ["unrecognized arguments: --seed"]),
        ("sew --multirun=3", ["ignored explicit argument '3'. See modiste sew --help"]),
        ("sew +clth.weight=1", ["Nothing uses the key 'clth'", "Did you mean 'cloth'?"]),
        ("sew seed=-1", ["'seed' is -1: it takes a whole number"]),
        ("sew init=nope", ["no run directory nope"]),
        ("sew seed=1,2", ["add -m"]),
        ("sew title=(", ["quote it"]),
        ("sew title=${nowhere}", ["no 'nowhere'"]),
        ("sew cloth=due", ["'cloth.weight' has no value"]),
        ("sew --config-dir nope", ["folder 'nope' does not exist"]),
        ("sew -cp nope", ["folder 'nope' does not exist"]),
        ("sew -m resume=a,b", ["one run directory"]),
        ("sew -cn swe", ["Did you mean 'sew'?"]),
        ("sew -m seed=1,2 cloth=wool,lnen", ["Did you mean 'linen'?"]),
        ("sew -m seed=1,2 recipe=summer,sumer", ["Did you mean 'summer'?"]),
        ("sew -m cloth.wieght=1,2", ["Did you mean 'cloth.weight'?"]),
        ("sew +recipe=summer", ["recipe", "without the +"]),
        ("sew cloth/dye=red", ["+cloth/dye="]),
        ("sew -m --cfg job", ["exclude each other"]),
        ("sew --resolve", ["--cfg"]),
        ("sew resume=nope", ["nope"]),
        ("sew continue=conf", ["conf is not a run directory"]),
        ("measure units=cm", ["Did you mean 'unit'?"]),
        ("--completion tcsh", ["'tcsh'", "bash, fish, zsh"]),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(shop, capsys, line, parts):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"Error: .*\n", err), err
    assert all(part in err for part in parts), err
    assert jobs(shop) == []
    assert not (shop / "suits").exists()


def test_a_missing_value_does_not_keep_the_config_from_being_shown(shop, capsys):
    assert main(["sew", "cloth=due", "--cfg", "job"]) == 0
    assert "weight: ???" in capsys.readouterr().out


def test_a_users_mistake_inside_a_command_is_one_line_and_exit_code_1(shop, capsys):
    assert main(["sew", "seed=7"]) == 1
    assert capsys.readouterr().err == "Error: seven is unlucky\n"


@pytest.mark.parametrize("variable", ["MODISTE_DEBUG", "HYDRA_FULL_ERROR"])
def test_debugging_shows_the_traceback_of_a_users_mistake(shop, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ModisteError, match="unlucky"):
        main(["sew", "seed=7"])
    with pytest.raises(ModisteError, match="linen"):
        main(["sew", "cloth=linnen"])


def test_other_exceptions_keep_their_traceback_and_the_environment_is_as_it_was(shop):
    before = sys.argv
    with pytest.raises(RuntimeError, match="needle"):
        main(["sew", "seed=8"])
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert sys.argv is before


def test_an_interrupt_is_one_sentence_also_when_lightning_made_an_exit_of_it(shop, capsys):
    for seed in (9, 10):
        assert main(["sew", f"seed={seed}"]) == 130
        assert capsys.readouterr().err.strip() == "Interrupted: run the same command again."
    with pytest.raises(SystemExit) as stop:
        main(["sew", "seed=11"])
    assert stop.value.code == 3


# -------------------------------------------------------------------------------------------------------------- jobs


def test_a_job_runs_in_its_own_directory(shop):
    assert main(["sew", "cloth=linen", "seed=3"]) == 0
    (job,) = jobs(shop)
    assert job["cfg"]["cloth"] == {"weight": 2}
    assert job["cfg"]["seed"] == 3
    assert (Path(job["out"]) / ".hydra/overrides.yaml").is_file()


@pytest.mark.parametrize("quoted", ["~/{}", '"~/{}"', "'~/{}'"])
def test_a_path_below_the_home_folder_is_there_and_makes_no_folder_named_tilde(shop, monkeypatch, quoted):
    monkeypatch.setenv("HOME", str(shop / "my home"))
    assert main(["sew", f"hydra.run.dir={quoted.format('a')}", f"title={quoted.format('b')}"]) == 0
    (job,) = jobs(shop)
    assert Path(job["out"]) == shop / "my home" / "a"
    assert job["cfg"]["title"] == str(shop / "my home" / "b")
    assert (shop / "my home" / "a").is_dir()
    assert not (shop / "~").exists()


def test_flags_and_overrides_in_any_order_and_a_sweep_over_groups_globs_and_values(shop):
    assert main(["sew", "seed=1,2", "-m", "cloth=glob(*n*)", "recipe=summer"]) == 0
    assert [(job["cfg"]["seed"], job["cfg"]["cloth"]["weight"]) for job in jobs(shop)] == [(1, 2), (2, 2)]


def test_a_failed_job_of_a_sweep_is_named(shop, capsys):
    assert main(["sew", "-m", "seed=6,7"]) == 1
    err = capsys.readouterr().err
    assert "seed=7" in err
    assert err.endswith("Error: seven is unlucky\n")


def test_a_job_can_be_started_again_from_its_own_arguments(shop):
    """Lightning starts the other processes of a multi-device run with sys.argv and hydra.run.dir."""
    mine = shop / "mine/cloth"
    mine.mkdir(parents=True)
    (mine / "silk.yaml").write_text("weight: 1\n")
    arguments = ["-m", "seed=1,2", "cloth=silk", "title='a, (b'", "--config-dir", "mine", "hydra.job.name=tailor"]
    assert main(["sew", *arguments]) == 0
    swept = jobs(shop)
    assert len(swept) == 2
    for job in swept:
        assert main([*job["argv"], f'hydra.run.dir="{job["out"]}"', "hydra.output_subdir=null"]) == 0
    assert [(job["cfg"], job["out"]) for job in jobs(shop)[2:]] == [(job["cfg"], job["out"]) for job in swept]


def test_the_users_own_groups(shop):
    (shop / "mine/cloth").mkdir(parents=True)
    (shop / "mine/cloth/silk.yaml").write_text("weight: 1\n")
    assert main(["sew", "cloth=silk", "--config-dir=mine"]) == 0
    assert jobs(shop)[0]["cfg"]["cloth"] == {"weight": 1}


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--cfg", "job", "-p", "cloth"], "weight: 3"),
        (["--cfg", "hydra"], "name: sew"),
        (["--cfg", "job", "--resolve", "out=x"], "out: x"),
        (["--info", "defaults"], "cloth/wool"),
        (["--hydra-help"], "Hydra"),
    ],
)
def test_hydras_own_flags(shop, capsys, argv, part):
    try:
        code = main(["sew", *argv])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert part in capsys.readouterr().out
    assert jobs(shop) == []


@pytest.mark.parametrize("command", outline.commands())
def test_a_flag_named_like_a_key_of_the_command_is_answered_with_the_override(command):
    found = outline.Outline.read([config.config_dir()], command)
    roots = ("log_dir", "data_dir") if "paths" in found.groups else ()
    for key in (*found.keys, *(group for group in found.groups if "/" not in group), *roots):
        for flag in ([f"--{key}=2"], [f"--{key.replace('_', '-')}=2"], [f"--{key}", "2"]):
            if flag != ["--run", "2"]:  # a flag of Hydra's
                with pytest.raises(ModisteError, match=rf"'{flag[0]}' is not a flag: write {key}=2\.$"):
                    Call.parse(command, flag)


# --------------------------------------------------------------------------------------------------------- arguments


def test_positional_arguments_are_paths_for_a_command_that_takes_paths(shop, capsys):
    names = ["plain", "a b, (c)=${d}", 'it\'s "odd"\\', "seed=3,lr=0.1"]
    for name in names:
        (shop / name).mkdir()
    assert main(["measure", *names, "absent/run", "unit=inch"]) == 0
    assert json.loads(capsys.readouterr().out) == [*names, "absent/run"]


def test_starting_points_can_be_swept(shop):
    for name in ("one", "two"):
        started(shop / name, [])
    assert main(["sew", "-m", "init=one,two"]) == 0
    assert [job["cfg"]["init"] for job in jobs(shop)] == ["one", "two"]


def test_another_root_and_another_folder_of_configs(shop):
    (shop / "other/cloth").mkdir(parents=True)
    (shop / "other/mend.yaml").write_text("seed: 2\nlog: log.jsonl\nout: x\nhydra: {run: {dir: out}}\n")
    assert main(["sew", "-cp", "other", "-cn", "mend"]) == 0
    assert jobs(shop)[0]["cfg"] == {"seed": 2, "log": "log.jsonl", "out": "x"}


def test_positional_arguments_elsewhere_are_a_mistake(shop, capsys):
    assert main(["sew", "plain"]) == 2
    assert "write key=value" in capsys.readouterr().err


def started(path, overrides):
    """A run directory that was started with ``overrides``."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 1\n")
    (path / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    return path


@pytest.mark.parametrize("name", ["suits/one", "suits/a (b), [c]={d} 'e' \"f\""])
def test_resume_begins_with_the_runs_own_overrides_and_continue_also_in_its_directory(shop, name):
    run = started(shop / name, ["cloth=linen", "seed=3", "init=old", "cloth.weight=9"])
    assert main(["sew", f"resume={name}", "seed=4"]) == 0
    assert main(["sew", f"continue={name}"]) == 0
    resumed, continued = jobs(shop)
    assert resumed["cfg"]["cloth"] == {"weight": 9}
    assert resumed["cfg"]["seed"] == 4
    assert resumed["cfg"]["init"] is None
    assert resumed["cfg"]["resume"] == name
    assert Path(resumed["out"]) != run
    assert continued["cfg"]["seed"] == 3
    assert Path(continued["out"]) == run


def test_a_group_that_is_replaced_takes_its_earlier_keys_with_it(shop):
    started(shop / "one", ["cloth=wool", "cloth.yarn.ply=5", "title=t", "cloth/dye=red"])
    assert main(["sew", "resume=one", "cloth=linen"]) == 0
    assert jobs(shop)[0]["cfg"]["cloth"] == {"weight": 2}
    assert jobs(shop)[0]["cfg"]["title"] == "t"


def test_a_run_that_cannot_be_continued_is_one_sentence(shop, capsys):
    started(shop / "one", [])
    (shop / "one/overrides.yaml").write_text("seed: 1\n")
    assert main(["sew", "continue=one"]) == 2
    assert "has no record of its overrides" in capsys.readouterr().err
    (shop / "one/overrides.yaml").write_text("- seed=1\n")
    assert main(["sew", "-m", "continue=one"]) == 2
    assert "remove -m" in capsys.readouterr().err


def test_a_path_that_is_there_is_quoted_and_the_name_of_a_run_always(shop):
    odd = "here (it) is, {x}"
    (shop / odd).mkdir()
    run = shop / "run (1)"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    with zipfile.ZipFile(run / "checkpoints" / "best.ckpt", "w"):
        pass
    assert main(["sew", f"title={odd}", "init=run (1)"]) == 0
    assert jobs(shop)[0]["cfg"]["title"] == odd
    assert jobs(shop)[0]["cfg"]["init"] == "run (1)"


# -------------------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("modiste ", ["measure", "sew", "--help", "--version", "--completion"]),
        ("modiste s", ["sew"]),
        ("modiste sew cl", ["cloth.", "cloth/dye=", "cloth="]),
        ("modiste sew cloth=", ["cloth=due", "cloth=linen", "cloth=wool"]),
        ("modiste sew +cloth=w", ["+cloth=wool"]),
        ("modiste sew cloth/dye=", ["cloth/dye=red"]),
        ("modiste sew cloth.", ["cloth.weight=", "cloth.yarn."]),
        ("modiste sew cloth=linen cloth.", ["cloth.weight="]),
        ("modiste sew cloth.yarn.p", ["cloth.yarn.ply="]),
        ("modiste sew extras=[lace,b", ["extras=[lace,buttons"]),
        ("modiste sew -m cloth=linen,w", ["cloth=linen,wool"]),
        ("modiste sew --mu", ["--multirun"]),
        ("modiste sew resume=", []),
        ("modiste sew seed=", ["seed=0"]),
        ("modiste sew swift=", ["swift=false", "swift=true"]),
        ("modiste swe x", []),
        ("modiste sew cloth=broken x", []),
    ],
)
def test_completion(shop, line, replies):
    assert sorted(completions(line)) == sorted(replies)


def program(folder):
    """A program `modiste`, and the environment in which a shell finds it."""
    path = folder / "bin/modiste"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom modiste.cli import main\nsys.exit(main())\n")
    path.chmod(0o755)
    return {**os.environ, "PATH": f"{path.parent}{os.pathsep}{os.environ['PATH']}"}


def shell(words, folder):
    """The lines that a shell prints."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"the shell {words[0]} is not installed: apt-get install {words[0]}")
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=program(folder))
    return done.stdout.splitlines()


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_installing_completion_leaves_the_process_its_arguments(monkeypatch, capsys, action):
    monkeypatch.setattr(sys, "argv", ["program", "given"])
    assert main(["-sc", f"{action}=bash"]) == 0
    assert "modiste" in capsys.readouterr().out
    assert sys.argv == ["program", "given"]


@pytest.mark.parametrize("install", ["modiste --completion bash", "modiste train --shell-completion install=bash"])
def test_completion_in_bash(tmp_path, install):
    script = f"""
        eval "$({install})"
        complete -p modiste
        ask() {{ COMP_LINE=$1 COMP_POINT=$2 COMP_CWORD=$3; hydra_bash_completion; echo "${{COMPREPLY[@]}}"; }}
        ask 'modiste train loss=' 19 2
        ask 'modiste train los seed=1' 17 2
        ask 'modiste train grad_cache.mi' 27 2
    """
    registered, options, group, nested = shell(["bash", "--norc", "-c", script], tmp_path)
    assert registered.endswith("-F hydra_bash_completion modiste")
    assert options.split() == [f"loss={option}" for option in config.list_groups([config.config_dir()])["loss"]]
    assert group.split() == ["loss.", "loss="]
    assert nested.split() == ["grad_cache.micro_batch="]


def test_completion_in_fish(tmp_path):
    script = "modiste --completion fish | source; complete -C 'modiste train loss=s'; complete -C 'modiste tra'"
    assert shell(["fish", "--no-config", "-c", script], tmp_path) == ["loss=siglip", "train"]


def test_completion_in_zsh(tmp_path):
    """Zsh completes only where it has a terminal."""
    script = """
        zmodload zsh/zpty; zpty shell zsh -f -i
        zpty -w shell 'eval "$(modiste --completion zsh)"; echo re""ady'
        zpty -r -m shell line '*ready*'
        zpty -w -n shell $'modiste train loss=sig\t'
        zpty -r -m shell line '*loss=siglip*'; print found
    """
    assert shell(["zsh", "-f", "-c", script], tmp_path)[-1:] == ["found"]


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_is_uninstalled_by_hydras_script(name, capsys):
    assert main(["--shell-completion", f"uninstall={name}"]) == 0
    assert ("complete -e -c modiste" if name == "fish" else "complete -r modiste") in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------- nothing is ignored


def test_a_key_of_a_recipe_that_nothing_uses_names_file_and_nearest_key(shop, capsys):
    (shop / "mine/recipe").mkdir(parents=True)
    (shop / "mine/recipe/mine.yaml").write_text("# @package _global_\n# Mine\nclooth: {weight: 3}\n")
    assert main(["sew", "recipe=mine", "--config-dir", "mine"]) == 2
    err = capsys.readouterr().err
    assert "recipe/mine.yaml" in err
    assert "'clooth'" in err
    assert "Did you mean 'cloth'?" in err


def test_a_recipe_of_train_without_its_package_line_is_refused(tmp_path, capsys):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# Mine\nname: mine\ntrainer: {max_epochs: 1}\n")
    assert main(["train", "experiment=mine", "--config-dir", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "mine.yaml would set nothing" in err
    assert "# @package _global_" in err


def test_the_users_local_settings_are_merged_by_every_command(tmp_path, capsys):
    (tmp_path / "local").mkdir()
    (tmp_path / "local/default.yaml").write_text("# @package _global_\n# This machine\nlog_dir: /scratch/runs\n")
    assert main(["evaluate", "--config-dir", str(tmp_path), "--cfg", "job"]) == 0
    assert "log_dir: /scratch/runs" in capsys.readouterr().out
    assert main(["train", "local=absent"]) == 2
    assert "no option 'absent' in the group local" in capsys.readouterr().err


def test_a_command_leaves_nothing_of_hydras_for_what_is_composed_next(shop):
    before = HydraConfig.instance().cfg
    assert main(["sew"]) == 0
    assert HydraConfig.instance().cfg is before


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux has a file system that refuses all files so")
def test_a_run_directory_that_the_system_refuses_is_one_sentence(capsys):
    assert main(["data", "hydra.run.dir=/proc/x"]) == 1
    assert capsys.readouterr().err == (
        "Error: '/proc/x' cannot be created: No such file or directory: choose another directory (hydra.run.dir=DIR).\n"
    )


@pytest.mark.parametrize("elsewhere", ["hydra.run.dir=ev", "run_dir=ev"])
def test_evaluate_does_not_ignore_where_a_runs_results_should_go(elsewhere, tmp_path, monkeypatch, capsys):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.yaml").write_text("name: base")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "run=base", elsewhere]) == 2
    error = capsys.readouterr().err
    assert f"Results of run=base are written to the run's directory: remove {elsewhere}." in error
    assert not (tmp_path / "ev").exists()
