"""Composition, the allow-listed instantiate, validation; and every YAML of conf/ against its root."""

import itertools
import random
import re
from dataclasses import dataclass

import pytest
from omegaconf import OmegaConf

from modiste.cli.outline import Outline
from modiste.config import (
    compose,
    config_dir,
    instantiate,
    list_groups,
    locate,
    quote,
    schema,
    targets,
    validate,
    value_problems,
)
from modiste.config.tree import walk
from modiste.embedding.embedder import MIN_COSINE
from modiste.errors import ModisteError

CONF = config_dir()
GROUPS = list_groups([CONF])
ROOTS = sorted(file.stem for file in CONF.glob("[!_]*.yaml"))


ALONE = {"model", "task", "data/split"}
"""Groups whose options determine what others may be: each is tried with the defaults of all others."""


def choices():
    """(root, overrides): every root as it is; every option of a group with train and evaluate, or one that has it.

    Options of groups that are independent of each other are tried together. Recipes are tested in `test_recipes`.
    """
    tops = {root: Outline.read([CONF], root).groups for root in ROOTS}
    together = {root: [[]] for root in ROOTS}
    for group, options in GROUPS.items():
        able = [root for root in ROOTS if group.split("/")[0] in tops[root]]
        for root in [root for root in ("train", "evaluate") if root in able] or able[:1]:
            listed = tops[root].get(group, ("",))[0].startswith("[")
            choice = [f"{group}=[{option}]" if listed else f"{group}={option}" for option in options]
            if group in ALONE:
                yield from ((root, [one]) for one in choice)
            elif group != "experiment":
                together[root].append(choice)
    for root, groups in together.items():
        yield root, []
        yield from ((root, [one for one in row if one]) for row in itertools.zip_longest(*groups))


def test_commands_write_to_out_and_the_comments_of_their_defaults_align():
    for root in ROOTS:
        text = (CONF / f"{root}.yaml").read_text()
        assert not re.search(r"^output:", text, re.M), root
        columns = {line.index("  #") for line in text.splitlines() if re.match(r"  - (?!optional|override).*  #", line)}
        assert len(columns) <= 1, root


def test_every_list_of_further_data_sets_is_described_in_the_same_words():
    """`transfer` of train and merge, suites, and `other` of audit take the same syntax."""
    entry = "data set, or groups and keys with their values"
    for file in [*(CONF / "suite").glob("*.yaml"), *(CONF / f"{root}.yaml" for root in ("train", "merge", "audit"))]:
        assert entry in file.read_text(), file.name
    for root in ("train", "merge"):
        assert "default split: val" in (CONF / f"{root}.yaml").read_text()


REFUSED_IN_TRAINING = [[f"task=[{task}]"] for task in ("marqo", "composed", "compatibility", "grounding")]


@pytest.mark.parametrize(("root", "overrides"), list(choices()), ids=lambda v: v if isinstance(v, str) else "".join(v))
def test_every_option_composes_and_validates_against_its_root(root, overrides):
    cfg = compose(root, overrides)
    for path in [path for path, parent, key in walk(cfg) if OmegaConf.is_missing(parent, key)]:
        OmegaConf.update(cfg, path, "given")  # what the user has to give
    try:
        validate(cfg)
    except ModisteError as error:
        if "is not installed" in str(error):
            pytest.skip(str(error))
        # What a root refuses on purpose: validation looks neither at a test set nor at anything but its own split.
        if (
            root not in ("train", "sweep")
            or overrides not in REFUSED_IN_TRAINING
            or "evaluate the run" not in str(error)
        ):
            raise


@pytest.mark.parametrize("root", ROOTS)
def test_no_group_takes_an_option_that_is_not_there(root):
    """`optional` in a defaults list would let a typo pass."""
    for group in set(Outline.read([CONF], root).groups) - {"local"}:
        with pytest.raises(ModisteError, match="no option 'absent'"):
            compose(root, [f"{group}=absent"])


@pytest.mark.parametrize("root", ROOTS)
def test_every_command_takes_its_directories_from_paths_and_the_local_settings(tmp_path, root):
    (tmp_path / "local").mkdir()
    own = "# @package _global_\n# This machine\ndata_dir: /disk/data\nlog_dir: /disk/runs\n"
    (tmp_path / "local" / "default.yaml").write_text(own)
    assert not {"data_dir", "log_dir"} & set(OmegaConf.load(CONF / f"{root}.yaml"))
    cfg = compose(root, [], [tmp_path])
    if "data" in cfg or "paths" in Outline.read([CONF], root).groups:
        assert (cfg.data_dir, cfg.log_dir) == ("/disk/data", "/disk/runs")


