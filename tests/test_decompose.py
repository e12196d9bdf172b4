"""Reports to sub-captions: by rules, by a local model, through the command line; the flag and the guard, measured."""

import csv
import json
import socket
import threading
from collections import Counter

import numpy as np
import pytest
import torch

from chat_server import ChatServer
from pathflip.errors import CaptionError, ConfigError
from pathflip.text.captions import read_captions
from pathflip.text.decompose import (
    DecomposeSpec,
    LocalSpec,
    ServerSpec,
    Source,
    decompose_reports,
    find_identifiers,
    read_reports,
    redact,
    write_decomposed,
)
from pathflip.text.decompose.replies import ReplyError, messages, read_reply
from pathflip.types import Caption
from planted_sub_captions import planted, true_sub_captions

REPORT = (
    "The bladder shows a high-grade urothelial carcinoma measuring 3.5 cm, staged pT2bN0. Focal necrosis is seen in "
    "the left wall. No perineural invasion is identified. The prostate contains benign hyperplasia; margins are free "
    "of tumor. Twelve lymph nodes are negative (0/12)."
)

# --- The flag --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sub_caption",
    [
        "High-grade urothelial carcinoma is present.",
        "The tumour measures 35 mm.",
        "The tumor measures 3.5 centimeters.",
        "The stage is pT2b.",
        "There is focal necrosis in the left wall.",
        "Perineural invasion is absent.",
        "The prostate shows hyperplasia.",
        "12 lymph nodes are negative.",
        "The lesion is a urothelial carcinoma of high grade.",
        "Necrotic areas are seen.",
    ],
)
def test_what_the_report_says_is_supported(sub_caption):
    assert Source(REPORT).problems(sub_caption) == ()


@pytest.mark.parametrize(
    ("sub_caption", "kind"),
    [
        ("Keratin pearls are present.", "words"),
        ("Low-grade urothelial carcinoma is present.", "words"),
        ("The tumor measures 5.3 cm.", "number"),
        ("The tumor measures 3.5 mm.", "number"),
        ("Fourteen lymph nodes are negative.", "number"),
        ("Perineural invasion is identified.", "denial"),
        ("No focal necrosis is seen in the left wall.", "denial"),
        ("High-grade hyperplasia is seen in the prostate.", "scattered"),
        ("Focal hyperplasia of the prostate is present.", "attribute"),
        ("Urothelial carcinoma fills lymph nodes of the prostate wall.", "words"),
        ("Perineural invasion of the left prostate wall necrosis.", "attribute"),
    ],
)
def test_what_the_report_does_not_say_is_flagged(sub_caption, kind):
    problems = Source(REPORT).problems(sub_caption)
    assert any(problem.startswith(kind) for problem in problems), problems


def test_coverage_is_the_share_of_the_report_that_is_held():
    source = Source(REPORT)
    assert source.coverage([REPORT]) == 1.0
    assert source.coverage([]) == 0.0
    assert 0.1 < source.coverage(["High-grade urothelial carcinoma."]) < 0.4


@pytest.mark.real
def test_the_flag_on_real_captions(real_data):
    """Precision and recall with equally many true sub-captions reworded and untrue ones planted, over 31 captions."""
    with open(real_data / "slidebench" / "SlideBench-Caption-TCGA.csv", encoding="utf-8-sig") as handle:
        captions = [row["Caption"] for row in csv.DictReader(handle)]
    rng = np.random.default_rng(1)
    flagged: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for report in captions[5::24]:
        source = Source(report)
        for sign, made in (("true", true_sub_captions(report, rng)), ("planted", planted(report, captions, rng))):
            for kind, sub_captions in made.items():
                for sub_caption in sub_captions:
                    total[f"{sign} {kind}"] += 1
                    flagged[f"{sign} {kind}"] += bool(source.problems(sub_caption))
    share = {kind: flagged[kind] / count for kind, count in total.items()}
    print({kind: f"{flagged[kind]}/{total[kind]}" for kind in total})
    for kind in ("true as written", "true reworded", "true flipped twice"):
        assert share[kind] <= 0.03, share
    for kind, floor in (("invented", 0.95), ("foreign", 0.9), ("number", 0.9), ("denial", 0.9), ("attribute", 0.8)):
        assert share[f"planted {kind}"] >= floor, share
    assert share["planted recombined"] >= 0.4


