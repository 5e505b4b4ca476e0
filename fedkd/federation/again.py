"""Asking again for the clients whose worker was lost: a node that left, a process that was killed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from fedkd.federation.fleet import CohortReply
from fedkd.federation.messages import Request

TRIES = 4  # a client whose training ends its process is given up after so many

Ask: TypeAlias = Callable[[Request, float], Iterator[CohortReply]]  # within so many seconds

_log = logging.getLogger(__name__)


def ask_again(ask: Ask, request: Request, *, deadline_s: float) -> Iterator[CohortReply]:
    """Replies to the request; the clients of lost cohorts are asked again, all within the deadline.

    An answer is a function of the request and of the state that it names by its digest, so it is the same whoever
    gives it, and whether or not a first worker got as far as to write down the new state.
    """
    ends, within_s = time.monotonic() + deadline_s, deadline_s
    for tries_left in reversed(range(TRIES)):
        lost = []
        for reply in ask(request, within_s):
            if reply.is_lost:
                lost.append(reply)
            else:
                yield reply
        within_s = ends - time.monotonic()
        if not lost or not tries_left or within_s <= 0:
            yield from lost
            return
        clients = sorted(client_id for reply in lost for client_id in reply.clients)
        _log.warning("asking again for the clients %s: their worker was lost", ", ".join(map(str, clients)))
        request = replace(request, clients={client_id: request.clients[client_id] for client_id in clients})
