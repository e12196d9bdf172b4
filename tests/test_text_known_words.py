"""Which words of a text a model was trained on: plurals, hyphens, capitals, other spellings, other languages."""

import pytest

from pathflip.text.known_words import holds_no_known_word, unknown_fraction

KNOWN = frozenset(
    "tumour necrosis mitosis nucleus biopsy nests keratin pearls lymphovascular invasion villi cells a no".split()  # noqa: SIM905
)


@pytest.mark.parametrize(
    "text",
    [
        "Necrosis", "NECROSIS", "necroses", "Mitoses are frequent", "nuclei", "biopsies", "A nest", "keratin pearl",
        "necrosis-like", "lymphovascular-invasion", "villus", "Tumours", "No necrosis is seen.", "xyzzy necrosis",
    ],
)  # fmt: skip
def test_words_of_training_are_known_in_every_form(text):
    assert not holds_no_known_word(text, KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        "Nekrose", "nécrose", "壊死", "Некроз", "necorsis", "glomerulus", "haemorrhage", "0.5", "!", "",
        "Kein Anhalt", "is seen", "nec rosis", "Hello", "neck", "cell-free",
    ],
)  # fmt: skip
def test_other_words_are_not(text):
    known = KNOWN - {"cells", "no", "a"}
    assert holds_no_known_word(text, known)


def test_without_a_list_of_words_nothing_is_said():
    assert not holds_no_known_word("Nekrose", None)


def test_the_fraction_counts_content_words():
    assert unknown_fraction("Necrosis and glomeruli are seen.", KNOWN) == 0.5
    assert unknown_fraction("is seen", KNOWN) == 1
