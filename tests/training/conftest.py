"""Text, and runs trained on it, for all tests of training."""

import pytest

from tests.support.runs import made_once, train_variants
from tests.support.texts import write_text


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    return str(made_once(tmp_path_factory, "text", write_text))


@pytest.fixture(scope="session")
def finished(text_folder, tmp_path_factory):
    """Three scratch runs of 4 steps in one output folder, and a fine-tuning run from one of them.

    It is shared: whoever changes something works on a copy.
    """
    return made_once(tmp_path_factory, "runs", lambda out: train_variants(out, text_folder))
