"""A request to OpenAI's chat completions, with pictures, and what it asks of a model.

What of a request has no counterpart here is refused by name, unless its value asks for nothing.
"""

import base64
import binascii
from typing import Annotated, Any, Literal

import pydantic
from PIL import Image

from tga_jax.data import images
from tga_jax.errors import UserError
from tga_jax.inference.model import Model
from tga_jax.inference.sampling import Sampling
from tga_jax.serve import chat
from tga_jax.serve.batches import Request


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
    """One message. The fields below content stand in answers, which come back as messages: empty, or refused."""

    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], pydantic.Field(max_length=0)] | None = None
    annotations: Annotated[list[Any], pydantic.Field(max_length=0)] | None = None


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
        if not self.temperature:  # then the others have no effect, and would only keep requests apart
            names = ("repetition_penalty",)
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
                    pictures.append(model.processor.kept(_picture(part.image_url.url, where)))
                    parts.append({"type": "image"})
        else:
            parts = [{"type": "text", "text": said.content}]
        messages.append({"role": said.role, "content": parts})
    prompt = chat.prompt(model.processor, messages, template)
    return Request(prompt, pictures, asked.new_tokens(), asked.stops(), asked.sampling(), asked.seed or 0)


def _picture(url: str, where: str) -> Image.Image:
    """Raises UserError. Addresses are not fetched: the server would read for anybody what it alone can reach."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise UserError(f"{where}: {url[:40]!r}, expected data:image/...;base64,...")
    try:
        found = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise UserError(f"{where}: no base64 ({error})") from error
    return images.decode(found, where)
