"""`jaxfer new` and `jaxfer check`: what is written works as it stands, and what breaks the contract is said."""

from __future__ import annotations

import runpy

import pytest

from jaxfer import conformance, registry
from jaxfer.commands import main
from tests.test_own_files import forgotten_rooms

NAMES = {"method": "my_method", "model": "my_model", "task": "my_task", "source": "my_source"}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with one new file of each kind; afterwards the rooms are as they were."""
    monkeypatch.chdir(tmp_path)
    with forgotten_rooms("my_method", "my_model", "my_task", "my_source"):
        for kind, name in NAMES.items():
            assert main(["new", kind, name]) == 0
        yield tmp_path


def test_each_kind_is_written_with_its_test(repository, capsys):
    for kind, name in NAMES.items():
        assert (repository / f"{kind}s" / f"{name}.py").exists()
        assert "__NAME__" not in (repository / f"{kind}s" / f"{name}.py").read_text()
        assert f'conformance.check_{kind}("{name}")' in (repository / "tests" / f"test_{name}.py").read_text()
    assert main(["new", "experiment", "mine"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "configs/mine.py",
        "tests/test_mine.py",
        "next: jaxfer show configs/mine.py",
    ]


@pytest.mark.parametrize("kind", ["task", "source"])
def test_check_prints_a_line_for_each_property(kind, repository, capsys):
    capsys.readouterr()
    assert main(["check", kind, NAMES[kind]]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{kind} {NAMES[kind]} keeps the contract"
    assert len(lines) >= 4 and all(line.startswith("ok      ") for line in lines)


def test_the_written_test_passes(repository):
    runpy.run_path("tests/test_my_source.py")["test_it_keeps_the_contract"]()


def test_the_written_method_and_model_fit_each_other(repository):
    """Traced, not compiled; `make system` computes their numbers."""
    registry.use([str(repository)])
    for what in conformance.methods.SHAPES:
        assert what("my_method", "my_model") is None, what
    for what in conformance.models.PROPERTIES[:5]:
        assert what("my_model") is None, what


@pytest.mark.system
@pytest.mark.parametrize("kind", [pytest.param("method", marks=pytest.mark.rest), "model"])
def test_the_written_method_and_model_keep_the_contract(kind, repository, capsys):
    code = main(["check", kind, NAMES[kind]])
    out = capsys.readouterr().out
    assert code == 0, out


@pytest.mark.system
def test_the_written_experiment_trains(repository):
    main(["new", "experiment", "mine"])
    test = runpy.run_path("tests/test_mine.py")["test_it_trains"]
    test("pretrain", repository / "runs" / "mine")


def test_what_breaks_the_contract_is_said_and_exits_with_1(repository, capsys):
    file = repository / "sources" / "my_source.py"
    file.write_text(file.read_text().replace("astype(np.int32)", "astype(np.int64)"))
    assert main(["check", "source", "my_source"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN  my_source: labels are of its classes: train: labels int64[200] do not fit 2 classes" in out
    assert out.endswith("source my_source breaks 1 of its properties\n")


@pytest.mark.parametrize(
    "argv,message",
    [
        (["new", "method", "lora"], "a method called 'lora' exists; choose another name"),
        (["new", "method", "my_method"], "methods/my_method.py exists; choose another name, or remove it"),
        (["new", "method", "a-b"], "expected a name of letters, digits and _, found 'a-b'"),
        (["new", "method", "class"], "expected a name of letters, digits and _, found 'class'"),
        (["new", "plot", "x"], "invalid choice: 'plot'"),
        (["check", "method", "nothing"], "unknown method 'nothing'"),
        (["check", "method", "my_method", "--config.data.path=x"], "only a source takes options, such as"),
    ],
)
def test_nonsense_is_one_line(argv, message, repository, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