@pytest.mark.parametrize("root", ["audit", "embed", "evaluate", "index", "merge"])
def test_commands_that_embed_have_the_keys_of_the_embedder(root):
    """An error of the embedder recommends them: precision=int8 needs backend=openvino."""
    cfg = compose(root, ["precision=int8", "backend=openvino"])
    assert not {"batch_size", "precision", "backend", "min_cosine", "device"} - cfg.keys()
    assert (cfg.precision, cfg.backend, cfg.min_cosine.image) == ("int8", "openvino", MIN_COSINE["image"])


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.relative_to(CONF).as_posix())
def test_every_yaml_begins_with_a_comment_of_one_line_that_says_what_it_is(file):
    comments = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line)
    comments = [line for line in comments if "@package" not in line]
    assert comments
    assert len(comments[0]) > 12


def test_every_group_of_conf_is_in_some_root():
    used = {group for root in ROOTS for group in Outline.read([CONF], root).groups} | {"hydra"}  # Hydra's own
    assert {group.split("/")[0] for group in GROUPS} <= used


# ------------------------------------------------------------------------------------------------------- composition


@pytest.fixture
def conf(tmp_path):
    """A small conf/ of two groups."""
    files = {
        "sew.yaml": "defaults:\n  - cloth: wool\n  - extra: null\n  - _self_\nseed: 1\ntitle: x\n",
        "cloth/wool.yaml": "weight: 3\nyarn: {ply: 2}\n",
        "cloth/linen.yaml": "weight: 2\n",
        "cloth/_base.yaml": "weight: 1\n",
        "extra/lace.yaml": "a: 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["cloth=lnen"], ["'lnen'", "group cloth", "Did you mean 'linen'?"]),
        (["clth=linen"], ["'clth'", "Did you mean 'cloth'?"]),
        (["cloth.wieght=4"], ["'cloth.wieght'", "Did you mean 'cloth.weight'?"]),
        (["ply=4"], ["Did you mean 'cloth.yarn.ply'?"]),
        (["ply=4"], ["+ply=4 would add it"]),
        (["title=a(b"], ["quote it", '"a(b"']),
        (["title"], ["'title' is not an override"]),
        (["seed=1,2"], ["add -m", "seed=[1,2]"]),
        (["cloth=null"], ["cloth=null", "~group"]),
        (["~sed"], ["Did you mean 'seed'?"]),
        (["+seed=3"], ["already at 'seed'"]),
        (["hydra.run.dri=x"], ["Did you mean 'hydra.run.dir'?"]),
        (["hydra.mode=foo"], ["'foo'", "RUN, MULTIRUN"]),
        (["a b=3"], ["'a b' is not a key"]),
    ],
)
def test_a_mistake_in_an_override_is_one_sentence_with_the_remedy(conf, overrides, parts):
    with pytest.raises(ModisteError) as caught:
        compose("sew", overrides, root=conf)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_private_options_are_not_suggested(conf):
    with pytest.raises(ModisteError, match=r"Choose from: linen, wool\.$"):
        compose("sew", ["cloth=zzz"], root=conf)


def test_an_unknown_root_names_the_closest(conf):
    with pytest.raises(ModisteError, match="Did you mean 'sew'"):
        compose("seww", root=conf)


def test_a_mandatory_group_names_its_options(conf):
    (conf / "hem.yaml").write_text("defaults:\n  - cloth: ???\n")
    with pytest.raises(ModisteError, match=r"cloth=linen\|wool"):
        compose("hem", root=conf)


def test_a_yaml_that_names_an_absent_option_is_itself_named(conf):
    (conf / "hem.yaml").write_text("defaults: [{cloth: silk}]\n")
    with pytest.raises(ModisteError, match=r"'silk'.*hem\.yaml"):
        compose("hem", root=conf)


def test_broken_yaml_is_named_with_file_and_line(conf):
    (conf / "cloth/broken.yaml").write_text("a: [1,\n")
    with pytest.raises(ModisteError, match=r"broken\.yaml.*line"):
        compose("sew", ["cloth=broken"], root=conf)


