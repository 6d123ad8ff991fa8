"""The model card states what is known, credits each variant, and names no path of this machine."""

import json
import shutil

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard, constants

from bwsk_jax.train import main
from bwsk_jax.training.data.hub import public_name
from bwsk_jax.training.flags import Flags
from bwsk_jax.training.report import origin
from bwsk_jax.training.report.card import write_model_card
from tests.support.cards import card_faults
from tests.support.hub_server import serve_hub
from tests.support.runs import FLAGS, results

MINILM = "nreimers/MiniLM-L6-H384-uncased"
NOTHING_KNOWN = {"base_model": None, "dataset": None, "dataset_config": None, "language": []}
NOTHING_KNOWN |= {"license": None, "license_name": None, "license_link": None}
FROM_THE_HUB = {"base_model": MINILM, "dataset": "Salesforce/wikitext", "dataset_config": "raw"}


@pytest.fixture
def written(finished, tmp_path):
    """Write the card of the finished runs, whose results a function changes; the card, and its metadata."""

    def write(change=lambda name, run: run):
        for name in ("scratch-conventional", "scratch-reversible", "finetune-reversible"):
            (tmp_path / name).mkdir(exist_ok=True)
            changed = json.dumps(change(name, results(finished, name)))
            (tmp_path / name / "training_results.json").write_text(changed)
        write_model_card(tmp_path)
        text = (tmp_path / "README.md").read_text()
        assert card_faults(text) == []
        return ModelCard.load(tmp_path / "README.md"), yaml.safe_load(text.split("---\n")[1])

    return write


def fine_tuned_on_the_hub(name, run):
    if not name.startswith("finetune"):
        return run
    settings = run["settings"] | {"init": MINILM, "dataset": "Salesforce/wikitext:raw"}
    known = FROM_THE_HUB | {"license": "mit", "language": ["en"]}
    return run | {
        "model_slug": "MiniLM-L6-H384-uncased",
        "settings": settings,
        "origin": NOTHING_KNOWN | known,
    }


def only_fine_tuned(name, run):
    return fine_tuned_on_the_hub("finetune", run)


def test_each_variant_has_its_own_result(written, finished):
    card, metadata = written(fine_tuned_on_the_hub)
    found = {result.metric_name: result for result in card.data.eval_results}
    for variant in ("scratch-conventional", "scratch-reversible", "finetune-reversible"):
        result = found.pop(f"Pseudo-perplexity of {variant}")
        assert result.metric_value == round(results(finished, variant)["test_metric"], 4)
        assert result.dataset_split == "test" and result.metric_type == "perplexity"
        fine_tuned = variant.startswith("finetune")
        assert result.dataset_type == ("Salesforce/wikitext" if fine_tuned else "text")
        assert result.dataset_config == ("raw" if fine_tuned else None)
    assert not found
    (model,) = metadata["model-index"]
    assert [len(result["metrics"]) for result in model["results"]] == [1, 2]


def test_what_is_known_is_stated(written):
    card, metadata = written(only_fine_tuned)
    assert metadata["base_model"] == [MINILM] and metadata["base_model_relation"] == "finetune"
    assert metadata["license"] == "mit" and metadata["language"] == ["en"]
    assert metadata["datasets"] == ["Salesforce/wikitext"]
    assert "# BWSK MiniLM-L6-H384-uncased\n" in card.text
    assert (
        f"fine-tuned from [{MINILM}](https://huggingface.co/{MINILM}) on [Salesforce/wikitext](" in card.text
    )


def test_what_is_not_known_is_left_out(written):
    _, metadata = written(lambda name, run: run | {"origin": NOTHING_KNOWN})
    assert not metadata.keys() & {"license", "language", "base_model", "base_model_relation", "datasets"}


def test_a_license_stands_for_all_variants_or_for_none(written):
    _, metadata = written(fine_tuned_on_the_hub)
    assert "license" not in metadata and metadata["base_model"] == [MINILM]


def test_the_hub_s_own_validation_accepts_the_card(written, monkeypatch, tmp_path):
    card, _ = written(fine_tuned_on_the_hub)
    with serve_hub(tmp_path) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        card.validate()
        card.data.license = ["No License"]
        with pytest.raises(ValueError, match="license must not be 'No License'"):
            card.validate()


