"""Reports asked of a real HTTP server that fails in every way servers fail."""

import asyncio
import gzip
import json
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from chat_server import ChatServer, sub_captions_of
from pathflip.errors import ConfigError, ServerError
from pathflip.text.captions import read_captions
from pathflip.text.decompose import DecomposeSpec, ServerSpec, decompose_reports, write_decomposed
from pathflip.text.decompose.server import Usage, estimate, is_local
from pathflip.types import Caption

TEXTS = (
    "Invasive carcinoma with keratin pearls. No necrosis is identified. The margins are free.",
    "A poorly differentiated adenocarcinoma is present. Focal haemorrhage is seen.",
    "Größere Nekrosen — „Zellen“ mit 3 µm Kernen; ≥ 5 Mitosen. 核分裂像 are seen.",
)


def reports(texts=TEXTS):
    return [Caption(f"slide-{i}", f"patient-{i}", text, ()) for i, text in enumerate(texts)]


def spec(server, cache=None, **settings):
    settings = {"first_pause_s": 0.01, "concurrency": 1, "timeout_s": 5, **settings}
    url = settings.pop("url", None) or server.url
    return DecomposeSpec(by=ServerSpec(url=url, model="test-model", **settings), cache=cache)


def texts_of(done):
    return [[sub_caption.text for sub_caption in item.sub_captions] for item in done]


WANTED = [[sub_caption["text"] for sub_caption in sub_captions_of(text)] for text in TEXTS]


def test_a_faithful_server_gives_every_sub_caption_unicode_and_all(tmp_path):
    with ChatServer() as server:
        done = decompose_reports(reports(), spec(server))
        request = server.requests[0]
    assert texts_of(done) == WANTED
    assert server.paths[0] == "/v1/chat/completions"
    assert request["model"] == "test-model"
    assert request["temperature"] == 0
    assert request["response_format"]["type"] == "json_schema"
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["statements"]
    row = write_decomposed(tmp_path / "out.jsonl", done)
    assert (row["reports"], row["failed"], row["flagged"]) == (3, 0, 0)
    captions = read_captions(tmp_path / "out.jsonl")
    assert [[s.text for s in c.sub_captions] for c in captions] == WANTED
    assert captions[0].sub_captions[1].negated
    assert captions[0].sub_captions[1].content == "necrosis is identified"
    assert not captions[0].sub_captions[2].visual
    assert captions[0].patient == "patient-0"


@pytest.mark.parametrize(
    "fault", [429, 500, 503, 408, "truncated", "length", "schema", "text", "drop", "html", lambda report: "[1, 2"]
)
def test_a_fault_that_passes_is_outlived(fault):
    usage = Usage()
    with ChatServer([fault, fault]) as server:
        done = decompose_reports(reports(), spec(server), usage=usage)
    assert texts_of(done) == WANTED
    assert usage.requests == 5
    assert usage.retries == 2


def test_a_slow_answer_is_given_up_and_asked_for_again():
    with ChatServer(["slow"], slow_s=1.0) as server:
        done = decompose_reports(reports()[:1], spec(server, timeout_s=0.3))
    assert texts_of(done) == WANTED[:1]
    assert len(server.requests) == 2


def test_a_bad_answer_is_said_back_with_what_was_wrong():
    with ChatServer(["schema"]) as server:
        decompose_reports(reports()[:1], spec(server))
    again = server.requests[1]["messages"]
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert "statements.0" in again[3]["content"]


def test_an_answer_cut_off_at_the_limit_gets_twice_the_room():
    with ChatServer(["length", "length"]) as server:
        decompose_reports(reports()[:1], spec(server, max_tokens=64))
    assert [request["max_tokens"] for request in server.requests] == [64, 128, 256]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_for_all_requests(form):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    wait = {"seconds": "0.5", "date": later}[form]
    with ChatServer([(429, {"retry-after": wait})]) as server:
        done = decompose_reports(reports(), spec(server, concurrency=1))
    assert texts_of(done) == WANTED
    assert server.times[1] - server.times[0] >= (0.5 if form == "seconds" else 0.9)


def test_pauses_grow():
    with ChatServer([500, 500, 500]) as server:
        decompose_reports(reports()[:1], spec(server, first_pause_s=0.1))
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert gaps[0] >= 0.1
    assert gaps[1] >= 0.2
    assert gaps[2] >= 0.4


