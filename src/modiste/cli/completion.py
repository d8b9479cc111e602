"""Tab completion in bash, zsh and fish: Hydra's shell scripts, candidates from the composed config."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager

from modiste.cli.call import Call, process
from modiste.cli.help import FLAGS
from modiste.cli.outline import Outline, commands
from modiste.config import compose, list_groups
from modiste.errors import ModisteError, did_you_mean

SHELLS = ("bash", "fish", "zsh")
# Makes zsh read Hydra's bash script, which Hydra also uses for zsh.
ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit"


def step(request: str) -> Callable[[], int]:
    """Return the function for ``install=SHELL``, ``uninstall=SHELL`` or ``query=SHELL``, as in Hydra."""
    name, _, shell = request.partition("=")
    steps = {"install": _install, "uninstall": _uninstall, "query": _query}
    if name not in steps:
        raise ModisteError(f"'{name}' is not a completion action. {did_you_mean(name, steps)}")
    if shell not in SHELLS:
        raise ModisteError(f"There is no completion for '{shell}'. Choose from: {', '.join(SHELLS)}.")
    return lambda: steps[name](shell)


def _plugin(shell: str) -> object:
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra._internal.core_plugins.fish_completion import FishCompletion

    return (FishCompletion if shell == "fish" else BashCompletion)(None)  # type: ignore[arg-type]


def _named() -> AbstractContextManager[None]:
    """Hydra's scripts name the program as ``sys.argv`` does."""
    return process(["modiste"], os.environ.get("HYDRA_FULL_ERROR"))


def _install(shell: str) -> int:
    if shell == "zsh":
        print(ZSH)
    with _named():
        _plugin(shell).install()  # type: ignore[attr-defined]
    return 0


def _uninstall(shell: str) -> int:
    if shell != "fish":
        print("complete -r modiste")
    with _named():
        _plugin(shell).uninstall()  # type: ignore[attr-defined]
    return 0


def _query(shell: str) -> int:
    line = os.environ.get("COMP_LINE", "")
    line = line[: int(os.environ.get("COMP_POINT") or len(line))]
    print(("\n" if shell == "fish" else " ").join(completions(line)))
    return 0


def completions(line: str) -> list[str]:
    """Return completion candidates for the last word of ``line``.

    >>> completions("modiste tab")
    ['table']
    """

    words = line.split()[1:]
    word = "" if line[-1:].isspace() or not words else words.pop()
    if not words:
        candidates = [*commands(), "--help", "--version", "--completion"]
        return [c for c in candidates if c.startswith(word)]
    if words[0] not in commands():
        return []
    call = Call.parse(words[0], words[1:])
    if word.startswith("-"):
        return [name for name in re.findall(r"--[\w-]+", FLAGS) if name.startswith(word)]
    key, equals, value = word.partition("=")
    groups = list_groups(call.folders)
    if equals and (options := groups.get(key.lstrip("+"))):
        head = re.match(r"\[?(?:.*,)?", value)[0]  # type: ignore[index]
        return [f"{key}={head}{o}" for o in options if o.startswith(value[len(head) :])]
    if equals:
        return [reply for reply in _values(key, call) if reply.startswith(word)]
    outline = Outline.read(call.folders, call.config_name)
    names = [f"{group}=" for group in groups if group.split("/")[0] in outline.groups]
    return sorted(c for c in {*names, *_keys(key, call)} if c.startswith(word))


def _composed(call: Call) -> object:
    from omegaconf import OmegaConf

    try:
        config = compose(call.config_name, call.args.overrides, call.config_dirs, root=call.root)
    except Exception:  # no candidates for a line that does not compose
        return OmegaConf.create()
    OmegaConf.set_struct(config, False)
    return config


def _keys(word: str, call: Call) -> list[str]:
    from hydra.plugins.completion_plugin import CompletionPlugin

    try:
        return CompletionPlugin._get_matches(_composed(call), word)  # type: ignore[arg-type]
    except Exception:  # a key below a value without keys
        return []


def _values(key: str, call: Call) -> list[str]:
    """Return both values of a boolean, otherwise the current value for editing."""
    from omegaconf import OmegaConf

    try:
        value = OmegaConf.select(_composed(call), key)  # type: ignore[arg-type]
    except Exception:  # a broken interpolation
        return []
    if isinstance(value, bool):
        return [f"{key}=true", f"{key}=false"]
    return [f"{key}={value}"] if isinstance(value, (int, float, str)) and not re.search(r"\s", str(value)) else []
