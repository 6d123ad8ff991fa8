"""For every test: no implicit promotion of rank, no network, its own cache folder, examples that repeat.

Compiled programs are shared by all tests of a session, also those that run in processes of their own: even
the smallest, for many tests compile the same operations. Machine code is not optimised, and what XLA fuses is
compiled by its older emitters, where it still has them; together that halves the time. At its end .ci/run
runs what depends most on machine code as users compile it.
"""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="bwsk_jax-tests-")
os.environ.pop("HF_HOME", None)
# The workers of a session share what the process that started them has set.
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "PYTEST_XDIST_WORKER" in os.environ
    else tempfile.mkdtemp(prefix="bwsk_jax-compiled-")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# XLA ends the process where it does not know a flag; 0.12 has no older emitters any more.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)

import hypothesis
import jax

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" not in os.environ:
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)  # simulated; a test that names no device runs on the first

# `pytest` draws a few examples, the full run (.ci/run) fifty, both the same ones each time.
hypothesis.settings.register_profile("quick", derandomize=True, deadline=None, max_examples=4)
hypothesis.settings.register_profile("full", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile("quick")

MOST_MAPPINGS = 30_000
TESTS_BETWEEN_LOOKS = 20
_tests = 0


def pytest_collection_finish():
    """Take what has been imported out of the garbage collector's rounds, for it stays until the end."""
    gc.freeze()


def pytest_runtest_teardown():
    """Let go of compiled programs before the system gives no more mappings of memory, and XLA crashes.

    Each program has several, a process may have about 65,000, and all tests together need more.
    """
    global _tests
    _tests += 1
    if _tests % TESTS_BETWEEN_LOOKS == 0 and _mappings() > MOST_MAPPINGS:
        jax.clear_caches()


def _mappings() -> int:
    """How many mappings of memory this process has; 0 where the system does not say."""
    try:
        return len(Path("/proc/self/maps").read_bytes().splitlines())
    except OSError:
        return 0
