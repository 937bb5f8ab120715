"""Text for a terminal of 40, 80 or 120 columns, and for a file, as it is printed."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
import termios
import textwrap

import pytest

from jaxfer import terminal
from jaxfer.terminal import FILE, GLUE, NAME, NUMBER, TEXT, Column, Page

COLUMNS = (
    Column("method", NAME),
    Column("val accuracy", NUMBER),
    Column("trainable parameters", NUMBER),
    Column("setting", TEXT),
)
ROWS = [
    ["lora", "0.900 ± 0.021", "1,234", "lr=0.003 rank=8"],
    ["all_layers_but_the_stem_with_warmup", "0.880 ± 0.010", "1,234,567,890", "lr=0.0001 weight_decay=0.05"],
]


def dedented(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


@pytest.fixture
def screen(monkeypatch):
    """Makes a terminal of so many columns: the stream that writes to it, and what reads what it shows."""
    monkeypatch.delenv("COLUMNS", raising=False)
    opened = []

    def make(columns: int, encoding: str = "utf-8"):
        shown, written = os.openpty()
        fcntl.ioctl(written, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        stream = os.fdopen(written, "w", encoding=encoding)
        opened.append((shown, stream))

        def read() -> str:
            stream.close()
            parts = []
            with contextlib.suppress(OSError):  # how a terminal without writers ends
                while part := os.read(shown, 65536):
                    parts.append(part)
            return b"".join(parts).decode(encoding).replace("\r\n", "\n")

        return stream, read

    yield make
    for shown, stream in opened:
        stream.close()
        os.close(shown)


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (
            120,
            """
            method                                val accuracy  trainable parameters  setting
            lora                                 0.900 ± 0.021                 1,234  lr=0.003 rank=8
            all_layers_but_the_stem_with_warmup  0.880 ± 0.010         1,234,567,890  lr=0.0001 weight_decay=0.05
            """,
        ),
        (
            80,
            """
                                                                trainable
            method                            val accuracy     parameters  setting
            lora                             0.900 ± 0.021          1,234  lr=0.003 rank=8
            all_layers_but_…tem_with_warmup  0.880 ± 0.010  1,234,567,890  lr=0.0001
                                                                           weight_decay=0.05
            """,
        ),
        (
            40,
            """
            lora
              val accuracy: 0.900 ± 0.021
              trainable parameters: 1,234
              setting: lr=0.003 rank=8
            all_layers_but_the_stem_with_warmup
              val accuracy: 0.880 ± 0.010
              trainable parameters: 1,234,567,890
              setting: lr=0.0001 weight_decay=0.05
            """,
        ),
    ],
)
def test_a_table(width, text):
    found = terminal.table(COLUMNS, ROWS, Page(width))
    assert found == dedented(text)
    assert max(map(len, found.splitlines())) <= width


def test_a_file_gets_lines_as_long_as_they_are():
    rows = [["a" * 150, "1", "2", "b c\td" * 50]]
    title, row = terminal.table(COLUMNS, rows, FILE).split("\n")
    assert row == "a" * 150 + " " * 13 + "1" + " " * 21 + "2  " + "b c\td" * 50 and title.startswith("method  ")


def test_names_that_would_look_alike_are_never_shortened_to_the_same():
    columns, rows = (Column("name", NAME), Column("score", NUMBER)), [[f"{'a' * 20}{i}{'b' * 20}", "0.5"] for i in "12"]
    assert terminal.table(columns, rows, Page(40)) == (
        f"{'a' * 20}1{'b' * 20}\n  score: 0.5\n{'a' * 20}2{'b' * 20}\n  score: 0.5"
    )


def test_a_name_of_several_words_breaks_between_them():
    columns, rows = (Column("method", NAME), Column("score", NUMBER)), [["logistic regression", "0.900"]]
    assert terminal.table(columns, rows, Page(20)) == "method      score\nlogistic    0.900\nregression"


def test_what_is_glued_stays_together():
    columns = (Column("effect"), Column("verdict"))
    rows = [[f"+0.05 [-0.01,{GLUE}+0.12]", "no evidence"]]
    assert terminal.table(columns, rows, Page(26)) == (
        "effect          verdict\n+0.05           no\n[-0.01, +0.12]  evidence"
    )


def test_labels_break_after_their_semicolons():
    columns, rows = (Column("", NAME), Column("")), [["x.png", "edema;effusion;pneumonia"]]
    assert terminal.table(columns, rows, Page(24)) == "x.png  edema;effusion;\n       pneumonia"


def test_names_can_not_drive_the_terminal():
    rows = [["a\x1b[2Jb\tc\nd\udce9", "1"]]
    assert terminal.table((Column("", NAME), Column("")), rows, Page(80)) == "a?[2Jb c d?  1"


def test_wide_characters_count_twice():
    rows = [["猫猫", "1"], ["cat", "2"]]
    assert terminal.table((Column("", NAME), Column("")), rows, Page(80)) == "猫猫  1\ncat   2"
    assert terminal.shortened("猫" * 10, 11) == "猫猫…猫猫"


@pytest.mark.parametrize(
    ("width", "ellipsis", "text"),
    [
        (21, "…", "block_11/attn/kernel"),
        (20, "…", "block_11/attn/kernel"),
        (19, "…", "block_11/…tn/kernel"),
        (19, "...", "block_11...n/kernel"),
        (6, "…", "blo…el"),
        (1, "…", "…"),
    ],
)
def test_the_middle_of_a_name_is_left_out(width, ellipsis, text):
    assert terminal.shortened("block_11/attn/kernel", width, ellipsis) == text


def test_lines_break_between_words_and_paths_stay_whole():
    path = "/somewhere/deep/" + "x" * 40
    text = f"- probe is best: a sentence that goes on\nnote\n\neverything is in {path}"
    assert terminal.wrapped(text, 40) == (
        f"- probe is best: a sentence that goes on\nnote\n\neverything is in\n  {path}"
    )
    assert terminal.wrapped("  memory  12 of 16 GiB", 20, hang=None) == "  memory  12 of 16\n     GiB"
    assert terminal.wrapped("memory  12 of 16 GiB: it fits well\none thing", 32, hang=None) == (
        "memory  12 of 16 GiB: it fits\n        well\none thing"
    )
    assert terminal.wrapped(text, None) == text


def test_parts_stay_together_unless_one_is_longer_than_a_line():
    parts = ["accuracy 0.99", "loss 0.5", "a note that is longer than a whole line", "mcc 1"]
    assert terminal.packed(parts, 26, start="val: ") == (
        "val: accuracy 0.99\n  loss 0.5\n  a note that is longer\n    than a whole line\n  mcc 1"
    )
    assert terminal.packed(parts[:2], 22, between=" · ") == "accuracy 0.99 ·\n  loss 0.5"
    assert terminal.packed(parts[:2], 80, between=" · ") == "accuracy 0.99 · loss 0.5"
    assert terminal.packed(parts, None, start="val: ") == "val: " + "  ".join(parts)


def test_the_page_of_a_stream(screen, monkeypatch, tmp_path):
    wide, _ = screen(120)
    ascii_only, _ = screen(40, "ascii")
    unknown, _ = screen(0)
    assert terminal.page_of(wide) == Page(120)
    assert terminal.page_of(ascii_only) == Page(40, "...")
    assert terminal.page_of(unknown) == Page(80)
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal.page_of(wide) == Page(60)
    with (tmp_path / "log").open("w") as log:
        assert terminal.page_of(log) == terminal.page_of(io.StringIO()) == terminal.page_of(None) == FILE
    assert terminal.page_of(log) == FILE, "a closed one"


def test_what_is_said_fits_the_stream(screen):
    stream, read = screen(40)
    terminal.say("table.csv, table.md, methods.png and every run are in runs/digits", stream)
    assert read() == "table.csv, table.md, methods.png and\n  every run are in runs/digits\n"
    log = io.StringIO()
    terminal.say("one line " * 20, log)
    assert log.getvalue() == "one line " * 20 + "\n"
