"""The command line, `modiste <command> [overrides]`. A command is a file in commands/ and a YAML in conf/.

Nothing heavy is imported before a command runs, so help, completion and the report of a typo are immediate.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from modiste import __version__
from modiste.errors import ModisteError, did_you_mean

COMMANDS = Path(__file__).parents[1] / "commands"
FLAGS = """\
  -m, --multirun           run every combination: loss=clip,siglip seed=0,1,2
  --cfg job [--resolve]    print the composed config and stop (hydra, all: Hydra's own)
  --info defaults          where each part of the config came from
  -cd, --config-dir DIR    a folder with config groups of your own
  -cn, --config-name NAME  another root config
  --hydra-help             Hydra's own settings"""
BASH = """\
_modiste() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        "$1" --shell-completion query=bash 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _modiste modiste"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``argv`` (default: the process's) and return the exit code.

    0: done; 1: the command failed for a reason that a sentence tells; 2: a mistake in the arguments; 130: interrupted.
    Other exceptions keep their traceback; with MODISTE_DEBUG=1 or HYDRA_FULL_ERROR=1 all of them do.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "1" in (os.environ.get("MODISTE_DEBUG"), os.environ.get("HYDRA_FULL_ERROR"))
    code = 2
    try:
        job = prepare(argv)
        code = 1
        return job() or 0
    except ModisteError as error:
        if debug:
            raise
        print(f"Error: {error}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        # Lightning's trainer turns an interrupt into sys.exit(1).
        if isinstance(stop.__context__, KeyboardInterrupt):
            return 130
        raise


def prepare(argv: list[str]) -> Callable[[], int | None]:
    """Check everything that can be checked without running, and return what is left to do.

    Raises:
        ModisteError: Unknown command, flag, group, option or key; unreadable or missing value.
    """
    first = argv[0] if argv else ""
    if not argv or first in ("-h", "--help", "help"):
        return lambda: _print(_help(), 0 if argv else 2)
    if first in ("-V", "--version"):
        return lambda: _print(f"modiste {__version__}")
    if first == "--completion":
        return _completion(f"install={argv[1] if len(argv) > 1 else 'bash'}")
    if first in ("-sc", "--shell-completion"):
        return _completion(argv[1] if len(argv) > 1 else "install=bash")
    if first not in commands():
        raise ModisteError(f"There is no command '{first}'. {did_you_mean(first, commands())}")
    call = Call.parse(first, argv[1:])
    if call.args.help:
        return lambda: _print(_command_help(call))
    if call.args.shell_completion:
        return _completion((call.args.overrides or ["install=bash"])[0])
    call.check()
    return call.run


def commands() -> dict[str, str]:
    """``{command: first line of its module's docstring, without the example}``, read without importing."""
    found = {}
    for file in sorted(COMMANDS.glob("*.py")):
        if not file.stem.startswith("_"):
            first_line = _docstring(file.stem).split("\n")[0]
            line = re.sub(r"^`[^`]*`: |: `?modiste .*", "", first_line).rstrip(".")
            found[file.stem] = line[:1].upper() + line[1:]
    return found


def _docstring(command: str) -> str:
    source = (COMMANDS / f"{command}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def _print(text: str, code: int = 0) -> int:
    print(text)
    return code


# ------------------------------------------------------------------------------------------------------- one command


@dataclass
class Call:
    """A command with its arguments: Hydra's flags, and overrides that are ready for Hydra's grammar."""

    command: str
    args: argparse.Namespace
    flags: list[str]
    overrides: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, command: str, argv: list[str]) -> Call:
        """Hydra's flags and overrides in any order."""
        from hydra._internal.utils import get_args_parser

        parser = get_args_parser()
        parser.error = functools.partial(_refuse_flag, parser, command)  # type: ignore[method-assign]
        args = parser.parse_intermixed_args(argv)
        flags = []
        for action in parser._actions:
            value = getattr(args, action.dest, None)
            if action.option_strings and value not in (None, False):
                name = max(action.option_strings, key=len)
                flags.append(name if value is True else f"{name}={value}")
        return cls(command, args, flags)

    @property
    def config_name(self) -> str:
        return self.args.config_name or self.command

    @property
    def root(self) -> Path:
        """The folder of the root config."""
        from modiste.config import config_dir

        return _folder("--config-path", self.args.config_path) if self.args.config_path else config_dir()

    @property
    def config_dirs(self) -> list[Path]:
        """The user's own folder of groups."""
        return [_folder("--config-dir", self.args.config_dir)] if self.args.config_dir else []

    def check(self) -> None:
        """Compose the config, and every value of a sweep, for the sake of the error messages."""
        if sum(map(bool, (self.args.multirun, self.args.cfg, self.args.info))) > 1:
            raise ModisteError("--multirun, --cfg and --info exclude each other.")
        if self.args.resolve and not self.args.cfg:
            raise ModisteError("--resolve goes with --cfg: --cfg job --resolve.")
        outline = Outline.read([self.root, *self.config_dirs], self.config_name)
        positional = [arg for arg in self.args.overrides if _is_positional(arg, outline)]
        given = [arg for arg in self.args.overrides if arg not in positional]
        given = [word for override in given for word in _model_folder(override, outline, self)]
        self.overrides = [_quoted(override, self.args.multirun) for override in given]
        if positional:
            self.overrides.append(_paths_override(positional, outline))
        self.overrides = _restarted(self.overrides, outline, self.args.multirun)
        for overrides in self._variants():
            self._compose(overrides, complete=not (self.args.cfg or self.args.info or self.args.hydra_help))

    def _compose(self, overrides: list[str], complete: bool) -> None:
        from modiste.config import compose, report, value_problems

        config = compose(self.config_name, overrides, self.config_dirs, root=self.root)
        if complete:
            report(value_problems(config))

    def _variants(self) -> list[list[str]]:
        """The overrides themselves, or for a sweep: each option of a group once, the first value of everything else."""
        if not self.args.multirun:
            return [self.overrides]
        values = [_sweep_values(override, self) for override in self.overrides]
        first = [choices[0] for choices in values if choices]
        variants = [first]
        for choices in values:
            variants += [[o if o != choices[0] else choice for o in first] for choice in choices[1:]]
        return variants

    def run(self) -> int | None:
        """Hand over to Hydra. The job itself sees the command line that would run it alone: Lightning starts the other
        processes of a multi-device run with it."""
        import hydra

        from modiste.config import VERSION_BASE

        script = sys.argv[0]
        flags = [flag for flag in self.flags if flag not in ("--multirun", "--run")]

        failures: list[ModisteError] = []

        def task(cfg: Any) -> Any:
            from hydra.core.hydra_config import HydraConfig

            own = HydraConfig.get().overrides
            hydra_own = [o for o in own.hydra if not o.startswith("hydra.mode=")]
            with _process([script, self.command, *flags, *hydra_own, *own.task], full_error=user_setting):
                try:
                    return importlib.import_module(f"modiste.commands.{self.command}").run(cfg)
                except ModisteError as error:
                    if self.args.multirun:  # Hydra says which of the jobs it was
                        raise
                    failures.append(error)

        task.__module__ = f"modiste.commands.{self.command}"  # Hydra names the job after it
        user_setting = os.environ.get("HYDRA_FULL_ERROR")
        # With the variable set, Hydra raises what went wrong and leaves the reporting to `main`.
        for_hydra = [flag for flag in self.flags if not flag.startswith("--config-path=")]  # given as `root`
        with _process([f"modiste {self.command}", *for_hydra, *self.overrides], full_error="1"):
            hydra.main(config_path=str(self.root.resolve()), config_name=self.command, **VERSION_BASE)(task)()
        if failures:
            raise failures[0]
        return None


def _folder(flag: str, path: str) -> Path:
    if not Path(path).is_dir():
        raise ModisteError(f"{flag}: there is no folder '{path}'.")
    return Path(path)


@contextmanager
def _process(argv: list[str], full_error: str | None) -> Iterator[None]:
    """Let the process have another ``sys.argv`` and HYDRA_FULL_ERROR for a while."""

    def set_both(argv: list[str], value: str | None) -> None:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if value is not None:
            os.environ["HYDRA_FULL_ERROR"] = value

    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    set_both(argv, full_error)
    try:
        yield
    finally:
        set_both(*before)


def _refuse_flag(parser: argparse.ArgumentParser, command: str, message: str) -> NoReturn:
    known = [name for action in parser._actions for name in action.option_strings]
    unknown = re.findall(r"unrecognized arguments: (\S+)", message)
    hint = did_you_mean(unknown[0].partition("=")[0], known) if unknown else f"See modiste {command} --help."
    raise ModisteError(f"modiste {command}: {message}. {hint}")


# ---------------------------------------------------------------------------------------------------------- overrides


def _is_positional(arg: str, outline: Outline) -> bool:
    """Not key=value; or, for a command that takes paths, a path that is there although it has an equals sign in it."""
    if "paths" in outline.keys and os.path.exists(arg):
        return True
    return "=" not in arg and not arg.startswith("~")


def _paths_override(positional: list[str], outline: Outline) -> str:
    from modiste.config import quote

    if "paths" not in outline.keys:
        hint = did_you_mean(positional[0], [*outline.keys, *outline.groups])
        raise ModisteError(f"'{positional[0]}' is not an override: write key=value. {hint}")
    return f"paths=[{','.join(map(quote, positional))}]"


def _model_folder(override: str, outline: Outline, call: Call) -> list[str]:
    """``model=DIR`` of an existing folder that no option of the group is called, as what it is short for."""
    from modiste.config import list_groups, quote

    key, _, value = override.partition("=")
    folder = Path(value.strip("'\"")).expanduser()
    if key != "model" or "model" not in outline.groups or not value or not folder.is_dir():
        return [override]
    if value in list_groups([call.root, *call.config_dirs]).get("model", {}):
        return [override]
    return ["model=exported", f"model.source={quote(str(folder))}"]


def _quoted(override: str, multirun: bool) -> str:
    """Quote a value that is a path on this machine, or names a run, and that Hydra's grammar would take apart."""
    from modiste.config import STARTS, quote

    key, _, value = override.partition("=")
    plain = re.fullmatch(r"[\w./:@+\-]*", value) or value[:1] in "'\""
    if not plain and (os.path.exists(value) or (key in STARTS and not multirun)):
        return f"{key}={quote(value)}"
    return override


def _restarted(overrides: list[str], outline: Outline, multirun: bool) -> list[str]:
    """``resume=RUN`` and ``continue=RUN`` begin with the overrides that RUN was started with."""
    from modiste.config import STARTS, quote

    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("resume", "continue") and key in outline.keys and value != "null":
            if multirun and key == "continue":
                raise ModisteError("continue=RUN goes on with one run: leave out -m.")
            run, earlier = _started_with(override)
            earlier = [o for o in earlier if o.partition("=")[0] not in STARTS]
            place = [f"hydra.run.dir={quote(str(run))}"] if key == "continue" else []
            return _merged(earlier, [*place, *overrides], outline)
    return overrides


def _started_with(override: str) -> tuple[Path, list[str]]:
    """The run directory that ``resume=RUN`` or ``continue=RUN`` names, and the overrides that it was started with."""
    import yaml
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from modiste.utils.run_dir import RunDir

    parsed = OverridesParser.create().parse_overrides([override])[0]
    if parsed.is_sweep_override():
        raise ModisteError(f"{override}: give one run directory.")
    run = RunDir.find(str(OmegaConf.create({"run": parsed.value()}).run)).path
    file = run / "overrides.yaml"
    overrides = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    if not (isinstance(overrides, list) and all(isinstance(override, str) for override in overrides)):
        raise ModisteError(f"{run} does not say how it was started: {file.name} is not there or not a list.")
    return run, overrides


def _merged(earlier: list[str], later: list[str], outline: Outline) -> list[str]:
    """Both lists; of the earlier one without the keys that the later one sets, and what lay in a group it replaces."""
    keys = {override.partition("=")[0] for override in later}
    replaced = tuple(f"{key}{sign}" for key in keys & set(outline.groups) for sign in "./")
    kept = [o for o in earlier if o.partition("=")[0] not in keys and not o.lstrip("+~").startswith(replaced)]
    return [*kept, *later]


def _sweep_values(override: str, call: Call) -> list[str]:
    """The single overrides that Hydra's basic sweeper would make of one: for a group all, else the first."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import OverrideParseException

    from modiste.config import list_groups

    try:
        parsed = OverridesParser.create().parse_overrides([override])[0]
    except OverrideParseException:
        return [override]  # composing it says what is wrong
    if not parsed.is_sweep_override():
        return [override]
    key = parsed.get_key_element()
    options = list_groups([call.root, *call.config_dirs]).get(key.lstrip("+"))
    if not parsed.is_discrete_sweep():
        return []  # an interval: for a sweeper that searches
    value = parsed.value()
    if isinstance(value, Glob):
        return [f"{key}={option}" for option in value.filter(list(options or []))]
    values = [f"{key}={value}" for value in parsed.sweep_string_iterator()]
    return values if options else values[:1]


# --------------------------------------------------------------------------------------------------------------- help


@dataclass
class Outline:
    """What a root config says of itself: its groups and keys, with the comments beside them."""

    head: list[str] = field(default_factory=list)
    groups: dict[str, tuple[str, str]] = field(default_factory=dict)  # name: (choice, comment)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)  # name: (value, comment)

    @classmethod
    def read(cls, folders: Sequence[Path], name: str) -> Outline:
        """Read ``name``.yaml from the first folder that has it, and the root configs that it builds on."""
        files = [folder / f"{name}.yaml" for folder in folders]
        file = next((file for file in files if file.is_file()), None)
        outline = cls()
        if file is None:
            return outline
        in_defaults = False
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                outline.head.append(line.lstrip("# ").rstrip())
            elif match := re.match(r"([A-Za-z_]\w*)\s*:\s*([^#]*?)\s*(?:#\s*(.*))?$", line):
                in_defaults = match[1] == "defaults"
                if match[1] not in ("defaults", "hydra"):
                    outline.keys[match[1]] = (match[2], match[3] or "")
            elif in_defaults and (
                match := re.match(r"\s*-\s*(?:optional\s+)?([\w/]+)\s*:\s*([^#]*?)\s*(?:#\s*(.*))?$", line)
            ):
                outline.groups[match[1]] = (match[2], match[3] or "")
            elif in_defaults and (match := re.match(r"\s*-\s*/?(?!_self_)(\w+)\s*(?:#.*)?$", line)):
                base = cls.read(folders, match[1])
                outline.groups = {**base.groups, **outline.groups}
                outline.keys = {**base.keys, **outline.keys}
        return outline


def _help() -> str:
    width = max(map(len, commands()), default=0)
    listed = [f"  {name:<{width}}  {line}" for name, line in commands().items()]
    return "\n".join(
        [
            "Modiste: contrastive vision-language learning for fashion.",
            "",
            "Usage: modiste COMMAND [group=option] [key=value] [flags]",
            "",
            "Commands:",
            *listed,
            "",
            "  modiste COMMAND --help               its groups, options and keys",
            '  eval "$(modiste --completion bash)"  tab completion, for ~/.bashrc',
            "  modiste --version",
        ]
    )


def _command_help(call: Call) -> str:
    from modiste.config import list_groups

    folders = [call.root, *call.config_dirs]
    outline = Outline.read(folders, call.config_name)
    every = list_groups(folders)
    lines = [f"modiste {call.command}: {commands()[call.command]}", ""]
    lines += [f"Usage: modiste {call.command} [group=option] [key=value] [flags]", ""]
    for top in outline.groups:
        for name in sorted(name for name in every if name.split("/")[0] == top):
            choice, comment = outline.groups.get(name, ("", ""))
            lines.append(f"{name}=" + (f"  {comment}" if comment else ""))
            lines += _table({o: _head_comment(file) for o, file in every[name].items()}, chosen=choice)
    if outline.keys:
        lines += ["", "Keys:"]
        lines += _table({f"{key}={value}": comment for key, (value, comment) in outline.keys.items()})
    lines += ["", "Examples:", *_examples(call.command, outline.head), "", "Flags:", FLAGS]
    return "\n".join(lines)


def _table(rows: dict[str, str], chosen: str = "") -> list[str]:
    names = re.findall(r"[\w-]+", chosen)
    width = min(max(map(len, rows)), 40)
    return [f"  {'*' if row in names else ' '} {row:<{width}}  {text}".rstrip() for row, text in rows.items()]


def _head_comment(file: Path) -> str:
    comments = (line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((line.lstrip("# ") for line in comments if "@package" not in line), "")


def _examples(command: str, head: list[str]) -> list[str]:
    """What stands as a command line in the module's docstring, or on a line of its own at the head of its config."""
    quoted = re.findall(rf"(?:`|: )(modiste {command}[^`\n]*)", _docstring(command))
    return [f"  {example}" for example in [*quoted, *(line for line in head if line.startswith(f"modiste {command} "))]]


# --------------------------------------------------------------------------------------------------------- completion


def _completion(request: str) -> Callable[[], int]:
    """``install=bash``, ``uninstall=bash`` or ``query=bash``, as in Hydra."""
    steps = {
        "install": lambda: _print(BASH),
        "uninstall": lambda: _print("complete -r modiste\nunset -f _modiste"),
        "query": _query,
    }
    step, _, shell = request.partition("=")
    if step not in steps:
        raise ModisteError(f"'{step}' is not a step of completion. {did_you_mean(step, steps)}")
    if shell != "bash":
        raise ModisteError(f"There is no completion for '{shell}'. Choose from: bash.")
    return steps[step]


def _query() -> int:
    line = os.environ.get("COMP_LINE", "")
    line = line[: int(os.environ.get("COMP_POINT") or len(line))]
    for reply in completions(line):
        print(_after_wordbreak(reply, line))
    return 0


def completions(line: str) -> list[str]:
    """What the last word of ``line`` may become.

    >>> completions("modiste tab")
    ['table']
    """
    from modiste.config import config_dir, list_groups

    words = line.split()[1:]
    word = "" if line[-1:].isspace() or not words else words.pop()
    if not words:
        candidates = [*commands(), "--help", "--version", "--completion"]
        return [c for c in candidates if c.startswith(word)]
    if words[0] not in commands():
        return []
    call = Call.parse(words[0], words[1:])
    folders = [config_dir(), *call.config_dirs]
    if word.startswith("-"):
        return [name for name in re.findall(r"--[\w-]+", FLAGS) if name.startswith(word)]
    key, equals, value = word.partition("=")
    groups = list_groups(folders)
    if equals:
        head = re.match(r"\[?(?:.*,)?", value)[0]  # type: ignore[index]
        return [f"{key}={head}{o}" for o in groups.get(key.lstrip("+"), {}) if o.startswith(value[len(head) :])]
    outline = Outline.read(folders, call.config_name)
    names = [f"{group}=" for group in groups if group.split("/")[0] in outline.groups]
    return sorted(c for c in {*names, *_key_completions(key, call)} if c.startswith(word))


def _key_completions(word: str, call: Call) -> list[str]:
    from omegaconf import OmegaConf

    from modiste.config import compose

    parent = word.rpartition(".")[0]
    try:
        config = compose(call.config_name, call.args.overrides, call.config_dirs, root=call.root)
        node = OmegaConf.select(config, parent) if parent else config
    except Exception:  # nothing to complete in a line that does not compose
        return []
    if not OmegaConf.is_dict(node) or node is None:
        return []
    children = {str(key): OmegaConf.is_config(node._get_node(key)) for key in node}
    return [f"{parent}.{key}".lstrip(".") + ("." if nested else "=") for key, nested in children.items()]


def _after_wordbreak(reply: str, line: str) -> str:
    """bash replaces what follows the last break character (= or : usually) of the word only."""
    word = "" if line[-1:].isspace() else line.split()[-1]
    breaks = [c for c in os.environ.get("COMP_WORDBREAKS", "") if c in "=:"]
    return reply[max((word.rfind(c) + 1 for c in breaks), default=0) :]