# --- The guard -------------------------------------------------------------------------------------------------------

POSITIVES = {
    "date": (
        "Received 12/03/2019.", "Biopsy of 2019-03-12.", "On March 3, 2020 a specimen", "the 3rd of May", "12 Mar 2019",
        "12.03.2019", "In May 2012", "12-Mar-2019", "dated 3/4/21",
    ),
    "record number": (
        "MRN: 00123456", "Accession S12-34567", "Case No. 2019-AB-1234", "medical record number 445566",
        "Hospital number: H123456", "Specimen ID: XY-99-1234",
    ),
    "name": (
        "Dr. Jane Q. Smith reviewed it.", "Patient: Doe, John", "Prof. Müller agreed", "signed out by: Maria Garcia",
        "John A. Smith, M.D.", "Mrs. O'Brien", "Pathologist: A. Lee",
    ),
    "telephone number": ("Tel. +49 89 1234567", "call 555-123-4567", "(555) 123-4567", "Fax: 089/1234567"),
    "e-mail": ("jane.doe@hospital.org",),
    "web address": ("https://hospital.org/p/123", "www.hospital.org"),
    "social security number": ("SSN 123-45-6789",),
    "age over 89": ("a 92-year-old man", "aged 91", "94 y/o", "93 years of age"),
}  # fmt: skip
NEGATIVES = (
    "0/12 lymph nodes", "3.5 x 2.1 x 1.0 cm", "an 89-year-old woman", "pT2bN0", "Gleason 3+4=7", "Ki-67 30%", "CD34",
    "H. pylori", "ICD-O 8140/3", "M-8500/3, G1", "FIGO 2018", "grade 3-4", "10 mitoses per 10 HPF", "AJCC 7th edition",
    "levels 2-3-4", "The Nottingham score is 8 (3+3+2).", "Hodgkin lymphoma", "Paget disease of the nipple",
    "100 cells", "90% of the tumor", "No. 3", "block A12", "It may 5 times recur", "Barrett mucosa", "12 to 15 mm",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in POSITIVES.items() for text in texts])
def test_the_guard_sees(kind, text):
    assert kind in {item.kind for item in find_identifiers(text)}
    assert f"[{kind}]" in redact(text)


@pytest.mark.parametrize("text", NEGATIVES)
def test_the_guard_lets_pass(text):
    assert find_identifiers(text) == []
    assert redact(text) == text


@pytest.mark.real
def test_the_guard_on_real_captions(real_data):
    """SlideBench's captions hold no identifiers: whatever is found is a false alarm."""
    with open(real_data / "slidebench" / "SlideBench-Caption-TCGA.csv", encoding="utf-8-sig") as handle:
        captions = [row["Caption"] for row in csv.DictReader(handle)]
    alarms = [items for caption in captions if (items := find_identifiers(caption))]
    assert len(captions) == 732
    assert len(alarms) <= 2, alarms


def test_identifiers_do_not_leave_unless_said_so():
    report = [Caption("s", "p", "Dr. Jane Smith saw necrosis on 12/03/2019.", ())]
    away = ServerSpec(url="https://models.example.org/v1", model="m")
    with pytest.raises(ConfigError, match="nothing was sent") as error:
        decompose_reports(report, DecomposeSpec(by=away))
    assert "Jane" not in str(error.value)
    with ChatServer() as server:
        near = ServerSpec(url=server.url, model="m")
        decompose_reports(report, DecomposeSpec(by=near))
        done = decompose_reports(report, DecomposeSpec(by=near, identifiers="redact"))
        assert server.reports == [report[0].text, "[name] saw necrosis on [date]."]
    assert done[0].text == "[name] saw necrosis on [date]."
    assert not any(sub_caption.unsupported for sub_caption in done[0].sub_captions)


