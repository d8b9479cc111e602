"""What a file of somebody else's says is data: no resolver, no key of Hydra's, no code."""

import contextlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import modiste
from helpers.linear import assert_linear
from modiste.config import compose, load_config, load_overrides, load_run_config
from modiste.config.inherit import from_run
from modiste.config.invocation import given
from modiste.config.overrides import as_overrides, parse
from modiste.config.quoting import quote
from modiste.config.signatures import Unknown, signature
from modiste.config.stored import check_overrides, literal
from modiste.data.argument import entry_overrides
from modiste.errors import ModisteError
from modiste.training.validation_sets import validation_specs


def written(folder, text, name="config.yaml"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_resolved_config_comes_back_value_by_value_under_present_names(tmp_path):
    plain = {
        "data": {"catalogue": {"_target_": "modiste.data.kagl.Kagl"}, "limit": None, "lr": 1e-6},
        "templates": ["{text}", "costs \\${price}", "a\\b"],
        "on": True,
    }
    OmegaConf.save(OmegaConf.create(plain), tmp_path / "config.yaml")
    config = load_config(tmp_path / "config.yaml", required=["data"])
    assert config.data.catalogue._target_ == "modiste.data.datasets.kagl.Kagl"
    assert OmegaConf.to_container(config, resolve=True)["data"]["lr"] == 1e-6
    assert config.on is True


def test_what_looks_like_an_interpolation_stays_text(tmp_path):
    config = load_config(written(tmp_path, "seed: 7\nname: '${seed}'\nlist: ['a ${seed} b', '\\${seed}']\n"))
    assert config.name == "${seed}"
    assert list(config.list) == ["a ${seed} b", "\\${seed}"]
    assert OmegaConf.to_container(config, resolve=True)["name"] == "${seed}"


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:SECRET}",
        "x ${oc.env:SECRET,y}",
        "${oc.decode:${oc.env:SECRET}}",
        "${hydra:runtime.cwd}",
        "${${a}:SECRET}",
        "${ oc.env : SECRET }",
        "${run_or:a,b}",
        "\\\\${oc.env:SECRET}",
    ],
)
def test_a_stored_config_may_not_call_a_resolver(tmp_path, monkeypatch, value):
    monkeypatch.setenv("SECRET", "hunter2")
    path = written(tmp_path, OmegaConf.to_yaml(OmegaConf.create()))
    path.write_text(f"a: oc.env\ndeep: [{{name: '{value}'}}]\n")
    with pytest.raises(ModisteError, match="resolver") as caught:
        load_config(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "- 1", "x", "null", "a: 1\na: 2", "a: !!python/object/apply:os.system [id]", "a: &x [1]\nb: *x", "\0"],
)
def test_a_damaged_config_is_one_sentence(tmp_path, text):
    with pytest.raises(ModisteError) as caught:
        load_config(written(tmp_path, text))
    assert "config.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_of_something_else_names_what_it_lacks(tmp_path):
    with pytest.raises(ModisteError, match="no 'data'"):
        load_config(written(tmp_path, "name: x\n"), required=["name", "data"])
    with pytest.raises(ModisteError, match="does not exist"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x={_target_: torch.load}",
        "hydra.run.dir=/tmp",
        "++hydra.searchpath=[x]",
        "hydra/launcher=slurm",
        "+loss@hydra.callbacks=clip",
        "~hydra.callbacks",
        "--config-dir=evil",
        "-m",
        "--multirun",
        "seed",
        "name=${oc.env:SECRET}",
        "x={a: [1, '${oc.env:SECRET}']}",
        "name=$\\{oc.env\\:SECRET\\}",
        "name=\\${oc.env:SECRET}",
        "x={a: $\\{oc.env\\:SECRET\\}}",
        "/etc/passwd=1",
        "",
        7,
        None,
    ],
)
def test_overrides_of_a_file_are_plain_values_of_modistes_own_keys(tmp_path, override):
    with pytest.raises(ModisteError, match="refused"):
        check_overrides(["seed=1", override], "file")
    OmegaConf.save(OmegaConf.create(["seed=1", override]), written(tmp_path, "", "overrides.yaml"))
    with pytest.raises(ModisteError, match=r"overrides\.yaml.*refused"):
        load_overrides(tmp_path / "overrides.yaml")


