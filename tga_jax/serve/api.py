"""`tga serve --api`: a checkpoint behind the chat completions of OpenAI's API, with pictures.

What of a request has no counterpart here is refused by name, with status 400, unless its value asks for nothing.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any, Literal

import fastapi
import prometheus_client as prometheus
import pydantic
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tga_jax.data import images
from tga_jax.errors import UserError
from tga_jax.inference.model import Model
from tga_jax.inference.sampling import Sampling
from tga_jax.serve import chat
from tga_jax.serve.batches import Batches, Ended, Full, News, Request, Ticket

MAX_BODY = 64_000_000  # bytes of a request


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class _ImageUrl(_Strict):
    """detail: of no effect, since a vision tower has one resolution."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: _ImageUrl


_Part = Annotated[_TextPart | _ImagePart, pydantic.Field(discriminator="type")]


class _Said(_Strict):
    """One message; a name is taken by no chat template here."""

    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]


class _StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _Nothing(_Strict):
    type: Literal["text"]


class ChatRequest(_Strict):
    """https://platform.openai.com/docs/api-reference/chat/create, and vLLM's top_k, min_p and repetition_penalty.

    Greedy unless a temperature says otherwise, as `tga chat` is. The second group of fields is taken with the values
    alone that ask for nothing.
    """

    model: str
    messages: Annotated[list[_Said], pydantic.Field(min_length=1)]
    max_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, pydantic.Field(ge=1)] | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, pydantic.Field(ge=1)] | None = None
    min_p: Annotated[float, pydantic.Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, pydantic.Field(gt=0)] | None = None
    stop: str | Annotated[list[str], pydantic.Field(max_length=4)] | None = None
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    user: str | None = None  # who asks; of no effect
    metadata: dict[str, str] | None = None
    n: Literal[1] | None = None
    frequency_penalty: Annotated[float, pydantic.Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, pydantic.Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, float], pydantic.Field(max_length=0)] | None = None
    response_format: _Nothing | None = None
    tools: Annotated[list[Any], pydantic.Field(max_length=0)] | None = None
    store: Literal[False] | None = None

    def sampling(self) -> Sampling:
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Sampling(**given)

    def new_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in found if text)


def to_request(asked: ChatRequest, model: Model, template: str = "chat") -> Request:
    """Raises UserError for a picture that is none, or messages that the template refuses."""
    messages, pictures = [], []
    for i, said in enumerate(asked.messages):
        parts: Any = said.content
        if isinstance(said.content, list):
            parts = []
            for j, part in enumerate(said.content):
                if isinstance(part, _TextPart):
                    parts.append({"type": "text", "text": part.text})
                else:
                    where = f"messages[{i}].content[{j}].image_url.url"
                    pictures.append(model.processor.pixels([_picture(part.image_url.url, where)])[0])
                    parts.append({"type": "image"})
        else:
            parts = [{"type": "text", "text": said.content}]
        messages.append({"role": said.role, "content": parts})
    prompt = chat.prompt(model.processor, messages, template)
    return Request(prompt, pictures, asked.new_tokens(), asked.stops(), asked.sampling(), asked.seed or 0)


