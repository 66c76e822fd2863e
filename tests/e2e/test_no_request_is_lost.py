"""Callers on every kind of connection notice nothing of any phase, with the operator killed in the middle of each."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from callers import WAYS, Callers
from install import EXAMPLES, manifest_of
from road import Road
from target import Target
from trimtab_testing.operators import Operator

_REQUESTS = 20_000
_PAUSE = 0.015  # seconds between two requests of one caller; there are four


class Story:
    """A ModelDeployment that is edited while callers ask, and an operator that is killed on the way."""

    def __init__(self, target: Target, namespace: str, operator: Operator) -> None:
        self._target = target
        self._namespace = namespace
        self._operator = operator
        self.road = Road(target, namespace)
        self.leading()

    def edit(self, file: str, steps: list[dict[str, Any]] | None = None, batch: int = 32) -> None:
        """Apply a file of the example with these steps; another batch size is another revision of the same artifact."""
        manifest = yaml.safe_load(manifest_of(self._target, EXAMPLES / "digits" / file))
        manifest["spec"] |= {"strategy": {"canary": {"steps": steps or []}}}
        manifest["spec"]["runtime"] = {"batching": {"maxBatchSize": batch}}
        self._target.kubectl("-n", self._namespace, "apply", "-f", "-", given=yaml.safe_dump(manifest))

    def until(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        return self.road.follow(lambda status: bool(what(status)))

    def healthy(self, but: str = "") -> str:
        """Wait until something serves, another revision than `but`, and nothing is on its way."""
        status = self.until(lambda found: found.get("phase") == "Healthy" and found["stableRevision"] != but)
        return str(status["stableRevision"])

    def leading(self) -> None:
        """Wait until an operator leads again, so that it is in the middle of what comes next when it is killed."""
        self._kill = self._operator.wait_until_leading()

    def kill(self, phase: str) -> None:
        self.road.say(f"the operator is killed: {phase}")
        self._kill()
        self.leading()

    def promote(self, candidate: str) -> None:
        """Go past all steps, as a person does with an annotation."""
        note = f"trimtab.dev/promote={candidate}"
        self._target.kubectl("-n", self._namespace, "annotate", "mdeploy", "digits", "--overwrite", note)


@pytest.fixture
def story(target: Target, namespace: str, operator: Operator) -> Story:
    return Story(target, namespace, operator)


def test_every_phase_is_gone_through_without_a_lost_request_while_the_operator_dies_in_each(
    story: Story, target: Target, namespace: str
) -> None:
    half = [{"setWeight": 50}, {"pause": {}}]
    story.edit("v1.yaml")
    story.kill("the first apply")
    first = story.healthy()

    with Callers(target, namespace, WAYS, _PAUSE) as callers:
        callers.start()

        story.edit("v2.yaml", half)
        story.until(lambda found: found.get("phase") == "Optimizing")
        story.kill("an apply, while the Job runs")
        story.until(lambda found: found.get("currentStepIndex") == 0)
        story.kill("a canary, while its weight is set")
        second = str(story.until(lambda found: found.get("phase") == "Paused")["candidateRevision"])
        callers.wait_for(callers.answered + 1500)

        story.promote(second)
        story.kill("a promotion")
        assert story.healthy(but=first) == second

        story.edit("v2.yaml", half, batch=16)
        third = str(story.until(lambda found: found.get("phase") == "Paused")["candidateRevision"])
        callers.wait_for(callers.answered + 1500)
        story.edit("v2.yaml", half)
        story.kill("an abort")
        assert story.healthy() == second

        story.edit("v1.yaml", half)
        story.kill("a rollback")
        assert story.healthy(but=second) == first
        callers.wait_for(max(_REQUESTS, callers.answered + 3000))
        callers.still_asking()

    assert callers.failures == []
    assert set(callers.by_revision) == {first, second, third}
    assert {answer.way for answer in callers.answers} == set(WAYS)
    assert all(answer.revision == first for answer in callers.answers[-100:])
