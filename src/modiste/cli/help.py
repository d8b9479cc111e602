"""The text of `--help`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from modiste.cli.outline import Outline, commands, docstring

if TYPE_CHECKING:
    from modiste.cli.call import Call

OPEN = 9  # maximum number of values of a mapping that help shows one by one
FLAGS = """\
  -m, --multirun           run every combination: loss=clip,siglip seed=0,1,2
  --cfg job [--resolve]    print the composed config and exit (hydra, all: with Hydra's own)
  --info defaults          where each part of the config came from
  -cd, --config-dir DIR    your own folder of config groups
  -cn, --config-name NAME  another root config
  --hydra-help             Hydra's own settings"""


def overview() -> str:
    """Return the help of `modiste --help`: the commands, one per line."""
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


def of_command(call: Call) -> str:
    """Return a command's help: groups with options, and the config's keys with values and comments."""
    from modiste.config import list_groups
    from modiste.config.comments import summary

    outline = Outline.read(call.folders, call.config_name)
    every = list_groups(call.folders)
    lines = [f"modiste {call.command}: {commands()[call.command]}", ""]
    lines += [f"Usage: modiste {call.command} [group=option] [key=value] [flags]", ""]
    for top in outline.groups:
        for name in sorted(name for name in every if name.split("/")[0] == top):
            choice, comment = outline.groups.get(name, ("", ""))
            lines.append(f"{name}=" + (f"  {comment}" if comment else ""))
            lines += _table({o: summary(file) for o, file in every[name].items()}, chosen=choice)
    keys = _keys(call, [*outline.keys, *outline.groups])
    if keys:
        lines += ["", "Keys (give options before --help to see their keys):", *_table(keys)]
    lines += ["", "Examples:", *_examples(call.command, outline.head), "", "Flags:", FLAGS]
    return "\n".join(lines)


def _keys(call: Call, order: list[str]) -> dict[str, str]:
    """Map ``key=value`` → comment for the composed config, the root's own keys first."""
    from omegaconf import OmegaConf

    from modiste.config.comments import comments
    from modiste.config.composition import compose_with_sources

    config, files = compose_with_sources(call.config_name, call.args.overrides, call.config_dirs, root=call.root)
    found: dict[str, str] = {}
    for file, package in files:
        for key, comment in comments(file.read_text(encoding="utf-8")).items():
            found[f"{package}.{key}".lstrip(".")] = comment
    plain: Any = OmegaConf.to_container(config, resolve=False)
    ordered = {key: plain[key] for key in [*(key for key in order if key in plain), *plain]}
    rows = {}
    for key, value in _entries(ordered):
        if isinstance(value, dict) and value and found.get(key) and not _is_closed(key, value):
            rows[f"{key}."] = found[key]
        elif not isinstance(value, dict) or not value or _is_closed(key, value):
            rows[f"{key}={_shown(value)}"] = found.get(key, "")
    return rows


def _entries(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield keys and values, outer keys first, and nothing below a closed mapping."""
    for name, value in node.items():
        key = f"{path}.{name}" if path else str(name)
        if name == "_target_":
            continue
        yield key, value
        if isinstance(value, dict) and not _is_closed(key, value):
            yield from _entries(value, key)


def _is_closed(key: str, value: dict[str, Any]) -> bool:
    """Whether a mapping is a vocabulary rather than settings, so that its entries would clutter the help."""
    return "." in key and "_target_" not in value and sum(1 for _ in _leaves(value)) > OPEN


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def _shown(value: Any) -> str:
    """Format a value as in an override, shortened to 48 characters."""
    if isinstance(value, dict) and value:
        return f"{{{', '.join(map(str, list(value)[:3]))}, …}}"
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 48 else f"{text[:47]}…"


def _table(rows: dict[str, str], chosen: str = "") -> list[str]:
    names = re.findall(r"[\w-]+", chosen)
    width = min(max(map(len, rows)), 40)
    lines = []
    for row, text in rows.items():
        wrapped = textwrap.wrap(text, 78) or [""]
        lines.append(f"  {'*' if row in names else ' '} {row:<{width}}  {wrapped[0]}".rstrip())
        lines += [f"{'':{width + 6}}{more}" for more in wrapped[1:]]
    return lines


def _examples(command: str, head: list[str]) -> list[str]:
    """Collect example command lines from the module's docstring and the header of its config."""
    quoted = re.findall(rf"(?:`|: )(modiste {command}[^`\n]*)", docstring(command))
    return [f"  {example}" for example in [*quoted, *(line for line in head if line.startswith(f"modiste {command} "))]]
