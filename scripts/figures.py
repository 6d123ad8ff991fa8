"""Measure what reversible training saves and costs, and print it as a table.

    python scripts/figures.py peak      compiled peak of a BERT-base step, by mode (2 minutes on 2 cores)
    python scripts/figures.py time      step time of a mini BERT, modes interleaved (4 minutes)
    python scripts/figures.py curves    50 steps of a mini BERT, conventional and reversible (5 minutes)
    python scripts/figures.py pipeline  tokens per second of the batches alone and of the step (1 minute)

Memory is what the compiler says of the whole jitted step: arguments + outputs + temporaries - aliased. For
time, each round measures all modes in turn, and the figure is the median over rounds of the ratio within a
round. A CPU's figure stands for that CPU only.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import bwsk_jax
from bwsk_jax import bert
from bwsk_jax.training.data.windows import Packed, cut_windows, epoch_rows
from bwsk_jax.training.step.optimizer import make_optimizer
from bwsk_jax.training.step.placement import ONE_DEVICE
from bwsk_jax.training.step.train_step import initial_state, make_train_step, state_shapes

MODES: dict[str, Callable] = {
    "conventional": jax.lax.scan,
    "jax.checkpoint": lambda body, init, xs: jax.lax.scan(jax.checkpoint(body), init, xs),
    "reversible, 3%": bwsk_jax.reversible_scan,
    "reversible, least memory": functools.partial(bwsk_jax.reversible_scan, max_overhead=math.inf),
    "replay only, 3%": functools.partial(bwsk_jax.reversible_scan, invert=False),
}
MASK_ID = 103
FIRST_WORD = 1000  # the words of BERT's vocabulary begin about here, after what is reserved


def step_and_state(preset: str, scan: Callable, steps: int = 100):
    """Return the jitted training step of a preset, and a function that makes its first state from a key."""
    config = bert.PRESETS[preset]
    optimizer = make_optimizer(3e-4, steps)
    step = make_train_step(config, optimizer, MASK_ID, scan=scan)
    return step, lambda key: initial_state(bert.init_params(config, key), optimizer)


def random_words(preset: str, shape: int | tuple[int, ...]) -> np.ndarray:
    """Return token ids without the reserved ones, each as frequent as any other."""
    vocab_size = bert.PRESETS[preset].vocab_size
    return np.random.default_rng(0).integers(FIRST_WORD, vocab_size, shape, dtype=np.int32)


def peak(preset: str = "base", batch_size: int = 4, seq_len: int = 512, target: str | None = None) -> None:
    """Print the compiled peak of one bfloat16 training step of one micro-batch, in each mode.

    With a target (v5e, h100, ...) it is that of another machine, for a TPU with the cycles that it estimates.
    """
    config, optimizer = bert.PRESETS[preset], make_optimizer(3e-4, 100)
    state = state_shapes(config, optimizer, dtype=jnp.bfloat16)
    tokens_abt = jax.ShapeDtypeStruct((1, batch_size, seq_len), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
    baseline = None
    print(f"{preset}, B={batch_size}, T={seq_len}, bf16, one micro-batch, {target or jax.default_backend()}")
    print(
        f"{'mode':<26}{'compiled peak MiB':>18}{'/ conventional':>16}{'M cycles':>18}{'/ conventional':>16}"
    )
    for name, scan in MODES.items():
        step = make_train_step(config, optimizer, MASK_ID, dtype=jnp.bfloat16, scan=scan)
        program = bwsk_jax.compile_for(step, state, tokens_abt, key, target=target)
        found = [program.peak_bytes / 2**20, *([program.cycles / 1e6] if program.cycles else [])]
        baseline = baseline or found
        columns = (f"{a:>18,.1f}{a / b:>16.3f}" for a, b in zip(found, baseline, strict=True))
        print(f"{name:<26}{''.join(columns)}", flush=True)


def timing(preset: str = "mini", batch_size: int = 4, seq_len: int = 512, rounds: int = 15) -> None:
    """Print the step time of each mode, float32, measured in turns in one process."""
    tokens = random_words(preset, (1, batch_size, seq_len))
    key = jax.random.key(0, impl="rbg")
    runs = {}
    for name, scan in MODES.items():
        step, state_of = step_and_state(preset, scan)
        state = state_of(jax.random.key(0))
        compiled = step.lower(state, tokens, key).compile()
        state, _ = jax.block_until_ready(compiled(state, tokens, key))
        runs[name] = [compiled, state]
    seconds: dict[str, list[float]] = {name: [] for name in MODES}
    for turn in range(rounds):
        names = list(MODES) if turn % 2 == 0 else list(MODES)[::-1]
        for name in names:
            compiled, state = runs[name]
            start = time.perf_counter()
            runs[name][1], _ = jax.block_until_ready(compiled(state, tokens, key))
            seconds[name].append(time.perf_counter() - start)
    print(f"{preset}, B={batch_size}, T={seq_len}, float32, {rounds} rounds, {jax.default_backend()}")
    print(f"{'mode':<26}{'median s':>10}{'/ conventional (median of rounds)':>36}")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, seconds["conventional"], strict=True))
        print(f"{name:<26}{statistics.median(times):>10.3f}{ratio:>36.3f}")


def curves(preset: str = "mini", batch_size: int = 2, seq_len: int = 256, steps: int = 50) -> None:
    """Print the largest difference between the loss curves of conventional and reversible training with
    dropout."""
    ranks = np.random.default_rng(0).zipf(1.3, (steps, 1, batch_size, seq_len))
    text = ranks % (bert.PRESETS[preset].vocab_size - FIRST_WORD) + FIRST_WORD
    losses = {}
    for name in ("conventional", "reversible, 3%", "reversible, least memory"):
        step, state_of = step_and_state(preset, MODES[name], steps)
        state, key = state_of(jax.random.key(0)), jax.random.key(1, impl="rbg")
        losses[name] = []
        for tokens in text.astype(np.int32):
            state, loss = step(state, tokens, key)
            losses[name].append(float(loss))
    dropout = bert.PRESETS[preset].hidden_dropout_prob
    print(
        f"{preset}, B={batch_size}, T={seq_len}, float32, dropout {dropout}, {steps} steps, "
        f"{jax.default_backend()}"
    )
    for name, curve in losses.items():
        distance = max(abs(a - b) for a, b in zip(curve, losses["conventional"], strict=True))
        print(
            f"{name:<26}{curve[0]:>8.4f} -> {curve[-1]:.4f}   largest difference {distance:.1e}", flush=True
        )


def pipeline(preset: str = "mini", seq_len: int = 512, batch_size: int = 4, rounds: int = 5) -> None:
    """Print the tokens per second that batches are made with, and those that a step of them takes."""
    stream = Packed(random_words(preset, 2_000_000))
    windows = cut_windows(stream, seq_len, seq_len, split="train")
    step, state_of = step_and_state(preset, jax.lax.scan)
    state, key = state_of(jax.random.key(0)), jax.random.key(0, impl="rbg")
    made, taken = [], []
    for epoch in range(rounds + 1):
        start = time.perf_counter()
        rows = epoch_rows(len(windows), 1, batch_size, seed=0, epoch=epoch)
        batches = [ONE_DEVICE.placed_windows(windows, rows_ab) for rows_ab in rows]
        made.append(sum(batch.size for batch in batches) / (time.perf_counter() - start))
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batches[0], key))
        taken.append(batches[0].size / (time.perf_counter() - start))
    ratio = statistics.median(a / b for a, b in zip(made[1:], taken[1:], strict=True))  # the first compiled
    print(f"{preset}, B={batch_size}, T={seq_len}, float32, {rounds} rounds, {jax.default_backend()}")
    print(
        f"batches alone {statistics.median(made[1:]):,.0f} tokens/s, step {statistics.median(taken[1:]):,.0f}"
    )
    print(f"batches are made {ratio:,.0f} times as fast as they are taken")


COMMANDS: dict[str, Callable[..., None]] = {
    "peak": peak,
    "time": timing,
    "curves": curves,
    "pipeline": pipeline,
}

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(COMMANDS)
