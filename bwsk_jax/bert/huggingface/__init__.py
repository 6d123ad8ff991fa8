"""Weights and configurations in Hugging Face's format: folders, the tensors in them, and our parameters.

`stored` reads files, `tensors` maps names to places in the parameter tree, and `folders` puts both together.
Each imports only those before it. The names below are those that the rest of the package uses.
"""

from bwsk_jax.bert.huggingface.folders import holds_model as holds_model
from bwsk_jax.bert.huggingface.folders import load_config as load_config
from bwsk_jax.bert.huggingface.folders import load_for_finetuning as load_for_finetuning
from bwsk_jax.bert.huggingface.folders import load_pooler as load_pooler
from bwsk_jax.bert.huggingface.folders import load_pretrained as load_pretrained
from bwsk_jax.bert.huggingface.folders import save_pretrained as save_pretrained
from bwsk_jax.bert.huggingface.stored import CheckpointError as CheckpointError
from bwsk_jax.bert.huggingface.tensors import export_tensors as export_tensors
from bwsk_jax.bert.huggingface.tensors import import_tensors as import_tensors
from bwsk_jax.bert.huggingface.tensors import layout as layout
