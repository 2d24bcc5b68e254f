"""The API as its clients use it: OpenAI's own client, Prometheus' parser, and requests of other forms."""

import concurrent.futures
import contextlib
import io
import json
import threading
import time
import urllib.error
import urllib.request

import openai
import pytest
import serve_support
import uvicorn
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tga_jax.inference.model import Model
from tga_jax.serve import api, completions
from tga_jax.serve.chat import Conversation

NEW = 12


@pytest.fixture(scope="module", name="model")
def fixture_model(tmp_path_factory):
    return serve_support.llava(tmp_path_factory.mktemp("llava"))


@contextlib.contextmanager
def served(app):
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module", name="url")
def fixture_url(model):
    with served(api.build(model, "tiny", size=4, waiting=40)) as url:
        yield url


@pytest.fixture(scope="module", name="client")
def fixture_client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def asked(text: str, *pictures: bytes) -> list:
    shown = [{"type": "image_url", "image_url": {"url": serve_support.data_url(data)}} for data in pictures]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}] if shown else text}]


def chatted(model: Model, text: str, *pictures: bytes, **how) -> str:
    """What `tga chat` says."""
    talk = Conversation(model)
    for data in pictures:
        talk.waiting.append(model.processor.pixels([Image.open(io.BytesIO(data))])[0])
    return "".join(talk.ask(text, **how))


def post(url: str, body: bytes) -> tuple[int, dict]:
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


SAMPLED = {"temperature": 0.9, "top_p": 0.8, "seed": 5}


@pytest.mark.parametrize(("how", "pictures"), [({}, ()), (SAMPLED, (1,)), ({}, (1, 2))], ids=["text", "sampled", "two"])
def test_the_client_gets_what_chat_says(model, client, pictures, how):
    data = [serve_support.png(seed) for seed in pictures]
    expected = chatted(model, "w5 w6", *data, new_tokens=NEW, **how)
    fields = {"model": "tiny", "messages": asked("w5 w6", *data), "max_tokens": NEW, **how}
    whole = client.chat.completions.create(**fields)
    assert whole.choices[0].message.content == expected
    assert whole.choices[0].finish_reason == ("length" if whole.usage.completion_tokens == NEW else "stop")
    pieces = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == expected
    assert pieces[-1].usage == whole.usage
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] == whole.choices[0].finish_reason


def test_a_conversation_with_a_system_text_goes_on(model, client):
    messages = [
        {"role": "system", "content": "w9"},
        *asked("w5", serve_support.png(1)),
        {"role": "assistant", "content": "w7 w8"},
        *asked("w6"),
    ]
    picture = Image.open(io.BytesIO(serve_support.png(1)))
    prompt = model.processor.chat([
        {"role": "system", "content": "w9"}, {"role": "user", "content": "<image>\nw5"},
        {"role": "assistant", "content": "w7 w8"}, {"role": "user", "content": "w6"},
    ])  # fmt: skip
    expected = model.generate([prompt], [[picture]], new_tokens=NEW)[0]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=NEW)
    assert answer.choices[0].message.content == expected
    messages += [answer.choices[0].message, *asked("w5")]  # as the client's users go on
    assert client.chat.completions.create(model="tiny", messages=messages, max_tokens=2).choices


def test_what_has_no_effect_keeps_no_requests_apart():
    plain = completions.ChatRequest(**GOOD)
    assert completions.ChatRequest(**GOOD, temperature=0, top_p=0.5, top_k=3).sampling() == plain.sampling()
    assert completions.ChatRequest(**GOOD, temperature=1, top_p=0.5).sampling().top_p == 0.5


