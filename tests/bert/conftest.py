"""The tiny model: as our parameters, and as transformers makes and saves it."""

import jax
import pytest
from bert_models import TINY, torch_model

from bwsk_jax.bert import init_params


@pytest.fixture(scope="session")
def tiny():
    """Our parameters of the tiny model."""
    return TINY, init_params(TINY, jax.random.key(3))


@pytest.fixture(scope="session")
def exported_by_transformers(tmp_path_factory):
    """The tiny model of transformers and the folder that it saved itself to."""
    folder = tmp_path_factory.mktemp("transformers")
    model = torch_model(TINY)
    model.save_pretrained(folder)
    return model, folder
