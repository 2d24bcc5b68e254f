"""Waiting requests answered together, in batches of few static shapes, by the one thread that uses the device."""

import collections
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from tga_jax.data.prompt import Prompt
from tga_jax.errors import UserError
from tga_jax.inference.decode import NO_TOKEN, row_keys, steps
from tga_jax.inference.model import Model, Written
from tga_jax.inference.sampling import GREEDY, Sampling

_EVERY = 4  # tokens between two looks at the text
# A program is compiled for every shape, so there are few: of prompts' lengths the multiples of one number, of rows the
# powers of two, and of new tokens those from another number on.
_LENGTHS, _ANSWER = 64, 32
_USUAL = 256  # new tokens, where a request does not say


class Full(UserError):
    """Too many requests wait."""


@dataclasses.dataclass(frozen=True)
class Request:
    """pictures: as `processor.kept` gives them, uint8 each; new_tokens: at most, None for 256 or what the model's
    context leaves; stop: texts at which the answer ends."""

    prompt: Prompt
    pictures: Sequence[np.ndarray] = ()
    new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    seed: int = 0


class Ended(NamedTuple):
    """reason: "stop" at a stop token or text, "length" at the request's number of new tokens."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    new_tokens: int


News = str | Ended | UserError


class Ticket:
    """A request that waits or is being answered. deliver: called by the thread that answers, with the answer in pieces
    as they come, then once with how it ended, or with why there is none."""

    def __init__(self, request: Request, prompt_tokens: int, new_tokens: int, deliver: Callable[[News], object]):
        self.request, self.deliver = request, deliver
        self.prompt_tokens, self.new_tokens = prompt_tokens, new_tokens
        self.given_up = False  # by who asked: nobody reads on


class Batches:
    """model: with separate blocks, as `load` gives it; size: rows answered at once, a power of two; waiting: requests
    that may wait.

    Requests of one batch have the same `sampling`; their new tokens, stop texts and seeds may differ, and an answer is
    the one that the request gets alone. watch: called before every batch with the number of its requests.
    """

    def __init__(self, model: Model, size: int = 8, waiting: int = 64, watch: Callable[[int], object] | None = None):
        self.model, self.size, self.waiting, self._watch = model, size, waiting, watch
        self._line: collections.deque[Ticket] = collections.deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def submit(self, request: Request, deliver: Callable[[News], object]) -> Ticket:
        """Raises `Full`, and UserError for a request that the model cannot take."""
        if request.new_tokens is not None and request.new_tokens < 1:
            raise UserError(f"new_tokens: {request.new_tokens}, expected at least 1")
        batch = self.model.prompt_batch([request.prompt], [list(request.pictures)], request.new_tokens or 1)
        length = int(batch.valid.sum())
        left = _USUAL if self.model.context is None else min(_USUAL, self.model.context - length)
        ticket = Ticket(request, length, request.new_tokens or left, deliver)
        with self._changed:
            if len(self._line) >= self.waiting:
                raise Full(f"{len(self._line)} requests wait, expected fewer than {self.waiting}; try again later")
            self._line.append(ticket)
            self._changed.notify()
        return ticket

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._line)

    def close(self) -> None:
        """Ends after the batch at hand; who still waits gets an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _next(self) -> list[Ticket]:
        """The oldest request and those that can be answered with it; none: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._closed)
            if self._closed:
                for ticket in self._line:
                    ticket.deliver(UserError("the server stops"))
                return []
            sampling = self._line[0].request.sampling
            chosen = [ticket for ticket in self._line if ticket.request.sampling == sampling][: self.size]
            for ticket in chosen:
                self._line.remove(ticket)
        return [ticket for ticket in chosen if not ticket.given_up]

    def _work(self) -> None:
        while not self._closed:
            tickets = self._next()
            if not tickets:
                continue
            try:
                self._answer(tickets)
            except Exception as error:  # of JAX, such as no memory: these requests fail, and the server goes on
                for ticket in tickets:
                    ticket.deliver(
                        UserError(f"no answer ({(str(error).splitlines() or [type(error).__name__])[0]:.200})")
                    )

    def _answer(self, tickets: Sequence[Ticket]) -> None:
        if self._watch:
            self._watch(len(tickets))
        model, first = self.model, tickets[0].request
        rows = [*tickets, *[tickets[-1]] * (_power(len(tickets)) - len(tickets))]
        prompts, pictures = [t.request.prompt for t in rows], [list(t.request.pictures) for t in rows]
        batch = model.processor.batch(prompts, pictures, _LENGTHS)
        keys = jnp.concatenate([row_keys(t.request.seed, [0]) for t in rows])
        longest = max(t.new_tokens for t in tickets)
        how = model.decoding(dataclasses.asdict(first.sampling))
        sizes = {"new_tokens": _power(max(longest, _ANSWER)), "every": _EVERY}
        written = {row: Written(model, t.request.stop) for row, t in enumerate(tickets)}
        for ids in steps(model.language_config(), model.params, batch, how, keys, **sizes):
            for row in list(written):
                ticket = tickets[row]
                if self._more(ticket, written[row], ids[row, : ticket.new_tokens]):
                    del written[row]
            if not written:
                break

    def _more(self, ticket: Ticket, written: Written, ids: np.ndarray) -> bool:
        """Tells what is new in one answer; whether it has ended."""
        if NO_TOKEN in ids:
            ticket.deliver(UserError("the logits are NaN, expected numbers; the checkpoint's weights are damaged"))
            return True
        ends = np.flatnonzero(np.isin(ids, self.model.processor.stop_ids))
        count = int(ends[0]) + 1 if len(ends) else len(ids)
        if piece := written.more(ids):
            ticket.deliver(piece)
        if not (len(ends) or written.stopped or count == ticket.new_tokens or ticket.given_up):
            return False
        if not written.stopped and (piece := written.rest()):
            ticket.deliver(piece)
        ticket.deliver(Ended("stop" if len(ends) or written.stopped else "length", ticket.prompt_tokens, count))
        return True


def _power(n: int) -> int:
    """The power of two that is n or the next one above."""
    return 1 << (n - 1).bit_length()
