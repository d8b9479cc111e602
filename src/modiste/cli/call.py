"""A command with its arguments, which are checked and then passed to Hydra."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from modiste.cli import checks
from modiste.cli import overrides as grammar
from modiste.cli.outline import Outline
from modiste.config import VERSION_BASE, paths, report
from modiste.config.composition import compose, compose_with_sources, opened
from modiste.config.invocation import given
from modiste.config.restart import check_in_place
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.run_dir import check_name
from modiste.utils.terminal import clean_rich


@dataclass
class Call:
    """A command with Hydra's flags, and overrides in Hydra's grammar."""

    command: str
    args: argparse.Namespace
    flags: list[str]
    overrides: list[str] = field(default_factory=list)
    config: Any = None

    @classmethod
    def parse(cls, command: str, argv: list[str]) -> Call:
        """Parse Hydra's flags and overrides in any order."""
        from hydra._internal.utils import get_args_parser

        parser = get_args_parser()
        parser.allow_abbrev = False  # or --experiment would mean --experimental-rerun
        parser.error = functools.partial(_refuse_flag, parser, command, argv)  # type: ignore[method-assign]
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
        """Folder of the root config."""

        return _folder("--config-path", self.args.config_path) if self.args.config_path else paths.config_dir()

    @property
    def config_dirs(self) -> list[Path]:
        """The user's folders of config groups (``--config-dir``)."""
        return [_folder("--config-dir", self.args.config_dir)] if self.args.config_dir else []

    @property
    def folders(self) -> list[Path]:
        """The config search path, in order."""
        return [self.root, *self.config_dirs]

    def check(self) -> None:
        """Compose the config and its variants in a sweep, to report errors before the command runs.

        Raises:
            ModisteError: An argument, a value or the composed config is invalid.
        """
        if sum(map(bool, (self.args.multirun, self.args.cfg, self.args.info))) > 1:
            raise ModisteError("--multirun, --cfg and --info exclude each other: give one.")
        if self.args.resolve and not self.args.cfg:
            raise ModisteError("--resolve needs --cfg: write --cfg job --resolve.")
        check_name(Path.cwd())
        outline = Outline.read(self.folders, self.config_name)
        self.overrides = grammar.normalised(self.args.overrides, outline, self.args.multirun)
        for overrides in self._variants():
            self._compose(overrides, outline, complete=not (self.args.cfg or self.args.info or self.args.hydra_help))

    def _compose(self, overrides: list[str], outline: Outline, complete: bool) -> None:

        arguments = self.config_name, overrides, self.config_dirs
        grammar.check_local(overrides, self.folders)
        self.config = config = compose(*arguments, root=self.root)
        check_in_place(config, overrides, lambda o: compose(self.config_name, o, self.config_dirs, root=self.root))
        if complete:
            found = checks.problems(
                config,
                overrides,
                outline,
                self.config_name,
                lambda: compose_with_sources(*arguments, root=self.root)[1],
            )
            here = not any(override.lstrip("+").startswith("hydra/launcher=") for override in overrides)
            report(found or (checks.machine_problems(config) if here else []))

    def _variants(self) -> list[list[str]]:
        """Return the overrides; for a sweep, one variant per option of a group, with first values otherwise."""
        if not self.args.multirun:
            return [self.overrides]
        values = [grammar.sweep_values(override, self.folders) for override in self.overrides]
        first = [choices[0] for choices in values if choices]
        variants = [first]
        for choices in values:
            variants += [[o if o != choices[0] else choice for o in first] for choice in choices[1:]]
        return variants

    def _for_hydra(self) -> list[str]:
        """Return the overrides for Hydra; keys that only some options of a swept group have get ``++``."""

        given = [opened(override) for override in self.overrides]
        if not self.args.multirun:
            return given
        swept = {key for o in given if "," in o and "." not in (key := o.partition("=")[0])}
        return [f"++{o}" if o.partition(".")[0] in swept and o.partition("=")[0] not in swept else o for o in given]

    def run(self) -> int | None:
        """Run the command through Hydra; return its exit code.

        Each job sees the command line that would run it alone, since Lightning restarts it for the other processes of a
        multi-device run.
        """
        if self.args.cfg == "job" and not (self.args.package or self.args.resolve):
            from omegaconf import OmegaConf

            print(OmegaConf.to_yaml(self.config), end="")  # `check` composed it, and Hydra would again
            return None
        import hydra

        clean_rich()
        script = sys.argv[0]
        flags = [flag for flag in self.flags if flag not in ("--multirun", "--run")]

        failures: list[Exception] = []
        started: list[Any] = []

        def task(cfg: Any) -> Any:
            from hydra.core.hydra_config import HydraConfig

            started.append(cfg)
            own = given(HydraConfig.get())
            hydra_own = [o for o in own["hydra"] if not o.startswith("hydra.mode=")]
            with process([script, self.command, *flags, *hydra_own, *own["task"]], full_error=user_setting):
                try:
                    report(checks.machine_problems(cfg))
                    return importlib.import_module(f"modiste.commands.{self.command}").run(cfg)
                except Exception as error:
                    if self.args.multirun:  # Hydra reports which job failed
                        raise
                    failures.append(error)  # raised below, without Hydra's report

        task.__module__ = f"modiste.commands.{self.command}"  # Hydra names the job after it
        user_setting = os.environ.get("HYDRA_FULL_ERROR")
        # With HYDRA_FULL_ERROR=1, Hydra raises errors and leaves the reporting to `main`.
        for_hydra = [flag for flag in self.flags if not flag.startswith("--config-path=")]  # given as `root`
        with process([f"modiste {self.command}", *for_hydra, *self._for_hydra()], full_error="1"), _hydra_config():
            try:
                hydra.main(config_path=str(self.root.resolve()), config_name=self.command, **VERSION_BASE)(task)()
            except OSError as error:
                if started or not error.filename:
                    raise
                raise ModisteError(
                    f"'{error.filename}' cannot be created: {error.strerror}: choose another directory "
                    "(hydra.run.dir=DIR)."
                ) from error
        if failures:
            raise failures[0]
        return None


def _folder(flag: str, path: str) -> Path:
    if not Path(path).is_dir():
        raise ModisteError(f"{flag}: folder '{path}' does not exist.")
    return Path(path)


@contextmanager
def process(argv: list[str], full_error: str | None) -> Iterator[None]:
    """Replace ``sys.argv`` and HYDRA_FULL_ERROR for the duration of the block."""

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


@contextmanager
def _hydra_config() -> Iterator[None]:
    """Reset HydraConfig afterwards: the next composition would read the last job's configuration."""
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _refuse_flag(parser: argparse.ArgumentParser, command: str, argv: list[str], message: str) -> NoReturn:
    known = [name for action in parser._actions for name in action.option_strings]
    unknown = re.findall(r"unrecognized arguments: (\S+)", message)
    # Hydra has a flag --run without a value, so --run=DIR is not unknown.
    name = re.findall(r"argument (--\w+)\S*: ignored explicit argument", message)
    for flag in unknown[:1] or [word for word in argv if word.partition("=")[0] in name]:
        behind = [word for word in argv[argv.index(flag) + 1 :][:1] if word[:1] != "-" and "=" not in word]
        outline = Outline.read([paths.config_dir()], command)
        if override := grammar.flag_as_override(flag, outline, *behind):
            raise ModisteError(f"modiste {command}: '{flag}' is not a flag: write {override}.")
    hint = did_you_mean(unknown[0].partition("=")[0], known) if unknown else f"See modiste {command} --help."
    raise ModisteError(f"modiste {command}: {message}. {hint}")
