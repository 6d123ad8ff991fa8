import pytest

from bwsk_jax.variants import VARIANTS, UnknownVariantError, find_variant


def test_six_variants_are_found_under_both_names():
    assert len(VARIANTS) == 6
    for variant in VARIANTS.values():
        assert find_variant(variant.name) is find_variant(variant.reference_name) is variant


def test_results_use_the_reference_values():
    assert {variant.mode for variant in VARIANTS.values()} == {
        "conventional",
        "bwsk_analyzed",
        "bwsk_reversible",
    }
    assert {variant.experiment for variant in VARIANTS.values()} == {"finetune", "scratch"}


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(UnknownVariantError, match="did you mean 'scratch-reversible'"):
        find_variant("scratch-reversable")
    with pytest.raises(UnknownVariantError):
        find_variant("")
