"""The flags of `python -m bwsk_jax.inspect`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Look inside a function: its S and K equations, its plan, its frontier. Give one of --preset, --model
    and --function."""

    preset: str | None = None
    """BERT as `bwsk_jax.train --preset` trains it: demo, mini or base."""
    model: str | None = None
    """The BERT, RoBERTa or DistilBERT of a Hugging Face folder; only its config.json is read."""
    function: str | None = None
    """A function of arrays, package.module:name."""
    args: str | None = None
    """Types of the function's arguments as JAX prints them: "f32[4,128] i32[4] key<fry>[]"."""
    wrt: tuple[int, ...] | None = None
    """The arguments whose information is followed, from 0. Default: all."""
    precision: Literal["float32", "bf16", "fp16"] | None = None
    """What BERT computes in. Default: float32."""
    batch_size: int | None = None
    """Windows at a time. Default: the recipe's."""
    seq_len: int | None = None
    """Tokens per window. Default: the recipe's, or as many as the model takes."""
    unfold: bool = False
    """Show the equations of the modules."""
    plan: bool = False
    """Show how the plan has each value: saved, inverted or replayed. For BERT it is one layer's."""
    diff: bool = False
    """Show what becomes of each value that plain autodiff would keep."""
    calm: bool = False
    """Show where the devices of a training step of BERT meet, on the devices of --mesh, which need not be
    there, in place of everything else."""
    mesh: str | None = None
    """With --calm, the devices, as `bwsk_jax.train --mesh` takes them: data=8, fsdp=8, data=4,model=2."""
    max_overhead: float | None = None
    """Time that the plan may take beyond the fastest, as a fraction of a forward and backward pass."""
    max_bytes: int | None = None
    """Bytes that the plan may save. At most one of this and --max-overhead."""
    json: str | None = None
    """Write all of it for machines to this file, or to standard output (-) in place of the text."""
    html: str | None = None
    """Write a page with graph and frontier to this file."""