def test_the_users_folder_adds_options_also_beside_a_search_path_of_his_own(conf, tmp_path_factory):
    first, second = tmp_path_factory.mktemp("my conf, (1)"), tmp_path_factory.mktemp("other")
    for folder, name in ((first, "silk"), (second, "jute")):
        (folder / "cloth").mkdir()
        (folder / f"cloth/{name}.yaml").write_text(f"name: {name}\n")
    assert compose("sew", ["cloth=silk"], [first], root=conf).cloth.name == "silk"
    search_path = f"hydra.searchpath=[{quote(f'file://{second}')}]"
    assert compose("sew", [search_path, "cloth=jute"], [first], root=conf).cloth.name == "jute"


def test_composing_does_not_disturb_hydra(conf):
    from hydra.core.global_hydra import GlobalHydra

    compose("sew", root=conf)
    with pytest.raises(ModisteError):
        compose("sew", ["x=1"], root=conf)
    assert not GlobalHydra.instance().is_initialized()


def nasty_texts():
    draw = random.Random(0)
    alphabet = "\"'\\${}()[],=:;&%#@!~*? \tabéあ"
    return [
        "",
        " ",
        "null",
        "1",
        "a,b",
        "x=y",
        "${seed}",
        "\\${seed}",
        '\\"',
        "a\\",
        "a\\\\",
        "~/x",
        "[1,2",
        "{a:1}",
    ] + ["".join(draw.choices(alphabet, k=draw.randint(1, 12))) for _ in range(150)]


def test_a_quoted_value_is_exactly_that_text(conf):
    texts = nasty_texts()
    read = compose("sew", [f"title=[{','.join(map(quote, texts))}]"], root=conf).title
    assert list(read) == texts


# ------------------------------------------------------------------------------------------------------- instantiate


@dataclass
class Size:
    """Hydra would take such an argument for a config."""

    height: int


class Suit:
    """Keeps its arguments."""

    def __init__(self, cloth, lining=None, *buttons, **more):
        self.cloth, self.lining, self.buttons, self.more = cloth, lining, buttons, more

    @staticmethod
    def validate_config(node, cfg):
        if node.get("lining") == "paper":
            raise ModisteError("paper is no lining")


class Strict:
    """Takes two arguments, one of them required."""

    def __init__(self, cloth, lining=None):
        self.cloth, self.lining = cloth, lining


class Broken:
    """Fails while it is built."""

    def __init__(self, kind):
        raise {"mine": ModisteError("no cloth"), "other": KeyError("needle")}[kind]


HERE = __name__


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("MODISTE_ALLOW", f"somebody, {HERE}")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torchvision.io.read_file",
        "modistes.Evil",
        "lightning.pytorch.cli.instantiate_class",
        "lightning.pytorch.cli.LightningCLI",
        "modiste.utils.run_dir.os.system",
        "modiste.utils.run_dir.os.path.join",
        "modiste.cli.main",
        "modiste.data.datasets.table.from_records",
        "modiste.data.storage.webdataset.read_shard",
        "torch.nn.Module.load_state_dict",
        "lightning.pytorch.loggers.WandbLogger",
        "modiste.config.instantiate",
        "modiste.commands.train.run",
        "modiste.training.build.instantiate",
        "modiste.utils.run_dir.json.dumps",
        "modiste.utils.run_dir.write_json.__globals__",
        "modiste.utils.run_dir.RunDir",
        "modiste.data.catalogue.Catalogue.build",
        "modiste.losses.clip.ClipLoss.forward",
        "modiste.utils.run_dir.Path.unlink",
        "torch.nn.modules.module.torch.load",
        "modiste.utils.run_dir.cache_dir.__class__",
        "",
        "modiste..rundir",
        "modiste.utils.run_dir.CONFIG",
        "modiste.utils.run_dir",
    ],
)
def test_what_is_not_on_the_allow_list_is_refused_by_name_and_by_defining_module(target):
    with pytest.raises(ModisteError):
        instantiate({"_target_": target})


