"""Load tokenizers, train WordPieces, and save them, as transformers has them.

transformers and tokenizers are imported where they are used, because they take seconds to import.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bwsk_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCAB_FILE = "vocab.txt"
SAVED_FILES = ("tokenizer.json", "tokenizer_config.json", "merges.txt")
MAX_LENGTH = 512


class TokenizerError(UserError):
    """The path or the text gives no usable tokenizer."""


def load_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """Load a lower-casing WordPiece from a ``vocab.txt``, or whatever tokenizer a folder holds.

    A folder has the files that ``save_tokenizer`` writes, or a ``vocab.txt``, or a ``vocab.json`` and a
    ``merges.txt``, which are a byte-level BPE, beside the ``config.json`` of a model.

    Raises:
        TokenizerError: there is no such file or folder, the folder has no tokenizer, or the vocabulary is not
            UTF-8 or lacks the special tokens of BERT.
    """
    path = Path(path)
    if path.is_dir():
        if any((path / file).is_file() for file in SAVED_FILES):
            return _load_saved(path)
        if not (path / VOCAB_FILE).is_file():
            raise TokenizerError(f"{path} has none of {', '.join((*SAVED_FILES, VOCAB_FILE))}")
        path = path / VOCAB_FILE
    try:
        pieces = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: {error}") from None
    return _word_piece({piece: row for row, piece in enumerate(pieces)}, source=str(path))


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece of at most ``vocab_size`` pieces; [PAD] is 0, [MASK] is 4.

    The same texts give the same pieces with the same ids. The trainer breaks ties by the ids of characters,
    and numbers characters in the order of its hash table; they are therefore numbered here, beforehand.

    Raises:
        TokenizerError: there is no text, or one string in place of several, or ``vocab_size`` has no room for
            the special tokens and one letter.

    >>> tokenizer = train_tokenizer(["to be or not to be", "that is the question"], vocab_size=40)
    >>> tokenizer.mask_token_id, tokenizer.tokenize("To be")
    (4, ['to', 'be'])
    """
    from tokenizers import BertWordPieceTokenizer

    if isinstance(texts, str):
        raise TokenizerError("texts is one string, expected several, such as its lines")
    if isinstance(texts, Iterator):  # they are read twice
        texts = list(texts)
    alphabet, continuations = _characters(texts, limit=vocab_size // 4)
    reserved = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in continuations)]
    if not alphabet:
        raise TokenizerError(
            f"no characters to learn from in {sum(1 for _ in texts)} texts at vocab_size {vocab_size}"
        )
    if len(reserved) > vocab_size:
        raise TokenizerError(f"vocab_size {vocab_size} is less than the {len(reserved)} single characters")
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        texts,
        vocab_size=vocab_size,
        special_tokens=reserved,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    return _word_piece(trainer.get_vocab(), source="the trained vocabulary")


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | os.PathLike[str]) -> None:
    """Write the tokenizer for ``AutoTokenizer`` to load, without the padding and truncation last used.

    Raises:
        OSError: the folder cannot be written; its files are then as they were.
    """
    fresh = copy.deepcopy(tokenizer)
    fresh.backend_tokenizer.no_padding()
    fresh.backend_tokenizer.no_truncation()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tokenizer.", suffix=".tmp", dir=folder) as beside:
        try:
            fresh.save_pretrained(beside)
        # The Rust library raises bare exceptions.
        except Exception as error:
            raise OSError(f"{folder}: the tokenizer cannot be saved: {error}") from error
        for file in Path(beside).iterdir():
            file.replace(folder / file.name)


def _load_saved(folder: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # The Rust library raises bare exceptions, and a damaged file makes transformers raise any other.
    except Exception as error:
        raise TokenizerError(f"{folder} holds no tokenizer that transformers can load: {error}") from error


def _word_piece(vocabulary: dict[str, int], source: str) -> PreTrainedTokenizerFast:
    from transformers import BertTokenizer

    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise TokenizerError(f"{source} lacks {', '.join(missing)}; expected one WordPiece per line")
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=MAX_LENGTH)


def _characters(texts: Iterable[str], limit: int) -> tuple[list[str], list[str]]:
    """Return, sorted, the most frequent characters and those among them that occur inside words.

    There are at most ``limit``. Where equally frequent characters stand on both sides of the limit, none of
    them is taken, so that the trainer has no choice between them.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    ranked = counts.most_common()
    threshold = ranked[limit][1] if len(ranked) > limit else 0
    kept = {character for character, count in ranked if count > threshold}
    return sorted(kept), sorted({character for word in words for character in word[1:]} & kept)
