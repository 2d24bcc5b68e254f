"""A model behind an OpenAI-compatible endpoint as judge, by the rubric of `model`."""

import dataclasses
import os
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tga_jax.errors import UserError
from tga_jax.evals.judge import Verdict
from tga_jax.evals.judges.model import REFUSAL, ModelJudge, Rubric


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens that the endpoint counted; cost: in the currency of the prices, None without prices."""

    prompt_tokens: int
    completion_tokens: int
    cost: float | None

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", cost {self.cost:.4f}"
        return f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens{cost}"


class EndpointJudge:
    """Asks a model by HTTP, several answers at a time.

    base_url, model: such as "https://api.openai.com/v1" and "gpt-4o-mini"; the key is $OPENAI_API_KEY.
    timeout: seconds for one attempt; max_retries: attempts after the first, with growing pauses, when the endpoint is
        busy (429), failing (5xx), silent or out of reach.
    prices: of a million prompt tokens and of a million completion tokens.
    options: further fields of the request; models that reason take other ones.
    rubric: what is asked; a completion that holds none of its words is "unknown".

    Raises UserError without the openai package or the key, for a URL that holds a password, which results would keep,
    and naming the endpoint if it fails for good or if what it sends is no chat completion.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        timeout: float = 60,
        max_retries: int = 5,
        parallel: int = 8,
        prices: tuple[float, float] | None = None,
        options: Mapping[str, Any] = {"temperature": 0, "max_tokens": 16},
        rubric: Rubric = REFUSAL,
    ):
        try:
            import openai
        except ImportError as error:
            raise UserError("a judge behind an endpoint needs openai; install it: pip install openai") from error
        key = os.environ.get("OPENAI_API_KEY")
        if not key:
            raise UserError("OPENAI_API_KEY is not set, expected the endpoint's key (any text if it needs none)")
        check_url(base_url, "the judge's URL")
        judge = ModelJudge(self._ask_all, f"{model} at {base_url}", rubric)
        self._judge, self.name, self.version, self.rubric = judge, judge.name, judge.version, judge.rubric
        self._errors = openai.OpenAIError
        self._client = openai.OpenAI(api_key=key, base_url=base_url, timeout=timeout, max_retries=max_retries)
        self._model, self._parallel, self._prices, self._options = model, parallel, prices, dict(options)
        self._tokens, self._lock = [0, 0], threading.Lock()

    @property
    def usage(self) -> Usage:
        """Of all requests so far."""
        asked, told = self._tokens
        cost = (asked * self._prices[0] + told * self._prices[1]) / 1e6 if self._prices else None
        return Usage(asked, told, cost)

    def verdicts(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        return self._judge.verdicts(pairs)

    def replies(self, contents: Sequence[Any]) -> list[str]:
        """To user messages of these contents, each a text or a list of parts as OpenAI's API has them."""
        return self._ask_all(contents)

    def _ask_all(self, prompts: Sequence[Any]) -> list[str]:
        with ThreadPoolExecutor(self._parallel) as pool:
            return list(pool.map(self._ask, prompts))  # an error cancels those that wait

    def _ask(self, prompt: Any) -> str:
        messages: Any = [{"role": "user", "content": prompt}]
        try:
            made = self._client.chat.completions.create(model=self._model, messages=messages, extra_body=self._options)
            reply = made.choices[0].message.content
        except self._errors as error:
            raise UserError(f"{self.name}: {_line(error, self._client.api_key)}") from error
        except (ValueError, AttributeError, TypeError, IndexError) as error:  # the client does not check what comes
            raise UserError(f"{self.name}: sent no chat completion, expected an OpenAI-compatible endpoint") from error
        if made.usage:
            with self._lock:
                self._tokens[0] += made.usage.prompt_tokens
                self._tokens[1] += made.usage.completion_tokens
        return reply or ""


def _line(error: Exception, key: str) -> str:
    """Without the key, which a server may send back."""
    return " ".join(str(error).replace(key, "<key>").split())[:300] or type(error).__name__


def check_url(url: str, name: str) -> None:
    """Raises UserError for a URL with what results and logs must not keep, such as a password; it is not shown. name:
    of the flag, or what it is."""
    try:
        found = urllib.parse.urlsplit(url)
        good = found.scheme in ("http", "https") and bool(found.hostname) and (found.port is None or found.port > 0)
    except ValueError:
        good, found = False, urllib.parse.urlsplit("")
    if not good:
        raise UserError(f"{name}: expected a URL such as https://api.openai.com/v1")
    if found.username is not None or found.query or found.fragment:
        said = "expected neither a user or password nor anything behind ? or # in it"
        raise UserError(f"{name}: {said}, since results keep it; a key is read from OPENAI_API_KEY")