@pytest.mark.parametrize(
    "key",
    [
        "hydra.searchpath", "+hydra.callbacks.x", "++hydra.run.dir", "hydra/launcher", "+loss@hydra.callbacks.x",
        "loss@x.hydra.y", "~hydra", "--config-dir", "-m", "", 7, "a b", "seed=1,x",
    ],
)  # fmt: skip
def test_keys_within_values_that_become_overrides_are_modistes_own(key):
    """Those of a sweep's space, of sets to validate on, of a suite, of a table to audit against."""
    for become in (as_overrides, entry_overrides):
        with pytest.raises(ModisteError, match="is not a key of Modiste's configuration"):
            become({"seed": 1, key: "x"})
    config = compose("train")
    OmegaConf.update(config, "transfer", {"x": {key: "y"}}, force_add=True)
    with pytest.raises(ModisteError, match="is not a key of Modiste's configuration"):
        validation_specs(config)


def test_usual_overrides_of_a_file_are_kept():
    kept = [
        "loss=siglip",
        "data/split=marqo",
        "+data.derive.kind=[{value: a}]",
        "++seed=1",
        "~term",
        "loss@loss.inner=siglip",
        "sweep.space={optim.lr: {low: 1e-4, high: 1e-2}}",
        "name='a (b) = c'",
        "data.captions.templates=['{text}']",
        "task=[retrieval,zeroshot]",
    ]
    assert check_overrides(kept, "file") == kept


def test_a_file_gives_no_leave_to_download():
    given = ["data.catalogue.download=true", "++data.catalogue.download=true", "name=download"]
    assert check_overrides(given, "file") == ["name=download"]
    with pytest.raises(ModisteError, match="may not permit downloads"):
        check_overrides(["data.catalogue={path: a.csv, download: true}"], "file")


@pytest.mark.parametrize("change", [{"model": 5}, {"data": None}, {"tune": {"image": "full"}}, {"seed": "x"}])
def test_the_configuration_of_a_run_has_values_of_the_right_types(tmp_path, change):
    good = {"name": "a", "seed": 0, "data": {"name": "d"}, "model": {}, "tune": {"image": {"train": "full"}}}
    OmegaConf.save(OmegaConf.create(good), tmp_path / "config.yaml")
    assert load_run_config(tmp_path / "config.yaml").name == "a"
    OmegaConf.save(OmegaConf.create(good | change), tmp_path / "config.yaml")
    with pytest.raises(ModisteError, match=r"config\.yaml is damaged: '(model|data|tune\.image|seed)' is"):
        load_run_config(tmp_path / "config.yaml")