def test_nothing_is_imported_or_built_when_one_target_of_the_tree_is_refused(monkeypatch):
    imported = []
    monkeypatch.setattr(targets.importlib, "import_module", imported.append)
    tree = {"_target_": "torch.nn.Sequential", "_args_": [{"x": [{"_target_": "somewhere.fly"}]}]}
    with pytest.raises(ModisteError, match=r"'somewhere.fly'.*MODISTE_ALLOW=somewhere"):
        instantiate(tree)
    assert imported == []


CHECKPOINT = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "ftp://127.0.0.1:9/x"}


@pytest.mark.parametrize("node", [CHECKPOINT, CHECKPOINT | {"_target_": "modiste.training.callbacks.EpochCheckpoint"}])
def test_a_part_of_a_training_is_built_at_its_place_alone_and_contacts_no_host(monkeypatch, node):
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("it asks for a host"))
    sequence = {"_target_": "torch.nn.Sequential", "_args_": [node]}
    for key, there in [("model", node), ("model", sequence), ("optim", node), ("data", {"x": [sequence]})]:
        cfg = OmegaConf.create({key: there})
        with pytest.raises(ModisteError, match=f"'{key}' may not be"):
            instantiate(cfg[key])
        with pytest.raises(ModisteError, match="may not be"):
            validate(cfg)
    with pytest.raises(ModisteError, match="may not be"):
        instantiate(node)
    for address in ("ftp://127.0.0.1:9/x", "simplecache::ftp://127.0.0.1:9", "memory://x"):
        cfg = OmegaConf.create({"callbacks": {"best": node | {"dirpath": address}}})
        with pytest.raises(ModisteError, match=r"'callbacks\.best\.dirpath' is the URL .*: give a local folder"):
            instantiate(cfg.callbacks.best)


def test_a_model_consists_of_encoders_and_layers(allowed):
    for target in ("modiste.data.datasets.hub.Hub", "torch.optim.Adam", "optuna.samplers.TPESampler"):
        with pytest.raises(ModisteError, match="'model' may not be"):
            instantiate(OmegaConf.create({"model": {"_target_": target}}).model)
    own = OmegaConf.create({"model": {"_target_": f"{HERE}.Suit", "cloth": {"_target_": "torch.nn.ReLU"}}})
    assert instantiate(own.model).cloth is not None


def test_an_argument_without_its_name_is_refused_where_it_could_be_any(allowed):
    node = {"_target_": "modiste.data.datasets.fashion_mnist.FashionMnist", "_args_": ["x", True]}
    with pytest.raises(ModisteError, match="takes its arguments by name: path, invert"):
        instantiate(node)
    with pytest.raises(ModisteError, match="takes its arguments by name"):
        validate(OmegaConf.create({"data": node}))


def test_wandbs_host_is_the_machines_and_not_the_configurations():
    node = {"_target_": "modiste.training.loggers.wandb_logger", "save_dir": "."}
    for name in ("settings", "config", "dir", "host", "base_url"):
        with pytest.raises(ModisteError, match=f"takes no '{name}'"):
            instantiate(OmegaConf.create({"logger": {"wandb": node | {name: {"base_url": "http://x"}}}}).logger.wandb)


def test_refused_also_below_recursive_false_and_in_partials(allowed):
    for flag in ({"_recursive_": False}, {"_partial_": True}):
        with pytest.raises(ModisteError, match="may not be instantiated"):
            instantiate({"_target_": f"{HERE}.Suit", "cloth": {"_target_": "os.getcwd"}, **flag})


def test_users_own_packages_are_allowed_by_the_environment(allowed):
    assert locate(f"{HERE}.Suit") is Suit
    with pytest.raises(ModisteError, match="MODISTE_ALLOW"):
        locate(f"{HERE}_other.Suit")


def test_targets_that_are_not_there_name_the_closest(allowed):
    with pytest.raises(ModisteError, match="Did you mean 'Suit'"):
        locate(f"{HERE}.Siut")
    with pytest.raises(ModisteError, match=r"Did you mean 'modiste\.losses\.clip\.ClipLoss'"):
        locate("modiste.loses.clip.ClipLoss")
    with pytest.raises(ModisteError, match="'somebody', which is not installed"):
        locate("somebody.Thing")


