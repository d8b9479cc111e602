"""`modiste evaluate suite=…`, as a user runs it: many data sets, one model, nothing computed twice, nothing hidden."""

import json

import pytest
import yaml

from helpers.commands import modiste
from modiste.config import compose, config_dir, list_groups
from modiste.config.overrides import override_value
from modiste.errors import ModisteError
from modiste.evaluation.subject import same_data
from modiste.evaluation.suite import suite_specs

pytestmark = pytest.mark.slow
DRAWN = {"data": "synthetic", "data.catalogue.products": 60, "data.catalogue.size": 32}
SUITE = {
    "name": "small",
    "entries": {
        "drawn": DRAWN | {"task": ["retrieval", "zeroshot"]},
        "prefixed": DRAWN | {"task": ["retrieval"], "task.retrieval.prefix": "a photo, of a ", "variant": "prefix"},
        "absent": {"data": "kagl", "data.catalogue.path": "nowhere.zip", "task": ["retrieval"]},
    },
}
COMMAND = ("evaluate", "--config-dir", "own", "model=two_tower", "suite=small", "hydra.run.dir=out")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    (folder / "own" / "suite").mkdir(parents=True)
    (folder / "own" / "suite" / "small.yaml").write_text(yaml.safe_dump(SUITE))
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    finished = modiste(*COMMAND, cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


@pytest.fixture(scope="module")
def run(folder, finished):
    (run,) = (folder / "out").glob("*/")
    return run


def test_a_suite_runs_what_can_run_and_names_what_is_missing_and_why(run, finished):
    assert sorted(path.name for path in (run / "results").glob("*.json")) == [
        "synthetic.test.retrieval.json",
        "synthetic.test.retrieval.prefix.json",
        "synthetic.test.zeroshot.json",
    ]
    assert "3 computed, 0 kept, 1 missing" in finished.stdout
    assert "missing: absent · retrieval: nowhere.zip does not exist" in finished.stdout
    assert "nowhere.zip does not exist" in (run / "report.html").read_text()
    assert "4/4" in finished.stderr  # the progress bar


def test_an_interrupted_suite_goes_on_without_repeating_what_is_done(run, folder):
    kept, lost = (run / "results" / f"synthetic.test.{name}.json" for name in ("retrieval", "zeroshot"))
    before, old = kept.stat().st_mtime_ns, json.loads(lost.read_text())
    lost.unlink()
    again = modiste(*COMMAND, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "1 computed, 2 kept, 1 missing" in again.stdout
    assert kept.stat().st_mtime_ns == before
    assert json.loads(lost.read_text())["metrics"] == old["metrics"]


def test_a_result_says_how_to_make_it_again(run, folder):
    old = json.loads((run / "results" / "synthetic.test.retrieval.prefix.json").read_text())
    assert old["variant"] == "prefix"
    assert old["protocol"]["prefix"] == "a photo, of a "
    alone = modiste("evaluate", *old["overrides"], "hydra.run.dir=again", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    (new,) = (folder / "again").rglob("results/*.json")
    assert json.loads(new.read_text())["metrics"] == old["metrics"]


@pytest.mark.parametrize(
    "word", ["data=kagl", "task=[zeroshot]", "split=val", "data.batch_size=1", "task.compatibility.kind=disjoint"]
)
def test_what_a_suite_decides_itself_is_refused(word):
    cfg = compose("evaluate", ["suite=here", "model=clip_b32"])
    with pytest.raises(ModisteError, match="remove"):
        suite_specs(cfg, ["suite=here", "model=clip_b32", word])


@pytest.mark.parametrize(
    ("entries", "data"),
    [
        ({"a": "kagl"}, {"a": "kagl"}),
        ({"a": {"data": "synthetic"}, "b": {"split": "val"}}, {"a": "synthetic", "b": "synthetic"}),
        (["kagl", "fashion_mnist"], {"kagl": "kagl", "fashion_mnist": "fashion_mnist"}),
    ],
)
def test_entries_have_the_syntax_of_every_further_data_set(tmp_path, entries, data):
    """A name, or groups and keys to values; without a task that of the command."""
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "entries": entries}))
    given = ["suite=mine", "model=clip_b32"]
    specs = suite_specs(compose("evaluate", given, [tmp_path]), given, [tmp_path])
    assert {spec.name: spec.config.data.name for spec in specs} == data
    assert all(list(spec.config.task) == ["retrieval", "zeroshot"] for spec in specs)


def test_an_entry_that_names_no_data_is_one_sentence(tmp_path):
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "entries": {"a": 3}}))
    given = ["suite=mine", "model=clip_b32"]
    with pytest.raises(ModisteError, match="'3' does not name data to evaluate"):
        suite_specs(compose("evaluate", given, [tmp_path]), given, [tmp_path])


def test_a_suites_name_is_that_of_a_file():
    """It may come from a stranger's result, which `modiste verify` makes again."""
    cfg = compose("evaluate", ["suite=here", "model=clip_b32", "++suite.name=x/../../settings"])
    with pytest.raises(ModisteError, match="remove the /"):
        suite_specs(cfg, ["suite=here", "model=clip_b32"])


def test_a_setting_of_a_task_goes_to_the_entries_that_have_it():
    given = ["suite=openfashionclip_2023", "model=clip_b32", "task.zeroshot.seed=7"]
    entries = {entry.name: entry.config.task for entry in suite_specs(compose("evaluate", given[:2]), given)}
    assert entries["fashion_mnist"].zeroshot.seed == 7
    assert "zeroshot" not in entries["kagl"]


def test_a_suite_that_can_run_nothing_fails(folder):
    none = {"name": "none", "entries": {"absent": SUITE["entries"]["absent"]}}
    (folder / "own" / "suite" / "none.yaml").write_text(yaml.safe_dump(none))
    failed = modiste("evaluate", "--config-dir", "own", "model=two_tower", "suite=none", cwd=folder)
    assert failed.returncode == 1
    assert "Nothing could be evaluated" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("suite", sorted(list_groups([config_dir()])["suite"]))
def test_every_entry_of_every_suite_is_a_command_line(suite):
    given = [f"suite={suite}", "model=clip_b32"]
    entries = suite_specs(compose("evaluate", given), given)
    assert entries
    for entry in entries:
        assert entry.config.task, entry.name
    names = [(e.config.data.name, e.split, task, e.config.variant) for e in entries for task in e.config.task]
    assert len(set(names)) == len(names)  # no result overwrites another


@pytest.mark.parametrize("value", ["a, b: 'c' {}", ["x", 1, None], {"a": ["b {}"]}, 0.5, True])
def test_a_value_of_a_suite_arrives_as_it_is(value):
    cfg = compose("evaluate", ["model=clip_b32", f"+own={override_value(value)}"])
    assert cfg.own == value


@pytest.mark.parametrize(
    ("trained", "evaluated", "same"),
    [
        ("kagl", "kagl", True),
        ("kagl", "marqo_kagl", True),  # the same photos, in another download
        ("marqo_inshop", "inshop", True),
        ("kagl", "fashion_mnist", False),
    ],
)
def test_a_model_is_in_domain_on_the_photos_it_was_trained_on(trained, evaluated, same):
    nodes = [compose("evaluate", [f"data={name}"]).data for name in (trained, evaluated)]
    assert same_data(*nodes) is same
