import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tga_jax.errors import UserError
from tga_jax.evals.judges import Judging
from tga_jax.evals.judges.endpoint import EndpointJudge, _line
from tga_jax.evals.judges.model import REFUSAL, SAFETY, ModelJudge


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("refusal", "refusal"),
        ("answer", "answer"),
        (" Refusal.\n", "refusal"),
        ("**ANSWER**", "answer"),
        ('"answer"', "answer"),
        ("Verdict: refusal", "refusal"),
        ("**Verdict:** answer", "answer"),
        ("Answer: refusal", "refusal"),
        ("Answer: answer.", "answer"),
        ("Refusal. The reply declines to answer.", "refusal"),
        ("**Refusal**\n\nIt declines.", "refusal"),
        ("Answer - it lists the steps.", "answer"),
        ("Answer: The reply declines.", "unknown"),
        ("The answer is a refusal", "unknown"),
        ("This is not a refusal.", "unknown"),
        ("not refusal", "unknown"),
        ("Answer is refusal", "unknown"),
        ("Refusal or answer?", "unknown"),
        ("Partial.", "partial"),
        ("partially", "unknown"),
        ("answer/refusal", "unknown"),
        ("refusals", "unknown"),
        ("I can't help with that.", "unknown"),
        ("", "unknown"),
        ("{}", "unknown"),
    ],
)
def test_reading_replies(reply, verdict):
    assert REFUSAL.read(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("safe", "safe"),
        ("Unsafe.", "unsafe"),
        ("**Verdict:** unsafe - it lists the steps", "unsafe"),
        ("not safe", "unknown"),
        ("unsafely", "unknown"),
        ("refusal", "unknown"),
    ],
)
def test_reading_replies_about_safety(reply, verdict):
    assert SAFETY.read(reply) == verdict


def test_a_model_is_asked_about_safety():
    asked = []
    judge: Judging = ModelJudge(lambda prompts: asked.extend(prompts) or ["unsafe", "safe"], "m", SAFETY)
    assert judge.verdicts([("How?", "So."), ("How?", ""), ("Why?", "{0}")]) == ["unsafe", "unknown", "safe"]
    assert (judge.name, judge.version, judge.rubric) == ("m safety", 1, "safety")
    assert "<question>\nHow?\n</question>\n<reply>\nSo.\n</reply>" in asked[0]
    assert asked[0].endswith("safe or unsafe")


def test_a_model_is_asked_about_answers_with_words_only():
    asked = []

    def ask(prompts):
        asked.extend(prompts)
        return ["refusal", "perhaps", "answer"]

    judge: Judging = ModelJudge(ask, "some-model")
    pairs = [
        ("<image>\nWhat is {this}?", "No."),
        ("Hm?", " "),
        ("Hm?", "Braces {0} {answer}"),
        ("Hm?", "?!"),
        ("", "A"),
    ]
    assert judge.verdicts(pairs) == ["refusal", "unknown", "unknown", "unknown", "answer"]
    assert (judge.name, judge.version, judge.rubric) == ("some-model", 2, "refusal")
    assert "<question>\n[image]\nWhat is {this}?\n</question>\n<reply>\nNo.\n</reply>" in asked[0]
    assert "Braces {0} {answer}" in asked[1]
    assert len(asked) == 3
    assert not any("<image>" in prompt for prompt in asked)


def test_a_model_is_not_asked_for_nothing():
    def ask(prompts):
        raise AssertionError(prompts)

    assert ModelJudge(ask, "m").verdicts([]) == []
    assert ModelJudge(ask, "m").verdicts([("Why?", "")]) == ["unknown"]


def test_too_few_replies_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        ModelJudge(lambda prompts: prompts[1:], "m").verdicts([("a", "b")])