def test_nested_nodes_lists_and_plain_containers(allowed):
    node = OmegaConf.create(
        {
            "cut": "slim",
            "suit": {
                "_target_": f"{HERE}.Suit",
                "_convert_": "none",
                "cloth": {"_target_": f"{HERE}.Suit", "cloth": "${cut}"},
                "lining": {"parts": [1, {"_target_": f"{HERE}.Suit", "cloth": 2}]},
                "extra": None,
            },
        }
    )
    suit = instantiate(node.suit)
    assert suit.cloth.cloth == "slim"
    assert type(suit.lining) is dict
    assert type(suit.lining["parts"]) is list
    assert suit.lining["parts"][1].cloth == 2
    assert suit.more == {"extra": None}


def test_special_keys(allowed):
    target = f"{HERE}.Suit"
    assert (
        instantiate({"_target_": target, "_args_": ["a", "b", {"_target_": target, "cloth": 1}]}).buttons[0].cloth == 1
    )
    raw = {"_target_": target, "cloth": 1}
    assert instantiate({"_target_": target, "_recursive_": False, "cloth": raw}).cloth == raw
    partial = instantiate({"_target_": target, "_partial_": True, "cloth": "???", "lining": 1})
    assert partial(2).cloth == 2
    assert partial(2).lining == 1
    with pytest.raises(ModisteError, match="true or false"):
        instantiate({"_target_": target, "_partial_": "yes please", "cloth": 1})
    assert instantiate(None) is None
    assert instantiate({"a": {"_target_": target, "cloth": 1}, "b": None})["b"] is None
    assert instantiate([{"_target_": target, "cloth": 1}])[0].cloth == 1


def test_arguments_of_the_caller_replace_the_nodes_and_are_handed_over_as_they_are(allowed):
    size, config_node = Size(3), OmegaConf.create({"a": 1})
    suit = instantiate(OmegaConf.create({"_target_": f"{HERE}.Suit", "cloth": "???"}), cloth=size, lining=config_node)
    assert suit.cloth is size
    assert suit.lining is config_node
    with pytest.raises(ModisteError, match="no _target_"):
        instantiate({"a": 1}, cloth=2)


def test_errors_of_a_constructor_surface_as_they_are(allowed):
    nested = {"_target_": f"{HERE}.Suit", "cloth": {"_target_": f"{HERE}.Broken", "kind": "mine"}}
    with pytest.raises(ModisteError, match=r"^no cloth$"):
        instantiate(nested)
    nested["cloth"]["kind"] = "other"
    with pytest.raises(KeyError, match="needle"):
        instantiate(nested)


def test_wrong_arguments_are_the_users_mistake(allowed):
    cfg = OmegaConf.create({"suit": {"_target_": f"{HERE}.Strict", "cloth": 1, "linning": 2}})
    with pytest.raises(ModisteError, match=r"'suit\.linning'.*Did you mean 'lining'"):
        instantiate(cfg.suit)
    with pytest.raises(ModisteError, match=r"'cloth' is missing"):
        instantiate({"_target_": f"{HERE}.Strict"})
    with pytest.raises(ModisteError, match="has no value"):
        instantiate({"_target_": f"{HERE}.Strict", "cloth": "???"})
    with pytest.raises(ModisteError, match=r"Interpolation key 'nowhere'"):
        instantiate(OmegaConf.create({"suit": {"_target_": f"{HERE}.Strict", "cloth": "${nowhere}"}}).suit)


# -------------------------------------------------------------------------------------------------------- validation


def problems_of(tree, **kwargs):
    with pytest.raises(ModisteError) as caught:
        validate(OmegaConf.create(tree), **kwargs)
    return str(caught.value)


def test_validate_lists_every_problem_on_a_line_of_its_own(allowed):
    message = problems_of(
        {
            "a": {"_target_": f"{HERE}.Strict", "clth": 1},
            "b": {"_target_": "torch.nn.Lineer"},
            "c": {"_target_": "os.system"},
            "d": "???",
            "e": "${a.cloth}",
            "list": [{"f": "${oc.env:MODISTE_NO_SUCH}"}],
            "data": {"batch_size": 1},
            "loss": {},
            "init": "x",
            "resume": "y",
        }
    )
    lines = message.split("\n")
    assert lines[0] == f"The config has {len(lines) - 1} problems:"
    expected = [
        ("'a.clth'", "Did you mean 'cloth'"),
        ("'a.cloth' is missing",),
        ("'b._target_'", "Did you mean 'torch.nn.Linear'"),
        ("'c._target_'", "may not be instantiated"),
        ("'d' has no value", "d=…"),
        ("'e' = ${a.cloth}", "no 'a.cloth'"),
        ("'list.0.f'", "MODISTE_NO_SUCH"),
        ("'data.batch_size' is 1",),
        ("init and resume exclude each other",),
    ]
    for parts in expected:
        assert sum(all(part in line for part in parts) for line in lines) == 1, parts
    assert len(lines) == 1 + len(expected)


