"""Strictness for every test: no implicit promotion of rank, no network, and a cache folder of its own."""

import atexit
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="bwsk_jax-tests-")
os.environ.pop("HF_HOME", None)

import jax

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
jax.config.update("jax_numpy_rank_promotion", "raise")
