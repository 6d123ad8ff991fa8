"""Ask a Hugging Face BERT for words: `python -m bwsk_jax.fill_mask FOLDER_OR_HUB_NAME "text with [MASK]"`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from bwsk_jax import usage
from bwsk_jax.errors import UserError, mistakes_in_one_line
from bwsk_jax.training.flags import CHOICES, FlagError, one_of, value_fault

if TYPE_CHECKING:
    from bwsk_jax.training.data.pretrained import MaskedLM

MASK = "[MASK]"


class TextError(UserError):
    """A text that has no gap to fill, or does not fit into the model."""


@dataclass(frozen=True)
class Options:
    """Fill the gaps in a text with the words that a BERT, RoBERTa or DistilBERT finds most likely.

    They are those of transformers' pipeline "fill-mask".
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER_OR_HUB_NAME")]
    """A Hugging Face BERT, RoBERTa or DistilBERT with a masked-LM head, such as runs/scratch-reversible."""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """A text with [MASK], or the model's own mask token such as <mask>, where words are wanted."""
    top: int = 5
    """How many words to show for each gap."""
    json: bool = False
    """Print JSON, as transformers' pipeline returns it."""
    device: Annotated[str, one_of(CHOICES["device"])] = "auto"
    """Where to compute."""


@dataclass(frozen=True)
class Filling:
    """A word for a gap. The fields have the names that transformers gives them."""

    score: float
    token: int
    token_str: str
    sequence: str


def main(args: Sequence[str] | None = None) -> None:
    """Parse `args` (the command line's by default) and print the most likely words.

    A mistake ends in one line on standard error and exit status 2.
    """
    with mistakes_in_one_line():
        options = usage.parse(Options, args, prog="python -m bwsk_jax.fill_mask")
        if fault := value_fault("init", options.model):
            raise FlagError(f"the model {options.model} {fault}")
        if fault := value_fault("device", options.device):
            raise FlagError(f"--device {options.device} {fault}")
        # Not to be told that there is no PyTorch: none is needed.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from bwsk_jax.training.data.pretrained import load_masked_lm
        from bwsk_jax.training.device import select_device

        select_device(options.device)
        gaps = fill_mask(load_masked_lm(options.model), options.text, options.top)
        as_dicts = [[asdict(filling) for filling in gap] for gap in gaps]
        print(json.dumps(as_dicts, indent=2) if options.json else _table(gaps))


def fill_mask(model: MaskedLM, text: str, top: int = 5) -> list[list[Filling]]:
    """Return for each gap in `text` the `top` most likely words, the likeliest first.

    A gap is [MASK], whatever the model is, or the mask token of its tokenizer. The text is encoded as the
    tokenizer has it, most often between two special tokens. Raises `TextError`.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from bwsk_jax import bert

    config, params, tokenizer = model
    encoded = tokenizer(text.replace(MASK, tokenizer.mask_token), verbose=False)
    ids = np.array(encoded["input_ids"], np.int32)
    gaps = np.flatnonzero(ids == tokenizer.mask_token_id)
    if not len(gaps):
        raise TextError(f"the text has no {tokenizer.mask_token}: put one where a word is wanted")
    if len(ids) > (longest := config.longest_input):
        raise TextError(f"the text has {len(ids)} tokens, more than the model's {longest} positions")
    if not 0 < top <= config.vocab_size:
        raise TextError(f"--top {top} must be from 1 to {config.vocab_size}, which are all pieces")
    typed = config.type_vocab_size > 1 and "token_type_ids" in encoded
    types = jnp.array([encoded["token_type_ids"]], jnp.int32) if typed else None
    hidden = bert.encode(config, params, jnp.array([ids]), token_type_ids=types)[0, gaps]
    scores, pieces = jax.lax.top_k(jax.nn.softmax(bert.predict(config, params, hidden)), top)

    def filling(gap: int, piece: int, score: float) -> Filling:
        filled = ids.copy()
        filled[gap] = piece
        sequence = tokenizer.decode(filled, skip_special_tokens=len(gaps) == 1)
        return Filling(score, piece, tokenizer.decode([piece]), sequence)

    rows = zip(gaps.tolist(), pieces.tolist(), scores.tolist(), strict=True)
    return [[filling(gap, *best) for best in zip(found, rated, strict=True)] for gap, found, rated in rows]


def _table(gaps: list[list[Filling]]) -> str:
    """Return a line for each word: its probability, the word, and the text with it."""
    rows = [
        [(filling.score, _in_one_line(filling.token_str), _in_one_line(filling.sequence)) for filling in gap]
        for gap in gaps
    ]
    width = max(len(word) for gap in rows for _, word, _ in gap)
    lines = [[f"{score:7.2%}  {word:<{width}}  {sequence}" for score, word, sequence in gap] for gap in rows]
    return "\n\n".join("\n".join(gap) for gap in lines)


def _in_one_line(text: str) -> str:
    """Return `text` with escapes for line breaks and the like, which are words of a byte-level BPE.

    >>> _in_one_line("small\\n")
    'small\\\\n'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


if __name__ == "__main__":
    main()
