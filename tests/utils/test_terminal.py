"""What is printed obeys no data: control characters are visible, and an encoding that lacks a character is no error."""

import io
import logging
import os
import subprocess
import sys
import unicodedata

import pytest
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from helpers.commands import modiste
from modiste.utils.logs import Line
from modiste.utils.terminal import Clean, clean, clean_rich, safe_output

EVIL = "\x1b]0;PWN\x07 \x1b[2J \x9b31m \x1b]8;;http://evil\x1b\\ \u202eevil\u2066 \r\x7f"
SHOWN = r"\x1b]0;PWN\x07 \x1b[2J \x9b31m \x1b]8;;http://evil\x1b\ \u202eevil\u2066 \x0d\x7f"
ISOLATES = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
HARMFUL = set("\x1b\x07\x9b\u202e\u2066\x7f")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_every_control_character_is_visible_and_text_is_as_it_was():
    assert clean(EVIL) == SHOWN
    assert clean("a\tb\nרד, é, 衣 \u200f") == "a\tb\nרד, é, 衣 \u200f"
    controls = {c for c in map(chr, range(0x3000)) if unicodedata.category(c) == "Cc"} - {"\t", "\n"}
    directions = {c for c in map(chr, range(0x3000)) if unicodedata.bidirectional(c) in ISOLATES}
    assert all(clean(c) == repr(c)[1:-1].replace("\\r", "\\x0d") for c in controls | directions)


@pytest.mark.parametrize("say", [
    lambda: print("title:", EVIL),
    lambda: print(EVIL, file=sys.stderr),
    lambda: sys.stdout.writelines([EVIL]),
    lambda: logging.StreamHandler().emit(logging.makeLogRecord({"msg": EVIL})),
])  # fmt: skip
def test_streams_are_cleaned_and_put_back(say, capsys):
    before = sys.stdout, sys.stderr
    with safe_output():
        say()
    assert (sys.stdout, sys.stderr) == before
    assert SHOWN in "".join(capsys.readouterr())


def test_the_log_file_is_cleaned_too():
    assert Line().format(logging.makeLogRecord({"msg": EVIL, "levelno": 20})) == SHOWN


def test_tables_of_rich_show_the_data_and_keep_their_own_style():
    clean_rich()
    out = Terminal()
    table = Table(title="\x1b[2Jwords", header_style="bold")
    table.add_column(Text("cat\x1b[1m"))
    table.add_row("[red]" + EVIL.replace("[", r"\["))
    Console(file=Clean(out), width=120, color_system="standard", force_terminal=True).print(table)
    text = out.getvalue()
    assert r"\x1b]0;PWN\x07 \x1b[2J \x9b31m" in text
    assert "\x1b[1m" in text
    assert "\x1b[31m" in text
    assert not (HARMFUL - {"\x1b"}) & set(text)
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text


def test_bars_still_move_the_cursor():
    clean_rich()
    out = Terminal()
    with Progress(console=Console(file=Clean(out), force_terminal=True)) as bar:
        bar.update(bar.add_task("Embedding \x1b[2J", total=2), completed=2)
    assert "\x1b[?25l" in out.getvalue()
    assert r"Embedding \x1b[2J" in out.getvalue()
    stream = Clean(io.StringIO())
    for written in ("\rdownload \x1b[2J", "\x1b[A\x1b[A"):  # as tqdm writes
        stream.write(written)
    assert stream.getvalue() == "\rdownload \\x1b[2J\x1b[A\x1b[A"


def test_a_table_of_evil_titles_is_printed_harmlessly(tmp_path):
    lines = ["image,text,product_id,cat\x1b[1m"]
    for row in range(6):
        Image.new("RGB", (8, 8), (40 * row, 0, 0)).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,red \x1b[2J\u202edress,p{row}\x1b[5m,\x9bcat{row % 2}")
    (tmp_path / "evil.csv").write_text("\n".join(lines), encoding="utf-8")
    done = modiste("data", "evil.csv", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert r"cat\x1b[1m" in done.stdout
    assert r"\x1b[2J\u202edress" in done.stdout
    assert not HARMFUL & set(done.stdout + done.stderr)
    done = modiste("data", "evil\x1b[2J.csv", cwd=tmp_path)
    assert r"evil\x1b[2J.csv" in done.stderr
    assert not HARMFUL & set(done.stdout + done.stderr)


def shell(command, folder, **environment):
    program = f"{sys.executable} -m modiste"
    given = {**os.environ, **environment, "MODISTE": program}
    return subprocess.run(
        ["bash", "-c", command.replace("modiste", program, 1)], capture_output=True, cwd=folder, env=given
    )


@pytest.mark.parametrize(("command", "code"), [
    ("modiste --help >&-", 0),
    ("modiste --help 2>&- >&- <&-", 0),
    ("modiste hlp 2>&-", 2),
    ("modiste --cfg <&-", 2),
    ("modiste --help | head -1; exit ${PIPESTATUS[0]}", (0, 1)),
])  # fmt: skip
def test_a_closed_stream_is_no_error(command, code, tmp_path):
    done = shell(command, tmp_path)
    assert done.returncode in (code if isinstance(code, tuple) else (code,))
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    script = (
        "import os, sys; from modiste.utils.terminal import safe_output\n"
        "with safe_output(), open('data', 'w') as file:\n"
        "    print(file.fileno() > 2, file=file, flush=True); os.system('echo noise')"
    )
    subprocess.run(["bash", "-c", f'{sys.executable} -c "{script}" >&- <&-'], cwd=tmp_path, check=True)
    assert (tmp_path / "data").read_text() == "True\n"


def test_a_terminal_without_the_characters_shows_escapes(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell("modiste été", tmp_path, **ascii_only)
    assert done.returncode == 2
    assert rb"There is no command '\xe9t\xe9'." in done.stderr
    done = shell("modiste data été.csv", tmp_path, **ascii_only)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert rb"\xe9t\xe9.csv" in done.stderr