def test_the_annotations_of_a_strangers_module_are_not_evaluated(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(
        "class Loss:\n    def __init__(self, x: [].__class__.__base__.__subclasses__()[0] = 1): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert signature("evil.Loss") is None
    monkeypatch.setenv("MODISTE_ALLOW", "evil")
    signature.cache_clear()
    assert signature("evil.Loss").parameters["x"].type is Unknown
    signature.cache_clear()


@pytest.mark.parametrize(
    "override",
    [
        "loss=../../../../../../../../proc/self/cwd/evil/x",
        "loss=/proc/self/cwd/evil/x",
        "loss='../x'",
        r"loss=\.\./x",
        "+loss@term=../x",
        "loss/../../evil=x",
        "callbacks=[default,../x]",
        "callbacks=[default,/x]",
        "experiment=demo/../../x",
        "data/split=${name}",
    ],
)
def test_no_option_leads_out_of_its_group(tmp_path, override):
    """Hydra reads whatever YAML a path leads to, and a YAML may name code to run in Hydra's own node."""
    with pytest.raises(ModisteError, match="leads out of the group"):
        compose("train", [override])


def test_an_option_of_a_folder_of_the_users_own_is_taken(tmp_path):
    written(tmp_path, "_target_: modiste.losses.clip.ClipLoss\n", "loss/mine.yaml")
    assert compose("train", ["loss=mine"], [tmp_path]).loss._target_ == "modiste.losses.clip.ClipLoss"


@pytest.mark.parametrize("unit", ["${", "\\", "=", "=download ", "download", "'\\"])
def test_no_value_of_a_file_takes_more_than_linear_time(unit):
    def read(text):
        with contextlib.suppress(ModisteError):
            check_overrides([text], "overrides.yaml")

    assert_linear(read, unit, "name=a")
    assert_linear(lambda text: literal({"name": f"{text}x"}, "config.yaml"), unit, "a")
    assert_linear(quote, unit, "a", "x")


@pytest.mark.parametrize("text", ["a\\", "a\\\n", '\\"\\\\"', "\\${x}\\\\", "${x}", "\\\\${x}"])
def test_a_quoted_text_is_read_as_it_was(text):
    value = parse(f"name={quote(text)}").value()
    assert OmegaConf.create({"name": str(value)}).name == text


@pytest.mark.parametrize(
    "override",
    [
        "seed=0,1", "seed=range(0,3)", "callbacks.best.dirpath=null,/x", "loss=glob(*)", "seed=choice(1,2)", "seed=[1",
        "optim.lr", "seed=shuffle(1,2)", "-m",
    ],
)  # fmt: skip
def test_a_file_holds_plain_values_alone(override):
    """Of a sweep the first value alone would be looked at before the command runs."""
    with pytest.raises(ModisteError, match="a file may only set"):
        check_overrides([override], "overrides.yaml")


@pytest.mark.parametrize(
    "override",
    [
        r"name=$\{oc.env\:SECRET\}", r'tags=["\${oc.env${cost.currency}SECRET}"]',
        "name=${run_or:${run},x}", "name=a${seed}b${oc.env:SECRET}", "data={a: {b: ['${oc.env:X}']}}",
        "data={'${oc.env:X}': 1}", "name=${seed", "name=${${seed}}",
    ],
)  # fmt: skip
def test_overrides_of_a_file_call_no_resolver_however_they_are_written(override):
    with pytest.raises(ModisteError, match=r"a file may (not call a resolver|only set keys to plain values)"):
        check_overrides([override], "overrides.yaml")
    assert check_overrides(["name=${seed}-a", "tags=[${data.name}]"], "x") == ["name=${seed}-a", "tags=[${data.name}]"]


@pytest.mark.parametrize(
    "key", ["data.catalogue.download", "+transfer.x-y.data.catalogue.download", "++a.b-c.download", "download"]
)
def test_leave_to_download_is_dropped_whatever_the_key(key):
    assert check_overrides([f"{key}=true", "seed=1"], "overrides.yaml") == ["seed=1"]


@pytest.mark.parametrize(
    "value",
    ["{download: true}", "{a: [{download: true}]}", "{x-y: {data.catalogue.download: true}}"],
)
def test_leave_to_download_within_a_value_is_refused(value):
    with pytest.raises(ModisteError, match="a file may not permit downloads"):
        check_overrides([f"+transfer={value}"], "overrides.yaml")
    stored = literal({"transfer": {"x": {"data.catalogue.download": True, "b": {"download": True}}}}, "config.yaml")
    assert OmegaConf.to_container(stored) == {
        "transfer": {"x": {"data.catalogue.download": False, "b": {"download": False}}}
    }


def test_an_override_is_read_by_one_parser(monkeypatch):
    """YAML takes escapes in quotes that Hydra leaves alone."""
    monkeypatch.setenv("SECRET", "hunter2")
    trained = OmegaConf.create({"model": {}, "tune": {}, "data": {"name": "kagl", "catalogue": {"path": "a", "n": 1}}})
    config = OmegaConf.create({"model": None, "tune": None, "data": {}, "name": ""})
    words = [r'data.catalogue.path="\x24{oc.env\x3aSECRET}"', "+data.catalogue.more={a: 1}", "task=[retrieval]"]
    found = from_run(config, trained, words)
    assert found.data.catalogue.path == r"\x24{oc.env\x3aSECRET}"
    assert (found.data.catalogue.n, found.data.catalogue.more.a, found.name) == (1, 1, "kagl")


def test_no_module_but_one_parses_overrides():
    for file in Path(modiste.__file__).parent.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "from_dotlist" not in text, file
        assert ("OverridesParser" in text) == (file.name == "overrides.py" and file.parent.name == "config"), file


def test_overrides_of_a_job_are_those_that_were_given(monkeypatch):
    """Read otherwise, an interpolation is resolved, and its value parsed again."""
    job = OmegaConf.create({"tags": ["{a: 1}"], "overrides": {"task": ["name=${tags.0}"], "hydra": []}})
    assert given(job)["task"] == ["name=${tags.0}"]
    assert list(job.overrides.task) == ["name={a: 1}"]
