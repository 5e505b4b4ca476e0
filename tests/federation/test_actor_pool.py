"""Flower's own pool class over actors that are made up; tests/e2e has Ray's."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from fedkd.federation import actor_pool
from fedkd.federation.actor_pool import mend


class ActorDiedError(Exception):
    """Ray's error."""


class FakeRay:
    """What is used of Ray: an answer is there at once, unless its actor is silent."""

    exceptions = SimpleNamespace(RayActorError=ActorDiedError)

    def wait(self, answers: list[Any], *, timeout: float, num_returns: int = 1) -> tuple[list[Any], list[Any]]:
        here = [answer for answer in answers if not answer.actor.is_silent]
        return here, [answer for answer in answers if answer not in here]

    def get(self, answer: Any) -> bool:
        if answer.actor.is_dead:
            raise ActorDiedError
        return True


class Actor:
    def __init__(self, name: str, *, is_dead: bool = False, is_silent: bool = False) -> None:
        self.name, self.is_dead, self.is_silent = name, is_dead, is_silent
        self.__ray_ready__ = SimpleNamespace(remote=lambda: _Answer(self))


class _Answer:
    def __init__(self, actor: Actor) -> None:
        self.actor = actor


class Pool:
    """As Flower's BasicActorPool: a stack of the idle, and who is at work."""

    def __init__(self, *actors: Actor, next_ones: list[Actor] | None = None) -> None:
        self.pool = list(actors)
        self._future_to_actor: dict[Any, Actor] = {}
        self.next_ones = next_ones or []
        self.created = 0

    def create_actor_fn(self) -> Actor:
        self.created += 1
        return self.next_ones.pop(0) if self.next_ones else Actor("starting", is_silent=True)

    def submit(self, call: Any, job: Any) -> str:
        actor = self.pool.pop()
        self._future_to_actor[job] = actor
        return actor.name

    def is_done(self, job: Any) -> None:
        self.pool.append(self._future_to_actor.pop(job))


@pytest.fixture
def pool_class(monkeypatch: pytest.MonkeyPatch) -> type[Pool]:
    """A class of its own, mended."""
    monkeypatch.setattr(actor_pool, "POLL_S", 0.001)
    monkeypatch.setattr(actor_pool, "NO_ACTOR_S", 0.05)
    mended = type("Mended", (Pool,), {"submit": Pool.submit})
    mend(mended, FakeRay())
    return mended


def test_actors_that_live_are_taken_as_flower_takes_them(pool_class: type[Pool]) -> None:
    pool = pool_class(Actor("a"), Actor("b"))
    assert [pool.submit(None, 1), pool.submit(None, 2)] == ["b", "a"]
    pool.is_done(2)
    assert pool.submit(None, 3) == "a"
    assert not pool.created


def test_a_dead_actor_leaves_and_another_one_comes(pool_class: type[Pool]) -> None:
    other = Actor("other", is_silent=True)
    pool = pool_class(Actor("a"), Actor("dead", is_dead=True), next_ones=[other])
    assert pool.submit(None, 1) == "a"
    assert (pool.created, pool.pool) == (1, [])  # it starts; messages do not go there yet
    other.is_silent = False
    assert pool.submit(None, 2) == "other"


def test_an_actor_that_dies_at_work_is_found_out_when_it_is_back(pool_class: type[Pool]) -> None:
    pool = pool_class(Actor("a"), Actor("b"))
    assert pool.submit(None, 1) == "b"
    pool._future_to_actor[1].is_dead = True
    pool.is_done(1)
    assert [pool.submit(None, number) for number in (2,)] == ["a"]
    assert pool.created == 1


def test_an_actor_that_does_not_answer_is_passed_over_until_it_does(pool_class: type[Pool]) -> None:
    silent = Actor("silent", is_silent=True)
    pool = pool_class(Actor("a"), silent)
    assert pool.submit(None, 1) == "a"
    silent.is_silent = False
    assert pool.submit(None, 2) == "silent"
    assert not pool.created


def test_a_message_waits_for_those_at_work_however_long_that_is(pool_class: type[Pool]) -> None:
    pool = pool_class(Actor("a"))
    pool.submit(None, 1)
    taken: list[str] = []
    waiting = threading.Thread(target=lambda: taken.append(pool.submit(None, 2)))
    waiting.start()
    time.sleep(3 * actor_pool.NO_ACTOR_S)
    assert taken == []
    pool.is_done(1)
    waiting.join(timeout=5.0)
    assert taken == ["a"]


def test_without_any_actor_a_message_fails_in_time(pool_class: type[Pool]) -> None:
    pool = pool_class(Actor("dead", is_dead=True))
    with pytest.raises(RuntimeError, match=r"no Ray actor is left, and none has come for 0\.05 s"):
        pool.submit(None, 1)


def test_the_pool_that_is_mended_is_flower_s() -> None:
    pytest.importorskip("ray", reason="Flower's simulation needs the extra 'simulation'")
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool

    taken = {"pool", "_future_to_actor"}
    assert taken <= set(BasicActorPool.__init__.__code__.co_names)
    assert "create_actor_fn" in BasicActorPool.__init__.__code__.co_names
    assert BasicActorPool.submit.__code__.co_varnames[:3] == ("self", "actor_fn", "job")
