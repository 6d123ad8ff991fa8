import json
import math

import pytest

from bwsk_jax.train import main
from bwsk_jax.training.command_line import parse
from bwsk_jax.training.flags import FlagError, Flags


@pytest.fixture
def written(tmp_path):
    """Write flags to a file and return its path."""

    def write(**flags):
        file = tmp_path / "flags.json"
        file.write_text(json.dumps(flags))
        return str(file)

    return write


def test_flag_over_file_over_default(written):
    file = written(
        seq_len=32, batch_size=4, init=None, preset="mini", max_overhead="inf", text="digest", lr=1
    )
    options = parse(["--batch-size", "8", "--config", file])
    assert options == Flags(seq_len=32, batch_size=8, preset="mini", max_overhead=math.inf, lr=1)
    assert parse(["--config", file, "--preset", "demo", "--seq-len", "None"]) == Flags(
        batch_size=4, max_overhead=math.inf, lr=1
    )
    assert parse([]) == Flags()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"batchsize": 3}, "unknown key 'batchsize': did you mean 'batch_size'?"),
        ({"learning_rate": 1e-3}, "unknown key 'learning_rate': did you mean 'lr'?"),
        ({"out": "~/x"}, 'out "~/x" begins with a ~'),
        ({"config": "other.json"}, "unknown key 'config'"),
        ({"batch_size": "3"}, 'batch_size "3" must be an integer or null'),
        ({"batch_size": 3.5}, "batch_size 3.5 must be an integer or null"),
        ({"batch_size": True}, "batch_size true must be an integer or null"),
        ({"lr": "fast"}, 'lr "fast" must be a number or null'),
        ({"lr": math.nan}, "lr NaN must be positive"),
        ({"lr": "inf"}, "lr Infinity must be finite"),
        ({"out": None}, "out null must be a string"),
        ({"seed": "inf"}, 'seed "inf" must be an integer'),
        ({"epochs": 0}, "epochs 0 must be positive"),
        ({"preset": "dem"}, "preset \"dem\" is not one of demo, mini, base: did you mean 'demo'?"),
        ({"variant": "scratch-reversable"}, "did you mean 'scratch-reversible'?"),
    ],
)
def test_a_mistake_in_the_file_names_file_key_and_value(
    written, tmp_path, monkeypatch, capsys, flags, message
):
    monkeypatch.chdir(tmp_path)
    file = written(**flags)
    with pytest.raises(SystemExit) as ended:
        main(["--config", file])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --config {file}: ") and message in line
    assert [path.name for path in tmp_path.iterdir()] == ["flags.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b'{"seed": 1', "is not JSON: Expecting ',' delimiter"),
        (b"\xff", "is not JSON: 'utf-8' codec"),
        (b"[1, 2]", "holds no JSON object of flags, but [1, 2]"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, message):
    file = tmp_path / "flags.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FlagError) as mistake:
        parse(["--config", str(file)])
    assert str(mistake.value).startswith(f"--config {file} ") and message in str(mistake.value)
    assert "\n" not in str(mistake.value)
