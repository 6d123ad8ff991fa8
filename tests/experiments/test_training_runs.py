"""The experiments that train: what they conclude from runs, and that runs are what they say."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from experiments import equivalence, recipes, six_variants
from experiments.runs import trained
from tests.support.texts import write_text

RUN = {
    "final_train_loss": 6.5,
    "final_val_metric": 200.0,
    "test_metric": 210.0,
    "peak_memory_mb": 1500.0,
    "wall_time_s": 120.0,
    "epochs_completed": 2,
    "first_val_metric": 900.0,
    "best_val_metric": 200.0,
    "unigram_perplexity": 800.0,
    "val_curve": [[10, 400.0], [20, 200.0]],
}


@pytest.mark.slow
def test_a_run_is_trained_once_and_then_only_reported(tmp_path, capfd):
    """As a program of its own. The other tests have its results made up."""
    write_text(tmp_path)
    flags = {"dataset": tmp_path, "seq_len": 16, "batch_size": 4, "max_steps": 4, "max_bytes": None}
    first, second = (trained("scratch-reversible", tmp_path / "runs", flags) for _ in range(2))
    assert first == second and first["total_steps"] == 4
    assert "is finished" in capfd.readouterr().out


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_student_s(seed):
    """Against the formula: the mean, and quantiles of t with n - 1 degrees of freedom around it."""
    differences = np.random.default_rng(seed).normal(0.3, 1.0, 5 + seed)
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    found = equivalence.interval(list(differences))
    expected = (differences.mean(), differences.mean() - half, differences.mean() + half)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx(expected)


@pytest.mark.parametrize(("shift", "equivalent"), [(0.0, True), (0.005, True), (0.02, False), (-0.02, False)])
def test_modes_are_equivalent_if_the_whole_interval_lies_within_the_margin(shift, equivalent):
    conventional = [6.0, 6.1, 5.9, 6.2, 6.05]
    noise = [0.001, -0.001, 0.0, 0.002, -0.002]
    reversible = [loss - shift + e for loss, e in zip(conventional, noise, strict=True)]
    losses = dict(zip(equivalence.LIMITS, (conventional, reversible), strict=True))
    found = equivalence.comparison(losses, 0.01)
    assert found["equivalent"] is equivalent
    assert found["standard deviation between conventional seeds"] == pytest.approx(
        np.std(conventional, ddof=1)
    )


def test_trials_are_ranked_by_their_share_of_the_unigrams():
    better = RUN | {"best_val_metric": 100.0}
    found = {"first": recipes.summary({}, RUN), "second": recipes.summary({}, better)}
    assert found["first"]["ratio"] == 0.25 and found["first"]["curve"] == [[10, 0.5], [20, 0.25]]
    rows = recipes.table(found).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| second", "| first"]


def test_each_trial_changes_one_thing_of_the_best():
    for (name, changed), other in itertools.product(recipes.TRIALS.items(), recipes.TRIALS):
        assert (name == other) == (changed == recipes.TRIALS[other])


def test_the_six_stand_beside_the_reference_s():
    runs = dict.fromkeys(six_variants.VARIANTS, RUN)
    table = six_variants.comparison(runs).splitlines()
    assert len(table) == 2 + 2 * 6
    assert table[-2:] == [
        "| scratch-reversible, here | 6.5000 | 200.00 | 210.00 | 1.50 GB | 2.0 | 2 |",
        "| scratch-reversible, the reference at base | 7.0919 | 1401.24 | 1503.86 | 2.9 GB | 9.0 | 5 |",
    ]
    figure, panels = plt.subplots(1, 2)
    six_variants.curves(panels, runs)
    lines = {line.get_label(): line.get_ydata() for line in panels[1].get_lines()}
    plt.close(figure)
    assert list(lines) == ["conventional", "analyzed", "reversible", "unigram frequencies"]
    assert np.exp(lines["reversible"]) == pytest.approx([900, 400, 200])