def test_a_report_that_never_works_fails_alone(tmp_path):
    def answer(report):
        return "no" if report.startswith("A poorly") else json.dumps({"statements": sub_captions_of(report)})

    with ChatServer(always=answer) as server:
        done = decompose_reports(reports(), spec(server, tries=2))
    assert [item.error is None for item in done] == [True, False, True]
    assert "no JSON" in done[1].error
    row = write_decomposed(tmp_path / "out.jsonl", done)
    assert (row["reports"], row["failed"]) == (2, 1)
    failures = [json.loads(line) for line in (tmp_path / "out.failures.jsonl").read_text().splitlines()]
    assert failures[0]["slide"] == "slide-1"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (401, "--api-key-env"),
        (404, "check --url and --model"),
        ((307, {"location": "http://example.org/v1"}), "redirects to http://example.org"),
        ((429, {"retry-after": "86400"}), "run again then"),
    ],
)
def test_what_is_hopeless_ends_the_run_with_one_line(fault, message):
    with ChatServer(always=fault) as server, pytest.raises(ServerError, match=message) as error:
        decompose_reports(reports(), spec(server))
    assert len(server.requests) == 1
    assert "\n" not in str(error.value)


def test_nobody_there_is_said_after_three_reports():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    start = time.monotonic()
    with pytest.raises(ServerError, match="3 reports in a row: is the server running"):
        decompose_reports(reports([f"Necrosis number {i}." for i in range(10)]), spec(None, url=url, tries=2))
    assert time.monotonic() - start < 5


def test_requests_at_a_time_and_requests_a_minute():
    many = reports([f"Necrosis of kind {i} is present." for i in range(8)])
    with ChatServer(always="slow", slow_s=0.1) as server:
        decompose_reports(many, spec(server, concurrency=4))
        assert 2 <= server.most_running <= 4
    with ChatServer() as server:
        decompose_reports(many, spec(server, concurrency=4, requests_per_min=600))
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert sum(gaps) >= 0.65  # 7 gaps of 0.1 s; a clock may jitter


def test_nothing_is_asked_twice(tmp_path):
    with ChatServer() as server:
        first = decompose_reports(reports(), spec(server, tmp_path))
        again = decompose_reports(reports(), spec(server, tmp_path))
        assert len(server.requests) == 3
        assert again == first
        assert all(item.from_cache for item in again)
        for file in tmp_path.glob("*/*.json"):  # as an older version wrote it
            entry = json.loads(file.read_text())
            file.write_text(json.dumps({"statements": entry.pop("subcaptions"), **entry}))
        assert decompose_reports(reports(), spec(server, tmp_path)) == first
        assert len(server.requests) == 3
        decompose_reports(reports(), spec(server, tmp_path, temperature=0.5))
        assert len(server.requests) == 6  # other parameters, other answers
        next(tmp_path.glob("*/*.json")).write_text("{ half")
        damaged = len(server.requests)
        decompose_reports(reports(), spec(server, tmp_path))
        decompose_reports(reports(), spec(server, tmp_path, temperature=0.5))
        assert len(server.requests) == damaged + 1
        decompose_reports(reports([TEXTS[0]] * 5), spec(server))
        assert len(server.requests) == damaged + 2  # five slides, one wording


