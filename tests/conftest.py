"""For every test: no implicit promotion of rank, no network, its own cache folder, examples that repeat."""

import atexit
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="bwsk_jax-tests-")
os.environ.pop("HF_HOME", None)

import hypothesis
import jax

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=120)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile("repeatable")