def test_nothing_that_is_published_names_a_place_on_this_machine(finished, text_folder):
    files = [finished / "README.md", finished / "results.json", *finished.glob("*/training_results.json")]
    assert len(files) == 6
    for file in files:
        for place in (str(finished), text_folder, "/home", "/tmp", "/usr", "site-packages"):
            assert place not in file.read_text(), file
    command = results(finished, "finetune-reversible")["command"]
    assert command.startswith(
        "python -m bwsk_jax.train --variant finetune-bwsk-reversible --recipe best --dataset text "
    )
    assert "--out" not in command and "--init scratch-conventional --seq-len 16" in command
    assert "flax/linen/linear.py:" in results(finished, "scratch-reversible")["plan"]["table"]


def test_the_card_names_models_by_their_own_names_and_the_variant_that_loads(finished):
    assert results(finished, "finetune-reversible")["model_slug"] == "bert-demo"  # it is that of its --init
    card = (finished / "README.md").read_text()
    assert "# BWSK bert-demo\n" in card and "\nWithout `subfolder` it is `" in card


def test_a_license_that_is_given_later_is_in_the_card(finished, text_folder, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out", symlinks=True)
    for folder in ("finetune-reversible", "scratch-analyzed", "scratch-reversible"):
        shutil.rmtree(out / folder)
    flags = ["--variant", "scratch-conventional", "--dataset", text_folder, "--out", str(out), *FLAGS]
    main([*flags, "--license", "mit", "--language", "en,de"])
    assert results(out, "scratch-conventional")["origin"]["license"] == "mit"
    metadata = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert metadata["license"] == "mit" and metadata["language"] == ["en", "de"]


# --- what is known -----------------------------------------------------------------------------------------


class FakeSetup:
    def __init__(self, **flags):
        self.flags = Flags(**flags)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Put a card into the Hub's cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)

    def put(kind, name, front_matter):
        repository = tmp_path / f"{kind}--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("abc")
        (repository / "snapshots" / "abc").mkdir(parents=True)
        (repository / "snapshots" / "abc" / "README.md").write_text(f"---\n{front_matter}\n---\n# Card\n")
        return repository / "snapshots" / "abc"

    return put


def test_the_cards_of_model_and_dataset_are_asked(cached):
    snapshot = cached("models", MINILM, "license: mit\nlanguage: en")
    cached("datasets", "Salesforce/wikitext", "license: cc-by-sa-3.0\nlanguage: [en, simple]")
    expected = NOTHING_KNOWN | FROM_THE_HUB | {"license": "mit", "language": ["en", "simple"]}
    for init in (MINILM, str(snapshot)):
        assert origin.origin(FakeSetup(init=init, dataset="Salesforce/wikitext:raw")) == expected
        assert public_name(init) == MINILM


@pytest.mark.parametrize(
    ("front_matter", "known"),
    [
        (
            "license: other\nlicense_name: own\nlicense_link: LICENSE",
            {"license": "other", "license_name": "own"},
        ),
        ("license: [apache-2.0]\nlanguage: no", {"license": "apache-2.0"}),
        ("license: [mit, apache-2.0]\nlanguage:\n- en\n- 3", {"language": ["en"]}),
        ("license: {a: [}", {}),
        ("- a list", {}),
    ],
)
def test_a_card_in_a_folder_is_read_with_care(tmp_path, front_matter, known):
    (tmp_path / "README.md").write_text(f"---\n{front_matter}\n---\n")
    found = origin.origin(FakeSetup(init=str(tmp_path), dataset=str(tmp_path / "text")))
    assert found == NOTHING_KNOWN | known


def test_the_embedded_text_is_english_and_flags_win(tmp_path):
    assert origin.origin(FakeSetup(dataset="embedded")) == NOTHING_KNOWN | {"language": ["en"]}
    found = origin.origin(FakeSetup(dataset="embedded", license="mit", language="de"))
    assert found == NOTHING_KNOWN | {"license": "mit", "language": ["de"]}


def test_a_broken_card_is_noticed():
    assert card_faults("# No metadata") == ["the card has no metadata"]
    assert card_faults("---\nlicense: Nobody's\n---\n") == ['license must not be "Nobody\'s"']