COMMAND = [sys.executable, "-c", "from pathflip.cli import main; main()"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_goes_on_without_asking_again(tmp_path, how):
    file, out = tmp_path / "reports.jsonl", tmp_path / "out.jsonl"
    rows = [{"slide": f"s{i}", "text": f"S{i} necrosis is present."} for i in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ChatServer([None] * 4, always="slow", slow_s=60) as server:  # the fifth is never answered
        words = ["decompose", str(file), "--by", "server", "--url", server.url, "--model", "m", "--out", str(out)]
        words += ["--concurrency", "1", "--json"]
        process = subprocess.Popen(
            [*COMMAND, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A background job of a shell ignores Ctrl-C and hands that on; this test must not depend on it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        deadline = time.monotonic() + 60
        while len(server.requests) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(how)
        _, printed = process.communicate(timeout=150)
        assert process.returncode != 0
        assert not out.exists()
        if how == signal.SIGINT:
            assert "goes on from there" in printed
            assert "Traceback" not in printed
        assert len(server.requests) == 5
        assert len(list((tmp_path / "out.jsonl.cache").glob("*/*.json"))) == 4
        server.always = None
        same = DecomposeSpec(by=ServerSpec(url=server.url, model="m"), cache=tmp_path / "out.jsonl.cache")
        done = decompose_reports(read_captions(file), same)
        assert len(server.requests) == 5 + 8
    assert sum(item.from_cache for item in done) == 4
    assert [len(item.sub_captions) for item in done] == [1] * 12


def test_a_key_comes_from_the_variable_named_and_only_then(monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    with ChatServer() as server:
        decompose_reports(reports()[:1], spec(server, api_key_env="A_KEY"))
        decompose_reports(reports()[:1], spec(server))
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert "authorization" not in server.headers[1]
    with ChatServer() as server, pytest.raises(ConfigError, match="NO_KEY"):
        decompose_reports(reports()[:1], spec(server, api_key_env="NO_KEY"))


def test_text_for_this_machine_goes_through_no_proxy(monkeypatch):
    with ChatServer() as proxy, ChatServer() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        decompose_reports(reports()[:1], spec(server))
    assert (len(server.requests), len(proxy.requests)) == (1, 0)


def test_it_runs_inside_a_running_loop_as_in_a_notebook():
    async def cell():
        with ChatServer() as server:
            return decompose_reports(reports(), spec(server))

    assert texts_of(asyncio.run(cell())) == WANTED


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:11434/v1", True), ("http://127.0.0.1/v1", True), ("http://127.9.9.9/v1", True),
        ("http://[::1]:8000/v1", True), ("http://LOCALHOST./v1", True), ("http://localhost.example.org/v1", False),
        ("http://192.168.1.5:8000/v1", False), ("https://api.example.org/v1", False), ("http://0.0.0.0/v1", False),
        ("http://127.0.0.1.example.org/v1", False), ("http://localhost@example.org/v1", False),
    ],
)  # fmt: skip
def test_what_counts_as_this_machine(url, local):
    assert is_local(url) is local


def test_endpoints_and_estimates():
    for url, endpoint in (
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
        ("http://h/x/chat/completions", "http://h/x/chat/completions"),
    ):
        assert ServerSpec(url=url, model="m").endpoint == endpoint
    priced = ServerSpec(url="http://h", model="m", price_in=2.0, price_out=10.0)
    one, ten = estimate(TEXTS[:1], priced), estimate(TEXTS[:1] * 10, priced)
    assert one.cost == pytest.approx((one.tokens_in * 2 + one.tokens_out * 10) / 1e6)
    assert ten.tokens_in == pytest.approx(10 * one.tokens_in, rel=0.01)
    assert estimate(TEXTS, ServerSpec(url="http://h", model="m")).cost is None


@pytest.mark.parametrize(
    "hostile",
    [
        lambda report: "[" * 3000,
        lambda report: '{"statements": ' + "[" * 100_000,
        b"[" * 200_000,
        b'{"choices": ' + b'{"a":' * 50_000,
        b'{"choices": [{"message": {"content": "no"}}], "usage": {"prompt_tokens": 1e999}}',
        b'{"choices": [{"message": {"content": "no"}}], "usage": {"prompt_tokens": "many"}}',
        {"headers": {"content-type": "application/json; charset=rot13"}, "body": b'{"choices": []}'},
        {"headers": {"content-encoding": "gzip"}, "body": gzip.compress(b" " * (64 << 20))},
    ],
)
def test_a_hostile_answer_costs_its_report_and_no_more(hostile):
    with ChatServer([hostile, hostile]) as server:
        done = decompose_reports(reports(), spec(server, tries=2))
    assert done[0].error is not None
    assert "\n" not in done[0].error
    assert texts_of(done)[1:] == WANTED[1:]


def test_an_answer_that_drips_ends_with_the_time_it_was_given():
    start = time.monotonic()
    with ChatServer(["drip"]) as server:
        done = decompose_reports(reports()[:1], spec(server, timeout_s=0.5, tries=1))
    assert "no answer within 0.5 s" in done[0].error
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("date", ["Wed, 21 Oct 2015 07:28:00", "21 Oct 2015", "inf", "nan", "Mon, 99 Foo 2015"])
def test_a_retry_date_without_a_zone_or_sense_does_not_end_the_run(date):
    with ChatServer([(429, {"retry-after": date})]) as server:
        done = decompose_reports(reports()[:1], spec(server))
    assert texts_of(done) == WANTED[:1]


def test_a_refusal_that_repeats_the_key_or_escapes_is_shown_without_them(monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-secret-123")
    body = json.dumps({"error": {"message": "bad key sk-secret-123 \x1b]0;owned\x07 \x1b[2J"}}).encode()

    class Refusing(ChatServer):
        def reply(self, handler, report, fault):
            self.send(handler, 401, {}, body)

    with Refusing() as server, pytest.raises(ServerError) as refused:
        decompose_reports(reports()[:1], spec(server, api_key_env="A_KEY"))
    assert "sk-secret" not in str(refused.value)
    assert str(refused.value).isprintable()
