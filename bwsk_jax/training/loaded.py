"""Load an export the way its users will: with transformers, in PyTorch."""

import importlib.util
from pathlib import Path

PIECES_SHOWN = 3
PROMPT_PIECES = 24


def show_loading(root: Path, variant: str, text: str) -> str:
    """Return what transformers says of `root`/`variant`, and how the model fills a gap in the middle of `text`.

    PyTorch is no dependency of this package; without it the answer says what to install instead.
    """
    where = f"({str(root)!r}, subfolder={variant!r})"
    if importlib.util.find_spec("torch") is None:
        return (
            "PyTorch is not installed, so transformers cannot load the model here. Install torch, then:\n"
            f"  transformers.AutoModelForMaskedLM.from_pretrained{where}"
        )
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, report = AutoModelForMaskedLM.from_pretrained(root, subfolder=variant, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(root, subfolder=variant)
    faults = {name: sorted(map(str, keys)) for name, keys in report.items() if keys}
    verdict = f"faults: {faults}" if faults else "nothing missing, unexpected or mismatched"

    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:PROMPT_PIECES]
    gap = len(ids) // 2
    asked = [*ids[:gap], tokenizer.mask_token_id, *ids[gap + 1 :]]
    with torch.no_grad():
        scores = model(torch.tensor([asked])).logits[0, gap]
    best = torch.softmax(scores, -1).topk(PIECES_SHOWN)
    guesses = ", ".join(
        f"{tokenizer.decode([piece])} {p:.0%}" for piece, p in zip(best.indices, best.values, strict=True)
    )
    return (
        f"transformers loads AutoModelForMaskedLM.from_pretrained{where}: {verdict}\n"
        f"  asked:   {tokenizer.decode(asked)}\n"
        f"  answers: {guesses} (it was {tokenizer.decode([ids[gap]])})"
    )