def test_requests_at_once_get_their_own_answers(model, client):
    """Of different pictures, lengths, seeds and ways to sample; more than a batch holds."""
    cases = []
    for i in range(12):
        how = {"temperature": 0.0 if i % 4 else 1.0, "seed": i}
        cases.append((f"w{i + 4} w5", [serve_support.png(i)] * (i % 2), {**how, "new_tokens": 5 + 4 * (i // 2 % 2)}))
    expected = [chatted(model, text, *data, **how) for text, data, how in cases]

    def ask(case):
        text, data, how = case
        how = dict(how)
        fields = {"messages": asked(text, *data), "max_tokens": how.pop("new_tokens"), **how}
        return client.chat.completions.create(model="tiny", **fields).choices[0].message.content

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, cases)) == expected


def test_an_answer_ends_before_a_stop_text(model, client):
    whole = chatted(model, "w5 w6", new_tokens=NEW)
    stop = whole.split()[2]
    fields = {"model": "tiny", "messages": asked("w5 w6"), "max_tokens": NEW}
    answer = client.chat.completions.create(**fields, stop=[stop])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")
    assert answer.choices[0].message.content == chatted(model, "w5 w6", new_tokens=NEW, stop=(stop,))


GOOD = {"model": "tiny", "messages": [{"role": "user", "content": "w5"}], "max_tokens": 4}


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "other"}, 404, "model: 'other', expected 'tiny'"),
        ({"messages": []}, 400, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "judge", "content": "w5"}]}, 400, "messages.0.role: Input should be 'system', 'user'"),
        ({"temperature": -1}, 400, "temperature: Input should be greater than or equal to 0"),
        ({"max_tokens": 0}, 400, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": 10**6}, 400, "expected at most"),
        ({"n": 2}, 400, "n: Input should be 1"),
        ({"tools": [{"type": "function"}]}, 400, "tools: List should have at most 0 items"),
        ({"logprobs": True}, 400, "logprobs: Input should be False"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty: Input should be less than or equal to 0"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format.type: Input should be 'text'"),
        ({"guided_json": {}}, 400, "guided_json: Extra inputs are not permitted"),
        ({"messages": [{"role": "user", "content": "w5", "name": "me"}]}, 400, "messages.0.name: Input should be None"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}]},
            400,
            "messages[0].content[0].image_url.url: 'http://a/b.png', expected data:image/...;base64,...",
        ),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,bm90IGEgcGljdHVyZQ=="}}]}]},
            400,
            "messages[0].content[0].image_url.url: cannot be read as an image (in no known format)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_by_name(url, fields, status, message):
    got, answer = post(url, json.dumps({**GOOD, **fields}).encode())
    assert (got, message in answer["error"]["message"]) == (status, True), answer


def test_what_is_no_json_or_too_long_is_refused(url):
    assert post(url, b"{")[0] == 400
    assert post(url, b"[]")[0] == 400
    status, answer = post(url, b" " * (api.MAX_BODY + 1))
    assert (status, answer["error"]["message"]) == (413, "a body of more than 64 MB")


def test_an_answer_may_take_what_the_context_leaves(model, client):
    usage = client.chat.completions.create(model="tiny", messages=asked("w5 w6")).usage
    expected = chatted(model, "w5 w6", new_tokens=model.context - usage.prompt_tokens)
    assert client.chat.completions.create(model="tiny", messages=asked("w5 w6")).choices[0].message.content == expected


def test_values_that_ask_for_nothing_are_taken(url):
    nothing = {
        "n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "tools": [], "logit_bias": {},
        "response_format": {"type": "text"}, "user": "me", "stop": None, "stream": False,
    }  # fmt: skip
    assert post(url, json.dumps({**GOOD, **nothing}).encode())[0] == 200


def test_models_health_and_metrics(url, client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    with urllib.request.urlopen(f"{url}/health") as answer:
        assert json.load(answer) == {"status": "ok"}

    def figures() -> dict[str, float]:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {s.name + "".join(s.labels.values()): s.value for f in families for s in f.samples}

    before = figures()
    usage = client.chat.completions.create(**GOOD).usage
    after = figures()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["tga_requests_total200"] == grown["tga_request_seconds_count"] == grown["tga_batch_rows_count"] == 1
    assert grown["tga_prompt_tokens_total"] == usage.prompt_tokens
    assert grown["tga_new_tokens_total"] == usage.completion_tokens
    assert after["tga_waiting_requests"] == 0


def test_a_full_queue_refuses(model):
    batches = api.Batches(model, size=1, waiting=1)
    request = completions.to_request(completions.ChatRequest(**{**GOOD, "max_tokens": 60}), model)

    def fill() -> None:
        for _ in range(4):
            batches.submit(request, lambda news: None)

    with pytest.raises(api.Full, match="1 requests wait, expected fewer than 1; try again later"):
        fill()
    batches.close()


def test_a_full_queue_answers_429(model):
    with served(api.build(model, "tiny", waiting=0)) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError, match="0 requests wait, expected fewer than 0"):
            client.chat.completions.create(**GOOD)
