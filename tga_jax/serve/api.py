"""`tga serve --api`: a checkpoint behind the chat completions of OpenAI's API, with pictures."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import fastapi
import prometheus_client as prometheus
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tga_jax.errors import UserError
from tga_jax.inference.model import Model
from tga_jax.serve.batches import Batches, Ended, Full, News, Ticket
from tga_jax.serve.completions import ChatRequest, to_request

MAX_BODY = 64_000_000  # bytes of a request


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


class _Api:
    """What the addresses answer."""

    def __init__(self, model: Model, name: str, template: str, size: int, waiting: int):
        self.model, self.name, self.template, self.created = model, name, template, int(time.time())
        self.batches = Batches(model, size, waiting, lambda rows: self.metrics.rows.observe(rows))
        self.metrics = _Metrics(self.batches)

    def failed(self, status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
        self.metrics.requests.labels(status).inc()
        headers = {"Retry-After": "1"} if status == 429 else None
        return JSONResponse(_error(message, status, param, code), status, headers)

    async def malformed(self, _: fastapi.Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part not in _UNSAID]
        param = ".".join(where) or None
        return self.failed(400, f"{param or 'body'}: {first['msg']}", param)

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def models(self) -> dict[str, Any]:
        about = {"id": self.name, "object": "model", "created": self.created, "owned_by": "tga_jax"}
        return {"object": "list", "data": [about]}

    async def figures(self) -> Response:
        text = prometheus.generate_latest(self.metrics.registry)
        return PlainTextResponse(text, headers={"Content-Type": prometheus.CONTENT_TYPE_LATEST})

    async def complete(self, asked: ChatRequest, http: fastapi.Request) -> Response:
        began = time.monotonic()
        if asked.model != self.name:
            return self.failed(404, f"model: {asked.model!r}, expected {self.name!r}", "model", "model_not_found")
        loop, news = asyncio.get_running_loop(), asyncio.Queue[News]()
        try:
            request = await run_in_threadpool(to_request, asked, self.model, self.template)
            deliver = partial(loop.call_soon_threadsafe, news.put_nowait)
            ticket = await run_in_threadpool(self.batches.submit, request, deliver)
        except Full as error:
            return self.failed(429, str(error), code="rate_limit_exceeded")
        except UserError as error:
            return self.failed(400, str(error))
        about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.name}
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            events = _chunks(ticket, news, about, partial(self.ended, began), usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        leaving = asyncio.create_task(_watch(http, ticket))
        pieces: list[str] = []
        while isinstance(end := await news.get(), str):
            pieces.append(end)
        leaving.cancel()
        if isinstance(end, UserError):
            return self.failed(500, str(end))
        message = {"role": "assistant", "content": "".join(pieces), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": end.reason, "logprobs": None}
        whole = {**about, "object": "chat.completion", "choices": [choice], "usage": self.ended(began, end)}
        return JSONResponse(whole)

    def ended(self, began: float, end: Ended) -> dict[str, int]:
        """Counts a whole answer; its usage."""
        self.metrics.requests.labels(200).inc()
        self.metrics.seconds.observe(time.monotonic() - began)
        self.metrics.prompt_tokens.inc(end.prompt_tokens)
        self.metrics.new_tokens.inc(end.new_tokens)
        total = end.prompt_tokens + end.new_tokens
        return {"prompt_tokens": end.prompt_tokens, "completion_tokens": end.new_tokens, "total_tokens": total}


# Of the place of an error, what names no field of the request.
_UNSAID = ("body", "text", "image_url", "str", "list[str]", "list[tagged-union[_TextPart,_ImagePart]]")


def _error(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def build(model: Model, name: str, template: str = "chat", size: int = 8, waiting: int = 64) -> fastapi.FastAPI:
    """name: under which the checkpoint is asked; template: as of `chat.prompt`; size, waiting: as of `Batches`."""
    api = _Api(model, name, template, size, waiting)

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(api.batches.close)

    app = fastapi.FastAPI(title="tga_jax", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(_Limit)
    app.add_exception_handler(RequestValidationError, api.malformed)
    for path, answer in (("/health", api.health), ("/v1/models", api.models), ("/metrics", api.figures)):
        app.add_api_route(path, answer, methods=["GET"], response_model=None)
    app.add_api_route("/v1/chat/completions", api.complete, methods=["POST"], response_model=None)
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
            yield f"data: {json.dumps(_error(str(news), 500))}\n\n"
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
                error = _error(f"a body of more than {MAX_BODY / 1e6:.0f} MB", 413)
                return await JSONResponse(error, 413)(scope, receive, send)
        read = False

        async def whole() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return await self.app(scope, whole, send)
