"""What the Hub demands of a model card's metadata, after its published specification of model cards."""

import re

import yaml

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
KINDS = {
    "license": r"[a-z0-9][a-z0-9.-]*",
    "language": r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual",
    "base_model": NAME.pattern,
    "datasets": NAME.pattern,
    "metrics": r"\w+",
    "pipeline_tag": "fill-mask",
    "library_name": "transformers",
    "base_model_relation": "finetune|quantized|adapter|merge",
}


def card_faults(content: str) -> list[str]:
    """What is wrong with the YAML at the beginning of a card, a sentence each."""
    found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if found is None:
        return ["the card has no metadata"]
    metadata = yaml.safe_load(found[1])
    faults = []
    for key, pattern in KINDS.items():
        values = metadata.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                faults.append(f"{key} must not be {value!r}")
    for model in metadata.get("model-index", []):
        faults += _model_faults(model)
    return faults


def _model_faults(model: dict) -> list[str]:
    faults = [] if isinstance(model.get("name"), str) else ["model-index needs a name"]
    for result in model["results"]:
        texts = {"task.type": result["task"].get("type")}
        texts |= {f"dataset.{key}": result["dataset"].get(key) for key in ("type", "name")}
        for metric in result["metrics"]:
            texts["metric.type"] = metric.get("type")
            if not isinstance(metric.get("value"), int | float):
                faults.append(f"metric.value must not be {metric.get('value')!r}")
        faults += [f"{key} must not be {text!r}" for key, text in texts.items() if not isinstance(text, str)]
        names = [metric.get("name") for metric in result["metrics"]]
        faults += [f"{name!r} stands for two results" for name in set(names) if names.count(name) > 1]
    return faults
