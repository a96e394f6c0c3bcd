"""The runner: order, skipping, parameters, failures that name what to do, and kills."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support import ROOT

import icreward_lib.cli.main as command_line
from icreward_lib.cli import reproduce as reproduce_module
from icreward_lib.cli.reproduce import reproduce
from icreward_lib.run import start
from icreward_lib.run.files import content_hash
from icreward_lib.run.notebooks import Notebook, NotebookError, save_executed

START = "from icreward_lib.run import start\nrun = start('{name}', profile, **changes)"
OUTPUT = "from icreward_lib.run.files import output_root"
PARAMETERS = 'profile: str = "laptop"  # settings\nchanges: dict = {}'
Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def quick(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No matrix products, the library importable in kernels, and no trace in this process's environment."""
    monkeypatch.setattr(reproduce_module, "measure_gflops", lambda dtype: (1.0, None))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, value in {"ICREWARD_PROFILE": "", "JUPYTER_PREFER_ENV_PATH": "", **reproduce_module.KERNELS}.items():
        monkeypatch.setenv(name, os.environ.get(name, value))  # restored afterwards


@pytest.fixture
def ran(output: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Put a stand-in for notebooks' execution in place, and tell which were executed since the last call."""
    names: list[str] = []

    def execute(book: Notebook, *_: object, **__: object) -> dict[str, object]:
        names.append(book.name)
        result = output / "results" / f"{book.name}.json"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(book.path.read_text())
        made = {"stage": "numbers", "key": "0", "notebook": "01_first", "seconds": 100.0, "reused": len(names) > 1}
        made["peak_rss_gb"] = 3
        outputs = {f"results/{book.name}.json": content_hash(result)}
        return {
            "seconds": 2.0,
            "peak_rss_gb": len(names),
            "outputs": outputs,
            "stages": [made, {**made, "reused": True}],
        }

    monkeypatch.setattr(reproduce_module, "execute", execute)

    def since() -> list[str]:
        found, names[:] = list(names), []
        return found

    return since


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_all_run_once_and_again_only_if_something_changed(
    write_notebook: Writer, output: Path, ran: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (
        write_notebook("01_first", "x = 1", parameters=PARAMETERS),
        write_notebook("02_second", "x = 1"),
    )

    def again(**options: object) -> list[str]:
        reproduce("smoke", notebooks=one.parent, **options)  # type: ignore[arg-type]
        return ran()

    assert again() == ["01_first", "02_second"]
    assert again() == []
    assert again(only="1", force=True) == ["01_first"]
    (output / "results" / "02_second.json").unlink()
    assert again() == ["02_second"]
    (output / "results" / "01_first.json").write_text("{}")
    assert again(first="01_first") == ["01_first"]
    edit(two, "x = 1", "x = 2")
    assert again() == ["02_second"]
    edit(one, "x = 1", "x = 2")
    assert again() == ["01_first", "02_second"]  # what comes later may follow from it
    edit(one, "# 01_first", "# prose")
    assert again() == []
    assert again(parameters={"changes": "{mlp.epochs: 3}"}) == ["01_first", "02_second"]
    assert again() == ["01_first", "02_second"]
    monkeypatch.setattr(reproduce_module, "installed_versions", lambda: {"torch": "another"})
    assert again(first="02") == ["02_second"]
    (output / ".cache" / "smoke" / "reproduce.json").write_text("{")
    assert again() == ["01_first", "02_second"]


def test_timing_tells_what_all_of_it_takes_from_nothing(
    write_notebook: Writer, output: Path, ran: Callable[[], list[str]]
) -> None:
    folder = write_notebook("01_first", "1").parent
    write_notebook("02_second", "1")
    timing_file = output / "results" / "smoke" / "timing.json"
    reproduce("smoke", notebooks=folder, only="01")
    assert not timing_file.exists()  # nothing is claimed before every notebook stands
    reproduce("smoke", notebooks=folder)
    timing = json.loads(timing_file.read_text())
    assert timing["notebooks"] == {"01_first": 2.0, "02_second": 2.0}
    assert timing["stages"] == {"01_first/numbers": 100.0}  # 02 found what 01 had made
    assert (timing["total_seconds"], timing["peak_rss_gb"]) == (4.0, 3)
    assert timing["matmul_gflops"] == {"fp32": 1.0, "bf16": 1.0}
    assert timing["provenance"]["profile"] == "smoke"
    reproduce("smoke", notebooks=folder, force=True)  # now 01 finds its own stage, which still counts
    assert json.loads(timing_file.read_text())["total_seconds"] == 104.0


def test_number_zero_runs_only_when_asked(write_notebook: Writer, ran: Callable[[], list[str]]) -> None:
    folder = write_notebook("00_models", "1").parent
    write_notebook("01_a", "1")
    write_notebook("helper", "1 / 0")
    reproduce("smoke", notebooks=folder)
    assert ran() == ["01_a"]
    reproduce("smoke", notebooks=folder, first="00")
    assert ran() == ["00_models"]


@pytest.mark.slow
def test_a_notebook_reports_its_outputs_stages_and_memory(write_notebook: Writer, output: Path) -> None:
    stage = "with run.stage('numbers', code=start) as stage:\n    stage.save_json('a.json', 1)"
    cells = (START.format(name="01_a"), stage, "run.record('sum.json', {'x': 1})")
    path = write_notebook("01_a", *cells, parameters=PARAMETERS)
    reproduce("smoke", notebooks=path.parent)
    entry = json.loads((output / ".cache" / "smoke" / "reproduce.json").read_text())["01_a"]
    result = output / "results" / "smoke" / "sum.json"
    assert entry["outputs"] == {"results/smoke/sum.json": content_hash(result)}
    assert [stage["stage"] for stage in entry["stages"]] == ["numbers"] and entry["peak_rss_gb"] > 0.01
    assert json.loads((output / "results" / "smoke" / "timing.json").read_text())["stages"].keys() == {"01_a/numbers"}


@pytest.mark.slow
def test_parameters_reach_the_notebooks_that_have_them(write_notebook: Writer, output: Path) -> None:
    record = f"import json\n{OUTPUT}\n(output_root() / NAME).write_text(json.dumps(VALUE))"
    parameters = "\n".join(
        [
            'profile: str = "laptop"',
            "steps: int = 3  # of training",
            "rate: float = 0.1",
            'name: str = "a"',
            "on: bool = False",
        ]
    )
    value = "[profile, steps, rate, name, on]"
    path = write_notebook("01_a", record.replace("NAME", "'a'").replace("VALUE", value), parameters=parameters)
    write_notebook("02_b", record.replace("NAME", "'b'").replace("VALUE", "profile"))
    reproduce("smoke", notebooks=path.parent, parameters={"steps": "5", "rate": "1e-4", "name": "5", "on": "true"})
    assert json.loads((output / "a").read_text()) == ["smoke", 5, 1e-4, "5", True]
    assert json.loads((output / "b").read_text()) == "smoke"


@pytest.mark.parametrize(
    ("parameters", "parts"),
    [
        ({"step": "5"}, ["-p step", "did you mean 'steps'"]),
        ({"zzz": "5"}, ["-p zzz", "there are changes, steps"]),
        ({"profile": "laptop"}, ["--profile"]),
        ({"icreward.epochs": "5"}, ["changes={icreward.epochs: 5}"]),
        ({"steps": "many"}, ["-p steps=many", "01_a takes a int", "such as 3"]),
        ({"steps": "1.5"}, ["-p steps=1.5"]),
        ({"steps": "true"}, ["-p steps=true"]),
        ({"changes": "[1"}, ["-p changes=[1", "dict"]),
    ],
)
def test_parameters_that_nothing_has_or_of_a_wrong_type_are_refused_first(
    write_notebook: Writer, output: Path, parameters: dict[str, str], parts: list[str]
) -> None:
    path = write_notebook("01_a", "1", parameters=f"{PARAMETERS}\nsteps: int = 3")
    with pytest.raises(NotebookError) as caught:
        reproduce("smoke", notebooks=path.parent, parameters=parameters)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert not list(output.rglob("*.ipynb"))


def test_a_parameter_that_only_another_notebook_has_is_refused(write_notebook: Writer) -> None:
    path = write_notebook("01_a", "1", parameters="steps: int = 3")
    write_notebook("02_b", "1")
    with pytest.raises(NotebookError, match="-p steps: no selected notebook"):
        reproduce("smoke", notebooks=path.parent, first="02", parameters={"steps": "4"})


@pytest.mark.slow
@pytest.mark.fault
def test_a_failure_stops_and_names_notebook_cell_error_and_the_way_on(
    write_notebook: Writer, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_notebook("01_a", "1").parent
    bad = write_notebook("02_b", "x = 1", "raise ValueError('no such clip\\nand more')", "late = 1")
    write_notebook("03_c", "1")
    with pytest.raises(NotebookError) as caught:
        reproduce("smoke", notebooks=folder, program="prog", parameters={})
    message = str(caught.value)
    assert message.startswith("02_b failed in cell [4]: ValueError: no such clip\n")  # [2] is papermill's own
    assert "to resume: prog reproduce --profile smoke --from 02" in message
    copy = nbformat.read(output / ".cache" / "smoke" / "notebooks" / "02_b.ipynb", as_version=4)
    assert "no such clip" in str(copy) and "late" in str(copy)
    said = capsys.readouterr().out
    assert "[2/3] 02_b  cell 4/5" in said and "03_c" not in said
    edit(bad, "raise ValueError", "print")
    reproduce("smoke", notebooks=folder)
    said = capsys.readouterr().out
    assert "01_a: up to date" in said and "[3/3] 03_c  cell 3/3" in said


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_kernel_is_one_sentence(write_notebook: Writer) -> None:
    path = write_notebook("01_a", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(NotebookError, match=r"01_a failed in cell .*died \(killed, or out of memory\)"):
        reproduce("smoke", notebooks=path.parent)


@pytest.mark.fault
def test_notebooks_that_cannot_run(write_notebook: Writer) -> None:
    path = write_notebook("01_a", "1", kernel=False)
    with pytest.raises(NotebookError, match="01_a.ipynb names no Python kernel"):
        reproduce("smoke", notebooks=path.parent)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(NotebookError, match="01_a.ipynb is not a notebook"):
        reproduce("smoke", notebooks=path.parent)
    write_notebook("01_a", "1", parameters="seed = input()")
    with pytest.raises(NotebookError, match="only lines of the form"):
        reproduce("smoke", notebooks=path.parent)
    write_notebook("01_a", "1")
    with pytest.raises(NotebookError, match="no notebook 7; there are 01_a"):
        reproduce("smoke", notebooks=path.parent, only="7")
    with pytest.raises(NotebookError, match="no numbered notebooks"):
        reproduce("smoke", notebooks=path.parent.parent)


@pytest.mark.slow
def test_a_kernel_of_another_name_is_run_by_this_python(write_notebook: Writer, output: Path) -> None:
    code = f"import sys\n{OUTPUT}\n(output_root() / 'python').write_text(sys.executable)"
    path = write_notebook("01_a", code)
    path.write_text(path.read_text().replace('"name": "python3"', '"name": "my-env"'))
    reproduce("smoke", notebooks=path.parent)
    assert (output / "python").read_text() == sys.executable


@pytest.mark.fault
def test_two_runs_of_one_profile_do_not_mix(write_notebook: Writer, output: Path) -> None:
    path = write_notebook("01_a", "1")
    lock = output / ".cache" / "smoke" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(NotebookError, match="another run of the profile smoke is at work"):
            reproduce("smoke", notebooks=path.parent)
    reproduce("smoke", notebooks=path.parent)


def begin(notebooks: Path, **options: Any) -> subprocess.Popen[str]:
    """Start the command on a folder of notebooks in a process of its own."""
    code = (
        "import sys; from functools import partial; from pathlib import Path\n"
        "from icreward_lib.cli import main, reproduce as r\n"
        "r.measure_gflops = lambda dtype: (1.0, None)\n"
        "main.reproduce = partial(r.reproduce, notebooks=Path(sys.argv[1]))\n"
        "sys.exit(main.main(['reproduce', '--profile', 'smoke']))"
    )
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    return subprocess.Popen([sys.executable, "-c", code, str(notebooks)], cwd=ROOT, text=True, **options)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_the_live_line_counts_items_and_an_interruption_is_one_sentence(write_notebook: Writer, output: Path) -> None:
    import pty

    loop = (
        "import time\n"
        "with run.stage('numbers', code=start) as stage:\n"
        "    for item in stage.missing(f'{i}.json' for i in range(300)):\n"
        "        stage.save_json(item, item)\n"
        "        time.sleep(0.1)"
    )
    path = write_notebook("01_a", START.format(name="01_a"), loop, parameters=PARAMETERS)
    terminal, inside = pty.openpty()
    # Whoever starts the tests in the background has told their processes to ignore Ctrl-C.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = begin(path.parent, stdout=inside, stderr=subprocess.PIPE, preexec_fn=listen)
    shown, deadline = "", time.monotonic() + 60
    while not (found := re.search(r"\[1/1\] 01_a  cell 4/4  00:\d\d  numbers: item \d+ of 300", shown)):
        assert time.monotonic() < deadline, shown
        shown += os.read(terminal, 1000).decode()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    os.close(terminal)
    os.close(inside)
    assert found and process.returncode == 130
    assert said == "\nicreward: interrupted; the same command goes on from what has been written\n"


@pytest.mark.slow
@pytest.mark.fault
def test_kill_and_run_again_goes_on_inside_the_stage(write_notebook: Writer, output: Path) -> None:
    """The kernel ends with its runner, and what it had made is not made again."""
    loop = (
        "import pathlib, time\n"
        "with run.stage('numbers', code=start) as stage:\n"
        "    for item in stage.missing(f'{i}.json' for i in range(4)):\n"
        "        stage.save_json(item, item)\n"
        "        with (run.root / 'made').open('a') as made: made.write(item + '\\n')\n"
        "        if item == '1.json' and not (run.root / 'second').exists(): time.sleep(60)\n"
        "run.record('sum.json', {'items': [stage.load_json(f'{i}.json') for i in range(4)]})"
    )
    path = write_notebook("01_a", START.format(name="01_a"), loop, parameters=PARAMETERS)
    process = begin(path.parent)
    made = output / "made"
    deadline = time.monotonic() + 60
    while not made.exists() or made.read_text().count("\n") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "results" / "smoke" / "sum.json").exists()
    (output / "second").touch()
    assert begin(path.parent).wait() == 0
    assert made.read_text().split() == [f"{i}.json" for i in range(4)]
    result = json.loads((output / "results" / "smoke" / "sum.json").read_text())
    assert result["items"] == [f"{i}.json" for i in range(4)]


@pytest.mark.slow
def test_executed_copies_go_back_without_times_and_injected_cells(write_notebook: Writer, output: Path) -> None:
    path = write_notebook("01_a", "6 * 7", parameters='profile: str = "smoke"')
    with pytest.raises(NotebookError, match="--save-notebooks goes with"):
        reproduce("laptop", notebooks=path.parent, save_notebooks=True)
    reproduce("smoke", notebooks=path.parent, save_notebooks=True)
    first = path.read_text()
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2]
    assert notebook.cells[2].outputs[0]["data"]["text/plain"] == "42"
    assert "papermill" not in first and "/tmp" not in first and "iopub" not in first
    assert notebook.metadata.kernelspec.name == "python3"
    reproduce("smoke", notebooks=path.parent, save_notebooks=True, force=True)
    assert path.read_text() == first
    save_executed(output / ".cache" / "smoke" / "notebooks" / "01_a.ipynb", path)
    assert path.read_text() == first


def test_saved_notebooks_have_no_progress_bars(write_notebook: Writer, output: Path) -> None:
    bars = "from transformers.utils import logging\nlist(logging.tqdm(range(2), desc='Loading weights'))\n"
    bars += "from diffusers.utils import logging\nlist(logging.tqdm(range(2), desc='Loading pipeline'))"
    path = write_notebook("01_a", bars, parameters='profile: str = "smoke"')
    reproduce("smoke", notebooks=path.parent, save_notebooks=True)
    assert "Loading" not in str([cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells])


def test_widgets_stay_in_saved_notebooks_and_progress_bars_go(write_notebook: Writer, tmp_path: Path) -> None:
    view = "application/vnd.jupyter.widget-view+json"

    def saved(*texts: str) -> dict[str, Any]:
        copy = write_notebook("01_a", "1")
        content = json.loads(copy.read_text())
        content["metadata"]["widgets"] = {"state": {}}
        outputs = [
            {"output_type": "display_data", "metadata": {}, "data": {"text/plain": text, view: {"model_id": "1"}}}
            for text in texts
        ]
        content["cells"][-1]["outputs"] = outputs
        copy.write_text(json.dumps(content))
        save_executed(copy, tmp_path / "saved.ipynb")
        return json.loads((tmp_path / "saved.ipynb").read_text())

    assert view not in str(bars := saved("Loading weights:   0%|          | 0/12 [00:00<?, ?it/s]"))
    assert "widgets" not in bars["metadata"]
    explorer = saved("VBox(children=(...))", "100%|####| 3/3")
    assert len(explorer["cells"][-1]["outputs"]) == 1 and "widgets" in explorer["metadata"]


def test_defaults_are_read_from_the_parameters_cell(write_notebook: Writer) -> None:
    path = write_notebook("01_a", "1", parameters="a: int = -1  # help\nb: dict = {'x': 1}\nc: list = []")
    book = Notebook.read(path)
    assert book.defaults == {"a": -1, "b": {"x": 1}, "c": []} and book.code_cells == 2


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["reproduce", "--profile", "nope"], 1, "icreward: there is no profile 'nope'"),
        (["reproduce", "-p", "nonsense"], 2, "not of the form name=value"),
        (["reproduce", "--from", "1", "--only", "2"], 2, "not allowed with"),
        (["prepare", "--changes", "{a: ["], 2, "not of the form {name: value}"),
        (["reproduce", "--models", "nowhere"], 2, "there is no folder nowhere"),
        (["nope"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_command_line_errors(arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        got = command_line.main(arguments)
    except SystemExit as exit_:
        got = exit_.code  # type: ignore[assignment]
    assert got == status
    assert said in capsys.readouterr().err


def test_command_line_passes_its_choices_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def remember(profile: str, **options: object) -> None:
        seen.update(options, profile=profile)

    monkeypatch.setattr(command_line, "reproduce", remember)
    assert command_line.main(["reproduce", "--profile", "smoke", "--from", "03", "--force", "-p", "a=b=c"]) == 0
    assert (seen["profile"], seen["first"], seen["only"], seen["force"]) == ("smoke", "03", None, True)
    assert seen["parameters"] == {"a": "b=c"}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "reproduce", interrupted)
    assert command_line.main(["reproduce"]) == 130


def documented_commands() -> list[list[str]]:
    """Every `icreward reproduce` with a parameter that the documentation tells a reader to type."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    typed = [re.search(r"icreward (reproduce [^`#]*-p [^`#]*)", line) for line in lines]
    return [shlex.split(found[1]) for found in typed if found]


def test_what_the_documentation_tries_out_never_touches_the_published_results(output: Path) -> None:
    commands = documented_commands()
    assert commands
    books = [Notebook.read(path) for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    for command in commands:
        chosen = command_line._parser().parse_args(command)
        raw, selected = dict(chosen.parameters), reproduce_module._select(books, chosen.first, chosen.only)
        reproduce_module._check_parameters(selected, raw)
        parsed = [book.parse(raw) for book in selected]
        if changes := next((each["changes"] for each in parsed if "changes" in each), None):
            assert start("03_icreward", chosen.profile, **changes).name == f"{chosen.profile}-changed", command