# --- Answers ---------------------------------------------------------------------------------------------------------

GOOD = '{"statements": [{"text": "Necrosis is seen.", "concept": "necrosis", "visual": true, "polarity": "present"}]}'


@pytest.mark.parametrize(
    "answer",
    [
        GOOD, f"```json\n{GOOD}\n```", f"<think>{{not json}} maybe</think>{GOOD}", f"Here it is:\n{GOOD}\nDone.",
        json.dumps(json.loads(GOOD)["statements"]),
    ],
)  # fmt: skip
def test_answers_are_read(answer):
    assert [sub_caption.text for sub_caption in read_reply(answer)] == ["Necrosis is seen."]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "no JSON"), ("Necrosis.", "no JSON"), (GOOD[:-5], "cut off"), ("{}", "statements"),
        ('{"statements": []}', "statements"), (GOOD.replace("true", '"yes"'), "visual"),
        (GOOD.replace("present", "positive"), "polarity"), (GOOD.replace("Necrosis is seen.", " "), "text"),
    ],
)  # fmt: skip
def test_bad_answers_are_refused(answer, message):
    with pytest.raises(ReplyError, match=message):
        read_reply(answer)


def test_an_invention_is_flagged_and_kept_from_training(tmp_path):
    replied = [
        {"text": "Necrosis is seen.", "concept": "necrosis", "visual": True, "polarity": "present"},
        {"text": "Keratin pearls are seen.", "concept": "keratin pearls", "visual": True, "polarity": "present"},
        {"text": "No invasion is seen.", "concept": "invasion", "visual": True, "polarity": "present"},
    ]
    with ChatServer(always=lambda report: json.dumps({"statements": replied})) as server:
        spec = DecomposeSpec(by=ServerSpec(url=server.url, model="m"))
        done = decompose_reports([Caption("s", "p", "Necrosis is seen. No invasion is seen.", ())], spec)
    flags = [sub_caption.unsupported for sub_caption in done[0].sub_captions]
    assert flags[0] == ()
    assert flags[1][0].startswith("words: ")
    assert flags[2][0].startswith("polarity")
    counts = write_decomposed(tmp_path / "a.jsonl", done)
    assert (counts["subcaptions"], counts["flagged"]) == (1, 2)
    assert [s.text for s in read_captions(tmp_path / "a.jsonl")[0].sub_captions] == ["Necrosis is seen."]
    write_decomposed(tmp_path / "b.jsonl", done, keep_unsupported=True)
    assert len(read_captions(tmp_path / "b.jsonl")[0].sub_captions) == 3
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert row["flagged"][0]["concept"] == "keratin pearls"


def test_captions_understand_polarity(tmp_path):
    path = tmp_path / "c.jsonl"
    row = {"slide": "s", "text": "t.", "subcaptions": [{"text": "Necrosis", "polarity": "absent", "visual": True}]}
    path.write_text(json.dumps(row))
    assert read_captions(path)[0].sub_captions[0].negated
    row["subcaptions"][0]["polarity"] = "maybe"
    path.write_text(json.dumps(row))
    with pytest.raises(CaptionError, match="polarity"):
        read_captions(path)


# --- Rules, folders, the command line --------------------------------------------------------------------------------


def test_rules_need_nothing_and_send_nothing(tmp_path, monkeypatch):
    def refused(*words, **more):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refused)
    done = decompose_reports([Caption("s", "p", REPORT, ())], DecomposeSpec())
    texts = {s.text: s for s in done[0].sub_captions}
    assert texts["No perineural invasion is identified."].negated
    assert not texts["Focal necrosis is seen in the left wall."].negated
    assert all(REPORT[slice(*s.place)] for s in done[0].sub_captions if s.place)
    write_decomposed(tmp_path / "o.jsonl", done)
    assert len(read_captions(tmp_path / "o.jsonl")[0].sub_captions) == len(done[0].sub_captions)