def test_a_sound_config_is_valid_and_what_an_interpolation_points_to_is_reported_once(allowed):
    tree = {
        "image": {"_target_": f"{HERE}.Strict", "cloth": 1},
        "model": {"_target_": f"{HERE}.Suit", "cloth": "${image}", "anything": 1},
        "optim": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.1, "params": "???"},
        "out": "${hydra:runtime.output_dir}/x",
        "init": None,
        "resume": None,
        "data": {"batch_size": 2},
        "loss": {},
    }
    validate(OmegaConf.create(tree))
    tree["image"]["colour"] = "red"
    assert problems_of(tree).startswith("'image.colour'")


def test_what_the_caller_gives_is_not_missing(allowed):
    tree = {"suit": {"_target_": f"{HERE}.Strict"}, "coat": {"_target_": f"{HERE}.Strict", "cloth": "???"}}
    validate(OmegaConf.create(tree), given={"suit": ["cloth"], "coat": ["cloth"]})
    assert "'suit.cloth' is missing" in problems_of(tree, given={"coat": ["cloth"]})


@pytest.mark.parametrize(
    ("root", "words", "sound"),
    [
        ("train", [], False),
        ("train", ["tune.image.train=last_n"], False),  # of two layers
        ("train", ["tune.image.train=last_n", "tune.image.layers=1"], True),
        ("train", ["tune.text.train=frozen"], True),
        ("sweep", ["sweep=heads"], False),
        ("sweep", ["sweep=heads", "+sweep.space={tune.text.train: {choices: [frozen]}}"], True),
    ],
)
def test_cached_features_need_a_frozen_trunk(root, words, sound):
    cfg = compose(root, [*words, "features.cache=true"])
    if sound:
        validate(cfg)
    else:
        with pytest.raises(ModisteError, match=r"'features\.cache' is true, but no trunk is frozen"):
            validate(cfg)


def test_a_target_checks_its_own_node_once_everything_else_is_right(allowed):
    tree = {"suit": {"_target_": f"{HERE}.Suit", "cloth": 1, "lining": "paper"}}
    assert problems_of(tree) == "'suit': paper is no lining"
    assert "paper" not in problems_of({**tree, "x": "???"})


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["experiment=zooclaw_2026", "term=[]"], "distill"),
        (["experiment=zooclaw_2026", "term=[distill]"], "soft_labels"),
        (["+term.distil.weight=2"], "distil"),
        (["+logger.wandb.project=x"], "wandb"),
        (["+task.grounding.seed=1"], "grounding"),
        (["+callbacks.ema.decay=0.9"], "ema"),
    ],
)
def test_keys_of_a_part_that_is_not_chosen_are_named(overrides, part):
    with pytest.raises(ModisteError, match=rf"'\w+\.{part}' is not chosen, but \w+\.{part}\.\w+.* set: choose it"):
        validate(compose("train", overrides))


def test_a_recipes_terms_are_removed_with_their_keys():
    cfg = compose("train", ["experiment=zooclaw_2026", "term=[]", "~term.distill", "~term.soft_labels"])
    assert not cfg.term
    validate(cfg)


@pytest.mark.parametrize(
    ("error", "package"),
    [
        (ModuleNotFoundError("Requirement 'mlflow>=1.0.0' not met. HINT: Try running `pip install`"), "mlflow"),
        (ModuleNotFoundError("No module named 'psutil'", name="psutil"), "psutil"),
        (ImportError("needs the library sentencepiece\nsee its page"), "needs the library sentencepiece"),
    ],
)
def test_a_package_that_a_constructor_misses_is_named_in_one_sentence(error, package, monkeypatch):
    from lightning.pytorch.loggers import CSVLogger

    def missing(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(CSVLogger, "__init__", missing)
    node = OmegaConf.create({"logger": {"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger"}}})
    with pytest.raises(ModisteError) as caught:
        instantiate(node.logger)
    assert f"CSVLogger needs the package '{package}', which is not installed: install it" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["task=retreival", "task=[retreival]", "task=[zeroshot,retreival]"])