def _picture(url: str, where: str) -> Any:
    """Raises UserError. Addresses are not fetched: the server would read for anybody what it alone can reach."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise UserError(f"{where}: {url[:40]!r}, expected data:image/...;base64,...")
    try:
        found = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise UserError(f"{where}: no base64 ({error})") from error
    return images.decode(found, where)


class _Metrics:
    """For Prometheus, in a registry of their own."""

    def __init__(self, batches: Batches):
        self.registry = prometheus.CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus.Counter("tga_requests", "Requests by status.", ["status"], **own)
        self.seconds = prometheus.Histogram(
            "tga_request_seconds", "From a request to the end of its answer.", buckets=_BUCKETS, **own
        )
        self.prompt_tokens = prometheus.Counter("tga_prompt_tokens", "Tokens of prompts.", **own)
        self.new_tokens = prometheus.Counter("tga_new_tokens", "Tokens of answers.", **own)
        self.rows = prometheus.Histogram(
            "tga_batch_rows", "Requests answered together.", buckets=[2**i for i in range(8)], **own
        )
        prometheus.Gauge("tga_waiting_requests", "Requests that wait.", **own).set_function(lambda: len(batches))


_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def build(model: Model, name: str, template: str = "chat", size: int = 8, waiting: int = 64) -> fastapi.FastAPI:
    """name: under which the checkpoint is asked; template: as of `chat.prompt`; size, waiting: as of `Batches`."""
    batches = Batches(model, size, waiting, lambda rows, _tokens, _seconds: metrics.rows.observe(rows))
    metrics = _Metrics(batches)
    created = int(time.time())

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(batches.close)

    app = fastapi.FastAPI(title="tga_jax", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(_Limit)

    def failed(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
        metrics.requests.labels(status).inc()
        kind = "invalid_request_error" if status < 500 else "server_error"
        headers = {"Retry-After": "1"} if status == 429 else None
        error = {"message": message, "type": kind, "param": param, "code": code}
        return JSONResponse({"error": error}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: fastapi.Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part not in ("body", "text", "image_url", "list[tagged-union]")]
        param = ".".join(where) or None
        return failed(400, f"{param or 'body'}: {first['msg']}", param)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        about = {"id": name, "object": "model", "created": created, "owned_by": "tga_jax"}
        return {"object": "list", "data": [about]}

    @app.get("/metrics")
    async def figures() -> Response:
        return PlainTextResponse(
            prometheus.generate_latest(metrics.registry), headers={"Content-Type": prometheus.CONTENT_TYPE_LATEST}
        )

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(asked: ChatRequest, http: fastapi.Request) -> Response:
        began = time.monotonic()
        if asked.model != name:
            return failed(404, f"model: {asked.model!r}, expected {name!r}", "model", "model_not_found")
        try:
            request = await run_in_threadpool(to_request, asked, model, template)
            loop, news = asyncio.get_running_loop(), asyncio.Queue[News]()
            deliver = partial(loop.call_soon_threadsafe, news.put_nowait)
            ticket = await run_in_threadpool(batches.submit, request, deliver)
        except Full as error:
            return failed(429, str(error), code="rate_limit_exceeded")
        except UserError as error:
            return failed(400, str(error))
        about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}

        def end(ended: Ended) -> dict[str, int]:
            metrics.requests.labels(200).inc()
            metrics.seconds.observe(time.monotonic() - began)
            metrics.prompt_tokens.inc(ended.prompt_tokens)
            metrics.new_tokens.inc(ended.new_tokens)
            total = ended.prompt_tokens + ended.new_tokens
            counts = {"prompt_tokens": ended.prompt_tokens, "completion_tokens": ended.new_tokens}
            return {**counts, "total_tokens": total}

        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            events = _chunks(ticket, news, about, end, usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        leaving = asyncio.create_task(_watch(http, ticket))
        pieces: list[str] = []
        while isinstance(ended := await news.get(), str):
            pieces.append(ended)
        leaving.cancel()
        if isinstance(ended, UserError):
            return failed(500, str(ended))
        message = {"role": "assistant", "content": "".join(pieces), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": ended.reason, "logprobs": None}
        return JSONResponse({**about, "object": "chat.completion", "choices": [choice], "usage": end(ended)})

    return app


async def _watch(http: fastapi.Request, ticket: Ticket) -> None:
    """The batch goes on without a reader who leaves."""
    while not await http.is_disconnected():
        await asyncio.sleep(0.2)
    ticket.given_up = True


async def _chunks(
    ticket: Ticket, coming: asyncio.Queue[News], about: dict[str, Any], end: Callable[[Ended], Any], usage: bool
) -> AsyncIterator[str]:
    """Server-sent events."""

    def event(delta: dict[str, Any] | None, reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        choices = [] if delta is None else [choice]
        said = {**about, "object": "chat.completion.chunk", "choices": choices}
        return f"data: {json.dumps({**said, **({'usage': None} if usage else {}), **more})}\n\n"

    try:
        yield event({"role": "assistant", "content": ""})
        while isinstance(news := await coming.get(), str):
            yield event({"content": news})
        if isinstance(news, UserError):
            yield f"data: {json.dumps({'error': {'message': str(news), 'type': 'server_error'}})}\n\n"
            return
        counts = end(news)
        yield event({}, news.reason)
        if usage:
            yield event(None, usage=counts)
        yield "data: [DONE]\n\n"
    finally:
        ticket.given_up = True  # a reader who leaves ends this generator


class _Limit:
    """Refuses bodies of more than MAX_BODY bytes, whether their length is said or not."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY:
                reason = f"a body of more than {MAX_BODY / 1e6:.0f} MB"
                error = {"message": reason, "type": "invalid_request_error", "param": None, "code": None}
                return await JSONResponse({"error": error}, 413)(scope, receive, send)
        read = False

        async def whole() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return await self.app(scope, whole, send)