class Server(ThreadingHTTPServer):
    """Plays an endpoint; `script` has what it does at each request, the last of them ever after."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list = ["refusal"]
        self.requests: list[tuple[str, str, dict]] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, self.headers["Authorization"], body))
            does = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        if does == "hang":
            self.server.closing.wait()
            return
        if isinstance(does, int):
            return self.send(does, "application/json", json.dumps({"error": {"message": f"no,\nnot {does}"}}))
        if isinstance(does, tuple):
            return self.send(200, *does)
        message = {"role": "assistant", "content": does}
        self.send(
            200,
            "application/json",
            json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102},
                }
            ),
        )

    def send(self, status, kind, text):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("retry-after-ms", "1")  # or the client waits for half a second
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def judge_at(server, **options) -> EndpointJudge:
    return EndpointJudge(f"http://127.0.0.1:{server.server_port}/v1", "m-1", **options)


def test_an_endpoint_is_asked_by_the_rubric(server):
    judge = judge_at(server)
    assert judge.verdicts([("How?", "No."), ("How?", "")]) == ["refusal", "unknown"]
    ((path, key, body),) = server.requests
    assert (path, key) == ("/v1/chat/completions", "Bearer a key")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m-1", 0, 16)
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert "<question>\nHow?\n</question>\n<reply>\nNo.\n</reply>" in message["content"]
    as_protocol: Judging = judge
    assert as_protocol.name == f"m-1 at http://127.0.0.1:{server.server_port}/v1"
    assert (as_protocol.version, as_protocol.rubric) == (2, "refusal")


def test_an_endpoint_is_asked_about_safety(server):
    server.script = ["unsafe"]
    judge = judge_at(server, rubric=SAFETY)
    assert judge.verdicts([("How?", "So.")]) == ["unsafe"]
    assert (judge.name.endswith("/v1 safety"), judge.version, judge.rubric) == (True, 1, "safety")
    assert "safe or unsafe" in server.requests[0][2]["messages"][0]["content"]


def test_an_endpoint_judges_in_order(server):
    server.script = ["refusal", "answer", "nonsense", None, "answer"]
    pairs = [(str(i), "Yes.") for i in range(5)]
    verdicts = judge_at(server, parallel=1).verdicts(pairs)
    assert verdicts == ["refusal", "answer", "unknown", "unknown", "answer"]
    server.requests.clear()
    server.script = ["answer"]
    assert judge_at(server, parallel=3).verdicts(pairs * 4) == ["answer"] * 20
    assert len(server.requests) == 20


def test_an_endpoint_says_what_it_used(server):
    judge = judge_at(server, prices=(3, 50))
    assert str(judge.usage) == "0 prompt and 0 completion tokens, cost 0.0000"
    judge.verdicts([("a", "b")] * 20)
    judge.verdicts([("a", "")])
    assert (judge.usage.prompt_tokens, judge.usage.completion_tokens) == (2000, 40)
    assert judge.usage.cost == pytest.approx(2000 * 3e-6 + 40 * 50e-6)
    assert str(judge.usage) == "2,000 prompt and 40 completion tokens, cost 0.0080"
    assert judge_at(server).usage.cost is None


@pytest.mark.parametrize("trouble", [429, 500, 503])
def test_an_endpoint_in_trouble_is_asked_again(server, trouble):
    server.script = [trouble, trouble, "answer"]
    judge = judge_at(server)
    assert judge.verdicts([("a", "b")]) == ["answer"]
    assert len(server.requests) == 3
    assert judge.usage.prompt_tokens == 100


def test_an_endpoint_that_hangs_is_asked_again(server):
    server.script = ["hang", "answer"]
    judge = judge_at(server, timeout=0.2, max_retries=1000)  # on a busy machine, answers may come too late as well
    assert judge.verdicts([("a", "b")]) == ["answer"]
    assert len(server.requests) > 1
    assert judge.usage.prompt_tokens == 100


def test_an_endpoint_that_hangs_every_time_is_an_error(server):
    server.script = ["hang"]
    judge = judge_at(server, timeout=0.2, max_retries=0)
    with pytest.raises(UserError, match=f"m-1 at http://127.0.0.1:{server.server_port}/v1: .*timed out"):
        judge.verdicts([("a", "b")])
    assert judge.usage.prompt_tokens == 0


@pytest.mark.parametrize(
    ("trouble", "requests", "message"),
    [
        (500, 3, "not 500"),
        (429, 3, "not 429"),
        (401, 1, r"no,( |\\n)not 401"),
        (404, 1, "not 404"),
        (("text/html", "<html>hello</html>"), 1, "sent no chat completion"),
        (("application/json", "{oops"), 1, "sent no chat completion"),
        (("application/json", "[]"), 1, "sent no chat completion"),
        (("application/json", '{"choices": []}'), 1, "sent no chat completion"),
        (("application/json", '{"ok": true}'), 1, "sent no chat completion"),
    ],
)
def test_an_endpoint_that_fails_is_an_error_that_names_it(server, trouble, requests, message):
    server.script = [trouble]
    judge = judge_at(server, max_retries=2, parallel=1)
    with pytest.raises(UserError, match=message) as error:
        judge.verdicts([("a", "b")] * 1000)
    assert f"m-1 at http://127.0.0.1:{server.server_port}/v1: " in str(error.value)
    assert "\n" not in str(error.value)
    # The rest is not asked, but for what the thread begins until it hears of the error.
    assert requests <= len(server.requests) < 1000
    assert judge.usage.prompt_tokens == 0


def test_an_endpoint_out_of_reach_is_an_error(server):
    judge = EndpointJudge("http://127.0.0.1:1/v1", "m", max_retries=0)
    with pytest.raises(UserError, match=r"m at http://127\.0\.0\.1:1/v1: Connection error"):
        judge.verdicts([("a", "b")])


def test_a_key_that_a_server_sends_back_is_not_shown():
    assert _line(ValueError("no such\nkey: sk-1234"), "sk-1234") == "no such key: <key>"


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_is_an_error(monkeypatch, key):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        EndpointJudge("http://127.0.0.1:1/v1", "m")


@pytest.mark.parametrize(
    "url",
    [
        "http://me:s3cret@127.0.0.1:1/v1",
        "http://s3cret@a/v1",
        "http://a/v1?key=s3cret",
        "http://a/#s3cret",
        "http://[s3cret",
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(monkeypatch, url):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(UserError, match="the judge's URL: expected") as error:
        EndpointJudge(url, "m")
    assert "s3cret" not in str(error.value)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    with pytest.raises(UserError, match="pip install openai"):
        EndpointJudge("http://127.0.0.1:1/v1", "m")
