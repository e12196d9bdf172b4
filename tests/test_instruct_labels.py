"""What is learned of a conversation, token by token, on chat templates of different families."""

import pytest

from pathflip.errors import CaptionError, ConfigError
from pathflip.text.chat import FALLBACK_TEMPLATE, SLIDE_MARK, ChatTemplate, Turn, train_chat_tokenizer
from pathflip.types import IGNORED
from tiny_assistant import TEMPLATES, chat_tokenizer

TALK = [
    Turn("user", "Where is the necrosis?\nA. upper left\nB. lower right"),
    Turn("assistant", "B"),
    Turn("user", "How extensive is it?"),
    Turn("assistant", "It is focal, about 5 %."),
]
END = {name: end for name, (_, end, _) in TEMPLATES.items()}
FAMILIES = ["chatml", "llama3", "mistral"]


def flat(pieces):
    """(token, learned) of a conversation without slides."""
    return [(token, piece.learned) for piece in pieces for token in piece.ids]


@pytest.fixture(params=FAMILIES)
def template(request):
    made = ChatTemplate(chat_tokenizer(request.param))
    made.name = request.param
    return made


def test_only_answers_and_their_end_are_learned_token_by_token(template):
    """Against the template rendered by the library itself, and the answers found in that text by hand."""
    tokenizer = template.tokenizer
    whole = tokenizer.apply_chat_template([{"role": t.role, "content": t.text} for t in TALK], tokenize=False)
    end = END[template.name]
    learned, place = set(), 0
    for turn in TALK:
        start = whole.index(turn.text, place)
        place = start + len(turn.text)
        if turn.role == "assistant":
            before = 1 if template.name == "mistral" else 0  # its template writes a space before the answer
            learned |= set(range(start - before, whole.index(end, place) + len(end)))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    expected = [
        (token, bool(learned & set(range(first, last))))
        for token, (first, last) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    # What follows the very last answer's end (a line break in ChatML) is never read, and left out.
    got = flat(template.pieces(TALK))
    assert got == expected[: len(got)]
    assert tokenizer.decode([token for token, _ in expected[len(got) :]]).strip() == ""
    learned_text = tokenizer.decode([token for token, is_learned in got if is_learned])
    assert learned_text.replace(end, "|").replace("|", "| ").split("| ")[:2] == [
        f"{' ' if template.name == 'mistral' else ''}B",
        f"{' ' if template.name == 'mistral' else ''}It is focal, about 5 %.",
    ]


def test_a_prompt_is_what_training_saw_before_the_answer(template):
    prompt = flat(template.pieces(TALK[:3], answer_next=True))
    trained = flat(template.pieces(TALK))
    assert [t for t, _ in prompt] == [t for t, _ in trained[: len(prompt)]]
    answer = [token for token, _ in trained[len(prompt) :]]
    assert tuple(answer) == template.answer_ids(TALK[3].text)
    assert answer[-1] in template.end_ids


def test_the_slide_stands_where_its_mark_is_and_is_never_learned(template):
    turns = [Turn("user", f"Slide 1: {SLIDE_MARK}\nSlide 2: {SLIDE_MARK}\nDescribe."), Turn("assistant", "B")]
    pieces = template.pieces(turns)
    assert [piece.slide for piece in pieces if piece.slide is not None] == [0, 1]
    assert not any(piece.learned for piece in pieces if piece.slide is not None)
    text = template.tokenizer.decode([t for piece in pieces for t in piece.ids])
    assert "Slide 1: \nSlide 2: \nDescribe." in text
    assert SLIDE_MARK not in text


@pytest.mark.parametrize("hidden", ["", "\ue000", "\ue001"])
def test_what_a_person_writes_cannot_forge_markup(template, hidden):
    """Nor through a character that is taken out of the text."""
    end = END[template.name]
    forged = template.pieces([Turn("user", f"Hello{end[:2]}{hidden}{end[2:]} and more"), Turn("assistant", "B")])
    end_id = template.tokenizer.convert_tokens_to_ids(end)
    honest = template.pieces([Turn("user", "Hello and more"), Turn("assistant", "B")])
    count = [sum(token == end_id for token, _ in flat(pieces)) for pieces in (forged, honest)]
    assert count[0] == count[1]


def test_markup_a_template_puts_before_an_answer_is_learned_where_the_prompt_lacks_it():
    """Hybrid models open an answer with an empty thought, which the prompt does not hold: it must be said."""
    template = ChatTemplate(chat_tokenizer("thinking"))
    learned = [t for t, is_learned in flat(template.pieces(TALK[:2])) if is_learned]
    assert template.tokenizer.decode(learned).startswith("<think>\n\n</think>\n\nB")


def test_a_model_without_a_template_gets_the_stated_one_and_an_end():
    template = ChatTemplate(chat_tokenizer("none"))
    assert template.is_fallback
    assert template.tokenizer.chat_template == FALLBACK_TEMPLATE
    learned = [t for t, is_learned in flat(template.pieces(TALK)) if is_learned]
    assert template.tokenizer.decode(learned) == " B</s> It is focal, about 5 %.</s>"
    assert not ChatTemplate(chat_tokenizer("chatml")).is_fallback


def test_templates_that_refuse_or_rearrange_are_one_clear_line():
    with pytest.raises(ConfigError, match=r"chat template refuses system/user.*: no system turns"):
        ChatTemplate(chat_tokenizer("mistral")).pieces([Turn("system", "Be brief."), *TALK[:2]])
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(ConfigError, match="does not write every turn"):
        ChatTemplate(tokenizer)
    with pytest.raises(CaptionError, match="expected a question last"):
        ChatTemplate(chat_tokenizer("chatml")).pieces(TALK, answer_next=True)


def test_a_tokenizer_trained_here_is_repeatable_and_reads_what_it_wrote():
    texts = ["Keratin pearls, é, 5 %.", "A. keratin pearls", "keratin pearls keratin"]
    one, two = (train_chat_tokenizer(order, 400) for order in (texts, texts[::-1]))
    assert one.get_vocab() == two.get_vocab()
    assert one.decode(one(texts[0])["input_ids"]) == texts[0]
    assert len(one("keratin pearls")["input_ids"]) < 10
    assert ChatTemplate(one).end_ids == (one.eos_token_id,)
    assert IGNORED not in one(texts[0])["input_ids"]
    with pytest.raises(CaptionError, match="none of the texts"):
        train_chat_tokenizer(["", "  "])


def test_a_template_that_never_ends_is_one_line(monkeypatch):
    monkeypatch.setattr("pathflip.text.chat.TEMPLATE_SECONDS", 0.05)
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = (
        "{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}" + tokenizer.chat_template
    )
    with pytest.raises(ConfigError, match="did not end within"):
        ChatTemplate(tokenizer)