def test_an_unknown_option_is_suggested_also_in_a_list(override):
    with pytest.raises(ModisteError, match=r"no option 'retreival' in the group task\. Did you mean 'retrieval'"):
        compose("evaluate", [override])


@pytest.mark.parametrize(
    ("key", "value"), [("max_bad", "-1"), ("max_bad", "1.5"), ("placeholders", "0"), ("placeholders", "-1")]
)
def test_limits_of_bad_rows_are_checked_before_the_data_are_read(key, value):
    (problem,) = schema.value_problems(compose("data", ["data=table", f"data.catalogue.{key}={value}"]), "data")
    assert problem.startswith(f"'data.catalogue.{key}' is {value}: it takes a whole number of at least")


def test_values_are_checked_without_imports():
    tree = OmegaConf.create({"a": {"_target_": "no.such.thing", "x": "???"}, "b": "${a.y}"})
    assert [problem.split("'")[1] for problem in value_problems(tree)] == ["a.x", "b"]


@pytest.mark.parametrize(
    ("command", "override", "takes"),
    [
        ("train", "data.num_workers=1000000", "from 0 to 1024"),
        ("train", "trainer.devices=100000", "from -1 to 1024"),
        ("train", "image.size=1000000", "from 1 to 8192"),
        ("train", "model.embed_dim=100000000", "from 1 to 65536"),
        ("train", "data.catalogue.products=1000000000000", "from 1 to 10000000"),
        ("train", "data.batch_size=99999999999999999999", "a number of 64 bits"),
        ("embed", "number=100000", "from 1 to 1024"),
        ("embed", "threads=100000", "from 1 to 1024"),
        ("prepare", "size=100000", "from 1 to 8192"),
        ("index", "at=99999999999999999999", "a number of 64 bits"),
    ],
)
def test_a_number_that_starts_processes_or_takes_memory_has_an_upper_bound(command, override, takes):
    (problem,) = schema.value_problems(compose(command, [override]), command)
    key, _, value = override.partition("=")
    assert problem.startswith(f"'{key}' is {value}: it takes ")
    assert takes in problem


@pytest.mark.parametrize(
    ("override", "takes"),
    [
        ("data.batches.group_size=x", "a whole number"),
        ("data.captions.templates=3", "a list, each item text"),
        ("tune.image.layers=0", "a whole number of at least 1"),
        ("data.split.val_fraction=2", "a number from 0 to 1"),
        ("data.catalogue.views=2000", "a whole number from 1 to 1000"),
        ("optim.layer_decay=0", "a number above 0 and at most 1"),
        ("task.retrieval.ks=[0]", "a list, each item a whole number of at least 1"),
    ],
)
def test_a_part_states_the_range_of_its_arguments_by_its_annotations(override, takes):
    words = ["data/split=given"] if override.startswith("data.split") else []
    (problem,) = schema.value_problems(compose("train", [*words, override]), "train")
    assert takes in problem


@pytest.mark.parametrize("key", ["tune.image.foo", "data.weight.foo", "grad_cache.foo", "data.batches.foo"])
def test_a_key_that_a_node_without_a_target_does_not_take_is_refused(key):
    cfg = compose("train", [f"+{key}=1"])
    assert key in [unknown for unknown, _ in schema.unknown_keys(cfg, [str(name) for name in cfg], "train")]


def test_a_users_task_and_tower_have_ranges_without_a_further_file(tmp_path, monkeypatch):
    (tmp_path / "bounded_part.py").write_text(
        "class Part:\n"
        "    def __init__(self, views: Annotated[int, Range(least=1, most=1000)] = 2, rate: Fraction = 0.5,\n"
        "                 other: Annotated[int, open('/dev/null')] = 3): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MODISTE_ALLOW", "bounded_part")
    node = {"_target_": "bounded_part.Part", "views": 0, "rate": 2, "other": "any"}
    problems = schema.value_problems(OmegaConf.create({"task": {"own": node}, "image": dict(node)}))
    assert len(problems) == 4
    assert "'task.own.views' is 0: it takes a whole number from 1 to 1000." in problems
    assert "'image.rate' is 2: it takes a number from 0 to 1." in problems
