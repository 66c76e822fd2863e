"""The operator dies before and after every single write of a story: what comes out in the end is the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from trimtab_api.revision import identity_of, revision_name
from trimtab_api.spec import ModelDeploymentSpec
from trimtab_cli.local.api import LocalApi
from trimtab_operator.core.observed import Manifest
from trimtab_testing.simulation import Simulation, a_spec, with_steps

HALF = with_steps({"setWeight": 50}, {"pause": {}})
Story = Callable[[Simulation], Iterator[None]]


class Died(Exception):
    """The process is gone."""


class Mortal:
    """A client whose process dies at one write: before the server has it, or after, with the answer lost."""

    def __init__(self, api: LocalApi, dies_at: int, after: bool) -> None:
        self._api = api
        self._dies_at = dies_at
        self._after = after
        self.writes = 0
        self.get, self.list, self.create_event = api.get, api.list, api.create_event

    async def apply(self, manifest: Manifest) -> Manifest:
        self._before()
        found = await self._api.apply(manifest)
        self._afterwards()
        return found

    async def apply_status(self, manifest: Manifest) -> None:
        self._before()
        await self._api.apply_status(manifest)
        self._afterwards()

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        self._before()
        await self._api.delete(kind, namespace, name)
        self._afterwards()

    def _before(self) -> None:
        self.writes += 1
        if self.writes == self._dies_at and not self._after:
            raise Died

    def _afterwards(self) -> None:
        if self.writes == self._dies_at and self._after:
            raise Died


def spec(version: str, **changes: Any) -> dict[str, Any]:
    uri = f"oci://registry.local:5000/models/digits:{version}"
    return a_spec(model={"uri": uri, "format": "pytorch"}, strategy=HALF, **changes)


def name(version: str) -> str:
    return revision_name("digits", identity_of(ModelDeploymentSpec.parse(spec(version))))


def first_apply(world: Simulation) -> Iterator[None]:
    world.apply(spec("v1"))
    yield


def promotion(world: Simulation) -> Iterator[None]:
    world.apply(spec("v1"))
    yield
    world.apply(spec("v2"))
    yield
    world.apply(spec("v2"), resume=f"{name('v2')}/1")
    yield


def abort(world: Simulation) -> Iterator[None]:
    world.apply(spec("v1"))
    yield
    world.apply(spec("v2"))
    yield
    world.apply(spec("v1"))
    yield


def rollback(world: Simulation) -> Iterator[None]:
    yield from promotion(world)
    world.apply(spec("v1"))
    yield


def third_version_in_the_middle_of_a_canary(world: Simulation) -> Iterator[None]:
    world.apply(spec("v1"))
    yield
    world.apply(spec("v2"))
    yield
    world.apply(spec("v3"))
    yield


def failing_gate(world: Simulation) -> Iterator[None]:
    world.apply(spec("v1"))
    yield
    world.figures = {"accuracy": (0.5, 0.9)}
    metrics = [{"name": "accuracy", "min": 0.9}]
    world.apply(spec("v2", evaluation={"data": "oci://registry.local:5000/data/test:v1", "metrics": metrics}))
    yield


STORIES: tuple[Story, ...] = (
    first_apply,
    promotion,
    abort,
    rollback,
    third_version_in_the_middle_of_a_canary,
    failing_gate,
)


def live(story: Story, dies_at: int, after: bool) -> tuple[Simulation, Mortal]:
    """Live through a story with an operator that dies once; the next one takes over at once."""
    world = Simulation()
    mortal = Mortal(world.api, dies_at, after)
    world.context = replace(world.context, client=mortal)
    for _ in story(world):
        settle(world)
    return world, mortal


def settle(world: Simulation) -> None:
    """Let the world come to rest, and look at each moment whether somebody who gets traffic has pods."""
    for _ in range(60):
        try:
            moved = world.look()
        except Died:
            world.context = replace(world.context, client=world.api)
            moved = True
        assert_served(world)
        if not (world.react() or moved):
            return
    raise AssertionError(f"the world does not settle: {world.history[-4:]}")


def assert_served(world: Simulation) -> None:
    stable = world.status.get("stableRevision")
    main = [item for item in world.api.all("Service") if item["metadata"]["name"] == "digits"]
    if stable and main:
        selected = main[0]["spec"]["selector"].get("trimtab.dev/revision") or stable
        assert world.pods(selected) > 0, f"{selected} gets traffic without pods"


def outcome(world: Simulation) -> dict[str, Any]:
    """Return what the world is like, without names of Jobs and times."""
    status = {key: value for key, value in world.status.items() if key not in ("conditions", "rollout")}
    return {
        "status": status,
        "selected": world.selected,
        "pods": {item["metadata"]["name"]: item["spec"]["replicas"] for item in world.api.all("Deployment")},
        "revisions": sorted(item["metadata"]["name"] for item in world.api.all("ModelRevision")),
        "jobs": len(world.api.all("Job")),
    }


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_death_at_any_write_changes_nothing_in_the_end(story: Story) -> None:
    undisturbed, counted = live(story, dies_at=0, after=False)
    assert counted.writes > 5

    for dies_at in range(1, counted.writes + 1):
        for after in (False, True):
            world, _ = live(story, dies_at, after)
            assert outcome(world) == outcome(undisturbed), f"died {'after' if after else 'before'} write {dies_at}"
