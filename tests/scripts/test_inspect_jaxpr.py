"""The inspector, flag by flag, and its page in a browser."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "inspect_jaxpr.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
SMALL = """
import jax, jax.numpy as jnp

def loop(x, ws):
    step = lambda c, w: (c + jnp.tanh(c @ w), c.sum())
    c, sums = jax.lax.scan(step, x, ws)
    return jnp.square(c).sum() + sums[0]

def noisy(x, key):
    with jax.named_scope("noise"):
        y = x + jax.random.normal(key, x.shape)
    with jax.named_scope("half"):
        return y[0]

def fails(x):
    raise RuntimeError("not\\ntoday")

def stuck(x):
    return jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c * c, x)

@jax.custom_jvp
def refuses(x):
    return x

@refuses.defjvp
def _(primals, tangents):
    raise RuntimeError("no gradient")

number = 3
"""
LOOP = ("--function", "small:loop", "--args", "f32[4,8] f32[3,8,8]")

spec = importlib.util.spec_from_file_location("inspect_jaxpr", SCRIPT)
inspect_jaxpr = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inspect_jaxpr)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "small.py").write_text(SMALL)
    (tmp_path / "quits.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "small", raising=False)
    return tmp_path


def shown(capsys, *flags):
    inspect_jaxpr.main(flags)
    return capsys.readouterr().out


def rows(text, *beginning):
    return [line.split() for line in text.splitlines() if line.split()[: len(beginning)] == list(beginning)]


# --- meetings ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_said_where_devices_meet_that_nobody_has(capsys):
    flags = ("--preset", "demo", "--calm", "--mesh", "data=128,model=2", "--batch-size", "256")
    text = shown(capsys, *flags)
    assert "bert-demo in training: a step of 1 x 256 x 64 tokens" in text
    assert "mesh data=128, model=2: " in text and "all-reduce over model" in text
    found = json.loads(shown(capsys, *flags, "--json", "-"))
    assert found["mesh"] == {"data": 128, "model": 2} and found["bytes_per_axis"]["data"] > 0


# --- text --------------------------------------------------------------------------------------------------


def test_bert_is_folded_by_module_and_the_difference_explained(capsys):
    text = shown(capsys, "--preset", "mini")
    (down,) = [line.split() for line in text.splitlines() if "Layer/feed_forward/down x 4" in line][:1]
    assert down[:2] == ["K", "S"]
    assert "strict taxonomy:" in text and "reference taxonomy:" in text
    assert re.search(r"leaf modules are strictly K, .*Layer/feed_forward/down x 4 \(dot_general", text)
    assert "\x1b" not in text


def test_a_preset_has_the_dropout_of_its_recipe(capsys):
    assert "dropout" not in shown(capsys, "--preset", "demo").partition("strict taxonomy")[0]


def test_a_model_is_known_by_its_config(capsys, folder):
    config = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 5}
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 32}))
    text = shown(capsys, "--model", ".", "--precision", "bf16", "--batch-size", "2", "--seq-len", "6")
    assert "logits of 2 x 6 tokens, bfloat16" in text
    assert "Layer/attention/query x 5" in text


def test_unfolded_there_is_a_row_for_each_equation(capsys):
    folded, unfolded = (shown(capsys, "--preset", "demo", *flag) for flag in ((), ("--unfold",)))
    assert "erfc" not in folded.partition("strict taxonomy")[0]
    assert "erfc" in unfolded.partition("strict taxonomy")[0]


def test_a_loop_is_followed_by_its_body(capsys):
    text = shown(capsys, *LOOP)
    assert rows(text, "B", "B", "scan")[0][3:5] == ["x", "3"]
    assert rows(text, "S", "K", "tanh") and rows(text, "K", "S", "square")


def test_wrt_names_what_is_followed(capsys):
    function = ("--function", "jax.lax:dot", "--args", "f32[20,8] f32[8,3]")
    rows_of = lambda *flags: shown(capsys, *function, *flags)
    assert rows(rows_of("--wrt", "0"), "K", "S", "dot_general")
    assert rows(rows_of("--wrt", "1"), "S", "S", "dot_general")


def test_keys_are_arguments_too(capsys):
    text = shown(capsys, "--function", "small:noisy", "--args", "f32[4] key<fry>[]")
    assert "half" in text and "noise" in text


def test_the_plan_says_how_each_value_is_had(capsys):
    text = shown(capsys, *LOOP, "--plan", "--max-bytes", "1000000")
    assert re.search(r"Plan for one call: saves [\d,]+ of [\d,]+ bytes, at an overhead of 0.00%", text)
    assert re.search(r"f32\[3,4,8\] +384 +saved +scan", text)


def test_the_difference_accounts_for_every_residual(capsys):
    text = shown(capsys, "--preset", "demo", "--diff", "--max-overhead", "inf")
    found = re.search(
        r"keeps ([\d,]+) bytes .* has: saved ([\d,]+), inverted ([\d,]+), replayed ([\d,]+)", text
    )
    total, *parts = (int(number.replace(",", "")) for number in found.groups())
    assert total == sum(parts)
    assert "Layer/attention/dropout" not in text  # the gradient of attention draws again what was dropped


def test_colours_are_for_terminals_and_can_be_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[36mS" in shown(capsys, *LOOP)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(capsys, *LOOP)


@pytest.fixture
def environment():
    paths = [str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_it_runs_as_a_script(environment):
    command = [sys.executable, str(SCRIPT), *LOOP, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout)["schema"] == 1


def test_a_name_that_the_terminal_cannot_write_is_escaped(environment, folder):
    (folder / "named.py").write_text(SMALL.replace('"half"', '"h\u00e4lfte"'), "utf-8")
    command = [sys.executable, str(SCRIPT), "--function", "named:noisy", "--args", "f32[4] key<fry>[]"]
    ascii_only = {**environment, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=ascii_only, check=True)
    assert r"h\xe4lfte" in done.stdout


def test_a_reader_that_has_seen_enough_hears_no_complaint(environment):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(SCRIPT), *LOOP]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


# --- JSON --------------------------------------------------------------------------------------------------


def test_json_takes_the_place_of_text(capsys):
    found = json.loads(shown(capsys, "--preset", "mini", "--json", "-", "--diff"))
    assert found["schema"] == 1
    assert found["strict"]["taxonomy"] == "strict" and found["reference"]["taxonomy"] == "reference"
    parted = [(d["module"], d["repeats"]) for d in found["differences"]]
    assert parted[0] == ("Layer/feed_forward/down", 4)
    assert sum(value["bytes"] for value in found["residuals"]) == found["plan"]["residual_bytes"]
    saved = [value["bytes"] for value in found["plan"]["values"] if value["how"] == "saved"]
    assert sum(saved) == found["plan"]["saved_bytes"]


def test_json_in_a_file_leaves_the_text(capsys, folder):
    assert "strict taxonomy" in shown(capsys, *LOOP, "--json", "found.json")
    found = json.loads((folder / "found.json").read_text())
    assert found["plan"] is None and found["residuals"] is None
    assert found["subject"] == "small:loop(f32[4,8], f32[3,8,8])"


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "give one of"),
        (("--preset", "demo", "--model", "x"), "give one of"),
        (("--preset", "huge"), "--preset huge is none of demo, mini, base"),
        (("--model", "missing"), "config.json cannot be read"),
        (("--function", "small"), "not of the form"),
        (("--function", "nowhere:f"), "No module named 'nowhere'"),
        (("--function", "small:nothing"), "no attribute 'nothing'"),
        (("--function", "small:number"), "is a int, not a function"),
        (("--function", "small:fails", "--args", "f32[2]"), "RuntimeError: not"),
        (("--function", "small:loop", "--args", "f32[2"), "'f32[2' is no type"),
        (("--function", "small:loop", "--args", "f33[2]"), "does not have"),
        (("--function", "small:loop", "--args", "key<blue>[]"), "a key of none of"),
        (("--function", "small:loop", "--args", "f64[2]"), "64-bit"),
        (("--function", "small:loop", "--args", "f32[2]"), "cannot be traced"),
        ((*LOOP, "--wrt", "2"), "there are 2 arguments"),
        ((*LOOP, "--seq-len", "8"), "--seq-len does not go with --function"),
        (("--preset", "demo", "--calm"), "--calm and --mesh go together"),
        (("--preset", "demo", "--mesh", "data=4"), "--calm and --mesh go together"),
        (("--preset", "demo", "--calm", "--mesh", "data"), "--mesh data is no mesh: 'data' is no axis"),
        (("--preset", "demo", "--calm", "--mesh", "data=3"), "--mesh data=3 splits a batch in 3 (data), and"),
        ((*LOOP, "--calm", "--mesh", "data=4"), "--calm does not go with --function"),
        (("--preset", "demo", "--calm", "--mesh", "data=4", "--plan"), "--calm does not go with --plan"),
        (("--preset", "demo", "--args", "f32[]"), "--args does not go with --preset"),
        (("--preset", "demo", "--seq-len", "0"), "must be positive"),
        (("--preset", "demo", "--seq-len", "129"), "129 positions"),
        ((*LOOP, "--max-bytes", "5"), "limits a plan"),
        ((*LOOP, "--plan", "--max-bytes", "-5"), "must not be negative"),
        ((*LOOP, "--plan", "--max-bytes", "5", "--max-overhead", "0"), "at most one"),
        (("--preset", "demo", "--plan", "--max-bytes", "5"), "below the least possible"),
        ((*LOOP, "--html", "missing/page.html"), "its folder does not exist"),
        ((*LOOP, "--html", "."), "--html . cannot be written: Is a directory"),
        ((*LOOP, "--json", "/proc/found.json"), "--json /proc/found.json cannot be written"),
        ((*LOOP, "--html", "-"), "has to go to a file"),
        ((*LOOP, "--html", "same", "--json", "./same"), "both go to same"),
        ((*LOOP, "--bogus"), "Unrecognized options: --bogus"),
        ((*LOOP, "--max-bytes", "1.5"), "--max-bytes"),
        (("--preset", "demo", "--precision", "fp8"), "invalid choice 'fp8'"),
        (("--function", "quits:loop"), "SystemExit: 3"),
        (("--function", "small:stuck", "--args", "f32[2]", "--plan"), "cannot be differentiated"),
        (("--function", "small:refuses", "--args", "f32[2]", "--diff"), "RuntimeError: no gradient"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, folder, flags, said):
    with pytest.raises(SystemExit) as ended:
        inspect_jaxpr.main(flags)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err


# --- the page ----------------------------------------------------------------------------------------------


@pytest.fixture
def loop_page(folder, capsys):
    inspect_jaxpr.main((*LOOP, "--wrt", "0", "--html", "page.html", "--json", "page.json"))
    assert "wrote page.html" in capsys.readouterr().err
    return folder / "page.html"


def test_the_page_needs_nothing_but_itself(loop_page):
    text = loop_page.read_text()
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://", text)
    assert text.count("<svg") > 3


def browse(page, anchor, folder):
    """The page after its script ran, and what the console said."""
    command = (
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    )
    picture = folder / "page.png"
    options = {"capture_output": True, "text": True, "timeout": 60}
    address = f"file://{page}#{anchor}"
    shot = (f"--screenshot={picture}", "--window-size=1400,1200", "--enable-logging=stderr", address)
    photographed = subprocess.run([*command, *shot], **options)
    assert picture.read_bytes().startswith(b"\x89PNG")
    dumped = subprocess.run([*command, "--enable-logging=stderr", "--dump-dom", address], **options)
    said = (photographed.stderr + dumped.stderr).splitlines()
    return dumped.stdout, [line for line in said if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")
def test_a_browser_shows_the_page(loop_page, folder):
    dom, console = browse(loop_page, "l2", folder)
    assert console == []
    for series in ("inverting", "replaying", "chosen"):
        assert dom.count(f'class="point {series}"') >= 1
    found = json.loads((folder / "page.json").read_text())
    assert dom.count('data-line="') == len(found["strict"]["equations"])
    assert "<h3>2: tanh</h3>" in dom and "<dt>S-phase</dt>" in dom
    assert dom.count("edge lit") == 2


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")
def test_the_browser_test_would_see_an_error(loop_page, folder):
    loop_page.write_text(loop_page.read_text().replace("const panel", "nothing.at.all; const panel"))
    _, console = browse(loop_page, "l2", folder)
    assert any("ReferenceError" in line for line in console)