HOSPITAL = (
    "Patient: Doe, John\nCLINICAL HISTORY\nLump.\nMICROSCOPY\nA. Skin: Melanoma with ulceration. No regression. "
    "Invasion cannot be excluded. Seen by Dr. Quillfeather.\nB. Node: No melanoma.\n"
)


def test_a_hospital_report_by_rules(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps({"slide": "s", "part": "A", "text": HOSPITAL}))
    reports, _ = read_reports(tmp_path / "r.jsonl")
    count = write_decomposed(tmp_path / "o.jsonl", decompose_reports(reports, DecomposeSpec()))
    row = json.loads((tmp_path / "o.jsonl").read_text())
    assert row["report"] == HOSPITAL.strip()
    by_text = {s["text"]: s for s in row["subcaptions"]}
    melanoma, regression = by_text["Melanoma with ulceration."], by_text["No regression."]
    assert (melanoma["polarity"], melanoma["part"], melanoma["section"]) == ("affirmed", "A", "microscopy")
    assert (regression["polarity"], regression["concept"], regression["language"]) == ("denied", "regression", "en")
    assert HOSPITAL[slice(*melanoma["place"])] == melanoma["text"]
    assert by_text["Invasion cannot be excluded."]["polarity"] == "undecided"
    assert (by_text["No melanoma."]["visual"], by_text["No melanoma."]["reason"]) == (False, "part B")
    assert (count["visual"], count["undecided"], count["set_aside"]["part B"]) == (3, 1, 1)
    again = read_captions(tmp_path / "o.jsonl")[0]
    assert again.text == "Melanoma with ulceration. No regression."
    assert [s.polarity for s in again.sub_captions] == [s["polarity"] for s in row["subcaptions"]]


def test_redaction_reaches_the_rules_sub_captions(tmp_path):
    (tmp_path / "r.jsonl").write_text(json.dumps({"slide": "s", "text": "Necrosis, seen by Dr. Quillfeather."}))
    reports, _ = read_reports(tmp_path / "r.jsonl")
    write_decomposed(tmp_path / "o.jsonl", decompose_reports(reports, DecomposeSpec(identifiers="redact")))
    assert "uillfeather" not in (tmp_path / "o.jsonl").read_text()


def test_a_folder_of_reports(tmp_path):
    (tmp_path / "TCGA-AA-0001-01Z.txt").write_text("Necrosis is seen.")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe broken \xff")
    (tmp_path / "c.txt").write_text("…")
    captions, problems = read_reports(tmp_path)
    assert [(c.slide_id, c.patient) for c in captions] == [("TCGA-AA-0001-01Z", "TCGA-AA-0001")]
    assert [problem.split(":")[0] for problem in problems] == ["b.txt", "c.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptionError, match=r"\.txt"):
        read_reports(tmp_path / "empty")


def test_the_command_does_what_it_can(tmp_path, capsys):
    from pathflip.cli import app

    file, out = tmp_path / "r.jsonl", tmp_path / "o.jsonl"
    rows = [{"slide": "a", "text": REPORT}, {"slide": "b", "text": "Necrosis is seen."}, {"slide": "c", "text": ""}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = app(["decompose", str(file), "--out", str(out), "--json"], standalone_mode=False)
    printed = capsys.readouterr()
    assert status == 1  # row 3 could not be used, the rest was done
    assert "row 3" in printed.err
    row = json.loads(printed.out)
    assert (row["reports"], row["left_out"]) == (2, 1)
    assert len(read_captions(out)) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "magic"], "expected rules, server or local"),
        (["--by", "server", "--model", "m"], "--url"),
        (["--by", "server", "--url", "ftp://x", "--model", "m"], "expected http"),
        (["--by", "local", "--model", "/nowhere"], "no such folder"),
        (["--by", "server", "--url", "https://models.example.org/v1", "--model", "m"], "nothing was sent"),
    ],
)
def test_bad_words_are_one_line(tmp_path, words, message, capsys):
    from pathflip.cli import app

    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"slide": "a", "text": "Seen by Dr. Jane Smith."}))
    with pytest.raises(ConfigError, match=message):
        app(["decompose", str(file), "--out", str(tmp_path / "o.jsonl"), *words], standalone_mode=False)


