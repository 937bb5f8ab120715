"""Every code block of the documentation is executed, in a folder with tiny photos, texts and checkpoints.

- A `python` block runs in its page's namespace; one that begins with `# FILE.py` is written to that file instead.
- A `sh` block runs command by command, in this process and with a step or two (`_shortened`).
- A `sh parsed` block needs a network, a cluster or minutes: its commands, options and configs are checked, not run.
- Every other block has to say that it is neither, in its language.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxfer
from jaxfer.commands import main
from jaxfer.registry import ADDS, METHODS
from tests.experiments import PHRASES, TOKENIZER
from tests.models.tiny import TINY
from tests.pretrained.checkpoints import RESNET, VIT, checkpoint
from tests.test_own_files import forgotten_rooms

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
METHOD_TABLES = ROOT / "docs" / "methods.md"
# Pages of many runs. What the commands of `runs` and `comparing` do has tests of its own.
WHOLE = dict.fromkeys(("README", "data", "checkpoints", "evidence", "extending"), (pytest.mark.system,))
WHOLE |= dict.fromkeys(("comparing", "runs"), (pytest.mark.system, pytest.mark.rest))
BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WRITTEN = re.compile(r"# ([\w/]+\.py)\n")
# Modules that the pages write.
OWN = (
    "channel_scale",
    "small_features",
    "class_means",
    "similar",
    "noisy",
    "at_least",
    "turned",
    "covary",
    "agree",
    "trigrams",
)
REPOSITORY = "https://github.com/jaxfer/jaxfer/blob/main/"
# What `sh parsed` blocks call besides jaxfer, make and pip.
OTHERS = {"git", "cd", "python3", "source"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language and marks, code) of each."""
    return BLOCK.findall(page.read_text())


def commands(code: str) -> list[list[str]]:
    """Words of each command, comments left out."""
    lines = (shlex.split(line, comments=True) for line in code.replace("\\\n", " ").splitlines())
    split = [[list(part) for run, part in itertools.groupby(line, "&&".__ne__) if run] for line in lines]
    return [words for line in split for words in line]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What a reader has: photos by class, reviews in a csv, downloaded checkpoints, the README's config files."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for name, number in itertools.product(("cat", "dog", "fox"), range(24)):
        path = folder / "photos" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(path)
    with open(PHRASES + "/train.tsv") as file, open(folder / "reviews.csv", "w") as out:
        csv.writer(out).writerows(csv.reader(file, delimiter="\t"))
    checkpoint(folder / "google/vit-base-patch16-224", "vit", VIT)
    checkpoint(folder / "downloads/resnet-50", "resnet", RESNET)
    minilm = folder / "sentence-transformers/all-MiniLM-L6-v2"
    shutil.copytree(TOKENIZER, minilm)
    options = {name: value for name, value in TINY["bert_pooler"][1].items() if name != "outputs"}
    checkpoint(minilm, "bert", options, labels=("bad", "good", "plain"))
    (minilm / "1_Pooling").mkdir()
    (minilm / "1_Pooling/config.json").write_text('{"pooling_mode_mean_tokens": true}')
    shutil.copytree(ROOT / "configs", folder / "configs")
    digits = folder / "configs/digits.py"
    digits.write_text(digits.read_text().replace("steps=300", "steps=3").replace("warmup=20", "warmup=0"))
    for language, code in blocks(ROOT / "README.md"):
        if language == "python" and (written := WRITTEN.match(code)):
            (folder / written[1]).write_text(code)
    return folder


@pytest.fixture
def desk(world, tmp_path, monkeypatch):
    """The page's own copy, as the working directory."""
    shutil.copytree(world, tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    with forgotten_rooms(*OWN):
        yield tmp_path / "desk"


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=WHOLE.get(page.stem, ())) for page in PAGES],
)
def test_every_block_runs(page, desk):
    names: dict = {}
    for language, code in blocks(page):
        if language == "python" and (written := WRITTEN.match(code)):
            path = desk / written[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
            exec(compile(code, path, "exec"), {})
        elif language == "python":
            exec(compile(code, page.name, "exec"), names)
        elif language == "sh":
            for words in commands(code):
                assert words[0] == "jaxfer", f"{page.name}: {words}: mark the block `sh parsed`"
                with pytest.MonkeyPatch.context() as patch:
                    if words[1] == "check":  # on several devices: tests/commands/test_new.py
                        patch.setattr(jax, "device_count", lambda: 1)
                    assert main(_shortened(words[1:])) == 0, " ".join(words)
        elif language == "sh parsed":
            for words in commands(code):
                _check(words)
        else:
            assert language == "text", f"{page.name}: a block of language {language!r}: python, sh, sh parsed or text"


def _shortened(argv: list[str]) -> list[str]:
    """The same command with two steps of 4 examples (one a stage) and one process; a comparison of one trial and seed.

    A comparison that names no methods compares the probe alone: tests/comparison runs all of them.
    """
    if argv[0] not in ("run", "compare", "sweep"):
        return argv
    if "--processes" in argv:
        at = argv.index("--processes")
        argv = argv[:at] + argv[at + 2 :]
    given = dict(word.removeprefix("--config.").split("=", 1) for word in argv if word.startswith("--config."))
    stages = jaxfer.load(argv[1], given).stages
    short = {f"stage.{name}.steps": 1 for name in stages} or {"steps": 2}
    short |= {"warmup": 0, "batch_size": 4, "parallel.devices": 1}
    if argv[0] == "compare":
        short |= {"compare.seeds": 1, "compare.trials": 1, "compare.methods": given.get("compare.methods", "probe")}
    kept = [word for word in argv if word.partition("=")[0].removeprefix("--config.") not in short]
    return [*kept, *(f"--config.{name}={value}" for name, value in short.items())]


def _check(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if words[0] == "srun":
        words = words[1:]
    if words[0] == "jaxfer":
        _check_jaxfer(words[1:])
    elif words[0] == "pip":
        for extra in re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", " ".join(words)))):
            assert extra in project["optional-dependencies"], words
        assert words[-2:-1] == ["-e"] and words[-1].startswith("."), f"{words}: the package is not on PyPI"
        assert all((ROOT / name).exists() for name in words if name.endswith(".txt"))
    elif words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in words[1:] if "=" not in word][0] in targets, words
    else:
        assert words[0] in OTHERS, words


def _check_jaxfer(argv: list[str]) -> None:
    """The command's help has each of its options, and the config takes the overrides."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([argv[0], "--help"])
    overrides = {}
    for word in argv[1:]:
        if word.startswith("--config."):
            name, _, value = word.removeprefix("--config.").partition("=")
            overrides[name] = value
        elif word.startswith("--"):
            assert word.partition("=")[0] in said.getvalue(), f"{argv[0]} has no option {word}"
    if argv[1].partition(":")[0].endswith(".py"):
        jaxfer.load(argv[1], overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """Within docs/ mkdocs checks them; these are the README's, and those into the repository."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if target.startswith(REPOSITORY):
            assert (ROOT / target.removeprefix(REPOSITORY)).exists(), target
        elif not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_every_method_is_listed():
    """In the guide's tables by name, and in the README's."""
    named = set(re.findall(r"`(?:\+ )?(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", METHOD_TABLES.read_text(), re.M))))
    methods, adds = set(METHODS.names()), set(ADDS.names())
    assert methods | adds == named
    assert methods | adds <= set(re.findall(r"`(?:\+ )?(\w+)`", (ROOT / "README.md").read_text()))


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert "make quickstart" in lines and "make test" in lines, ".ci/run starts from these"
