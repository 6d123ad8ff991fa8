"""Load an export the way its users will: with transformers, in PyTorch."""

import importlib.util
from pathlib import Path
from typing import Any

from bwsk_jax import bert

PROMPT_PIECES = 24
ANSWERS = 3


def loading_snippet(root: str, variant: str) -> str:
    """Return the two statements that load a variant with transformers."""
    where = f"({root!r}, subfolder={variant!r})"
    return (
        "from transformers import AutoModelForMaskedLM, AutoTokenizer\n"
        f"model, tokenizer = AutoModelForMaskedLM.from_pretrained{where}, "
        f"AutoTokenizer.from_pretrained{where}"
    )


def load(folder: Path) -> tuple[Any, Any, dict[str, list[str]]]:
    """Return the model in `folder` and its tokenizer as transformers loads them, and what that found wrong.

    That is empty if no tensor is missing, left over or of another shape. Parts of other models that were kept
    from a pretrained one, such as a pooler, are no fault.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would say is said below
    where = {"pretrained_model_name_or_path": folder.parent, "subfolder": folder.name}
    model, report = AutoModelForMaskedLM.from_pretrained(**where, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    logging.set_verbosity(verbosity)
    report["unexpected_keys"] = set(report["unexpected_keys"]) - bert.load_pooler(folder).keys()
    return model, tokenizer, {name: sorted(map(str, keys)) for name, keys in report.items() if keys}


def show_loading(folder: Path, text: str) -> str:
    """Return what transformers says of the model in `folder`, and how it fills a gap in the middle of `text`.

    PyTorch is not a dependency of this package. Without it the answer says what to install.
    """
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed, and transformers needs it to load the model: pip install torch"
    import torch

    model, tokenizer, faults = load(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:PROMPT_PIECES]
    gap = len(ids) // 2
    asked = [*ids[:gap], tokenizer.mask_token_id, *ids[gap + 1 :]]
    with torch.no_grad():
        scores = model(torch.tensor([asked])).logits[0, gap]
    best = torch.softmax(scores, -1).topk(ANSWERS)
    answers = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return "\n".join(
        (
            f"loaded by transformers: {faults or 'nothing missing, unexpected or mismatched'}",
            f"  asked:   {tokenizer.decode(asked)}",
            f"  answers: {', '.join(f'{tokenizer.decode([piece])} {p:.0%}' for piece, p in answers)}"
            f" (it was {tokenizer.decode([ids[gap]])})",
        )
    )