def test_cost_is_said_and_agreed_to_before_anything_is_sent(tmp_path, capsys):
    from pathflip.cli import app

    file, out = tmp_path / "r.jsonl", tmp_path / "o.jsonl"
    file.write_text(json.dumps({"slide": "a", "text": REPORT}))
    with ChatServer() as server:
        words = [
            "decompose",
            str(file),
            "--out",
            str(out),
            "--by",
            "server",
            "--url",
            server.url,
            "--model",
            "m",
            "--json",
        ]
        words += ["--price-in", "1000", "--price-out", "2000"]
        app([*words, "--dry-run"], standalone_mode=False)
        row = json.loads(capsys.readouterr().out)
        assert row["cost"] == pytest.approx((row["tokens_in"] * 1000 + row["tokens_out"] * 2000) / 1e6)
        with pytest.raises(ConfigError, match="--yes"):
            app(words, standalone_mode=False)
        assert (len(server.requests), out.exists()) == (0, False)
        app([*words, "--yes"], standalone_mode=False)
        assert len(server.requests) == 1
    assert json.loads(capsys.readouterr().out)["tokens_in"] == 100


# --- A local model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local_model(tmp_path_factory):
    """A two-layer Qwen3 that has learned one answer by heart; it sees 48 tokens back, so short texts teach it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    conversation = messages("Necrosis is seen.")
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([GOOD, *(message["content"] for message in conversation)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=special[1], pad_token=special[1])
    turn = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    tokenizer.chat_template = f"{{% for m in messages %}}{turn}{{% endfor %}}<|im_start|>assistant\n"
    prompt = tokenizer.apply_chat_template(conversation, tokenize=False)
    ids = tokenizer(prompt + GOOD + special[1], return_tensors="pt", add_special_tokens=False)["input_ids"]
    start = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"].shape[1]
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, use_sliding_window=True, sliding_window=48, max_window_layers=0,
        max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    near = ids[:, start - 100 :]
    labels = near.clone()
    labels[:, :100] = -100
    for _ in range(150):
        loss = model(input_ids=near, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss.item() < 0.02:
            break
    folder = tmp_path_factory.mktemp("lm")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_local_model_answers_and_its_answers_are_kept(local_model, tmp_path):
    spec = DecomposeSpec(by=LocalSpec(model=local_model, max_tokens=100), cache=tmp_path)
    report = [Caption("s", "p", "Necrosis is seen.", ())]
    first = decompose_reports(report, spec)
    assert first[0].error is None
    assert [(s.text, s.concept, s.negated) for s in first[0].sub_captions] == [("Necrosis is seen.", "necrosis", False)]
    started = threading.active_count()
    again = decompose_reports(report, spec)
    assert again == first
    assert again[0].from_cache
    assert threading.active_count() == started


@pytest.mark.slow
def test_a_local_model_that_babbles_fails_that_report_alone(local_model):
    spec = DecomposeSpec(by=LocalSpec(model=local_model, max_tokens=16))  # too short for its answer
    done = decompose_reports([Caption("s", "p", "Necrosis is seen.", ())], spec)
    assert "2 tries" in done[0].error


def test_folders_without_a_model_are_one_line(tmp_path, local_model):
    report = [Caption("s", "p", "Necrosis is seen.", ())]
    with pytest.raises(ConfigError, match=r"config\.json"):
        decompose_reports(report, DecomposeSpec(by=LocalSpec(model=tmp_path)))
    (tmp_path / "config.json").write_text((local_model / "config.json").read_text())
    with pytest.raises(ConfigError, match="cannot be read"):
        decompose_reports(report, DecomposeSpec(by=LocalSpec(model=tmp_path)))
