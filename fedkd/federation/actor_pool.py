"""Flower's pool of Ray actors, mended: an actor that has died leaves it, and another one comes where there is room.

Flower 1.41 puts a dead actor back on top of the idle ones, where it fails at once whatever comes next, for the rest of
the run. Both Ray and Flower's pool are handed in, so this needs neither.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, final

ANSWER_S = 0.2  # an idle actor answers in a millisecond; who does not is passed over until it does
NO_ACTOR_S = 120.0  # where no actor lives and none comes, a message fails after that
POLL_S = 0.05

_log = logging.getLogger(__name__)


def mend(pool_class: Any, ray: Any) -> None:
    """Have the class, Flower's `BasicActorPool`, hand messages to actors that live and answer, and to no others."""
    crew = _Crew(pool_class.submit, ray)
    pool_class.submit = lambda pool, call, job: crew.submit(pool, call, job)


@final
class _Crew:
    """Who of a pool's idle actors is fit for work. An actor is asked right before it gets a message."""

    def __init__(self, submit: Callable[[Any, Any, Any], Any], ray: Any) -> None:
        self._submit = submit
        self._ray = ray
        self._lock = threading.Lock()  # Flower calls from a thread for each actor
        self._absent: dict[Any, Any] = {}  # answer that is waited for -> actor: it starts, or its node does not answer

    def submit(self, pool: Any, call: Any, job: Any) -> Any:
        """Flower's `submit` once an actor is fit; waits as long as one of them is at work.

        Raises:
            RuntimeError: there has been no actor for `NO_ACTOR_S`.
        """
        deadline = time.monotonic() + NO_ACTOR_S
        while True:
            with self._lock:
                if self._has_fit_on_top(pool):
                    return self._submit(pool, call, job)
            if pool._future_to_actor:  # those at work come back, or end with an error
                deadline = time.monotonic() + NO_ACTOR_S
            if time.monotonic() > deadline:
                raise RuntimeError(f"no Ray actor is left, and none has come for {NO_ACTOR_S:g} s")
            time.sleep(POLL_S)

    def _has_fit_on_top(self, pool: Any) -> bool:
        """Whether the idle actor that Flower would take is fit; those that are not have left the idle ones."""
        if self._absent:
            here, _ = self._ray.wait(list(self._absent), num_returns=len(self._absent), timeout=0)
            for answer in here:
                self._return(pool, self._absent.pop(answer), answer)
        while pool.pool:
            actor = pool.pool.pop()
            answer = actor.__ray_ready__.remote()
            here, _ = self._ray.wait([answer], timeout=ANSWER_S)
            if not here:
                self._absent[answer] = actor
            elif self._return(pool, actor, answer):
                return True
        return False

    def _return(self, pool: Any, actor: Any, answer: Any) -> bool:
        """Put an actor that has answered back among the idle ones; where it has died, expect another one instead."""
        try:
            self._ray.get(answer)
        except self._ray.exceptions.RayActorError:
            _log.warning("a Ray actor has died; another one is asked for")
            other = pool.create_actor_fn()
            self._absent[other.__ray_ready__.remote()] = other
            return False
        pool.pool.append(actor)
        return True
