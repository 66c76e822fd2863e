"""`trimtab run` as a person uses it: real processes, a real model, edits of the file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import show
from laptop import Laptop
from trimtab_cluster.places import Cluster


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    with Laptop(tmp_path) as running:
        yield running


def test_an_edit_that_fails_its_gate_changes_nothing_and_an_edit_back_is_healthy_at_once(laptop: Laptop) -> None:
    laptop.says("Healthy: the stable revision serves")
    before = laptop.ask()
    assert before["predictions"][0]["label"] in list("0123456789")

    laptop.apply("v3-bad.yaml")
    laptop.says("is held back: accuracy is")
    assert laptop.ask() == before

    laptop.apply("v1.yaml")
    laptop.says("Healthy: the stable revision serves")
    assert laptop.ask() == before


def test_a_file_that_is_no_model_deployment_is_told_and_left(laptop: Laptop) -> None:
    laptop.says("Healthy: the stable revision serves")
    laptop.file.write_text("kind: Pod\n")
    laptop.says("not applied: ")
    assert laptop.ask()["predictions"]


def test_where_no_node_can_run_the_demo_says_what_is_missing_and_walks_the_road_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    show.show(Cluster("never"), "trimtab-demo")

    shown = capsys.readouterr().out
    assert "lacks:\n  root\n    mend: call it with sudo, or use a cluster of your own" in shown
    assert "analysis: " in shown
    assert "is held back: accuracy is" in shown
    assert "version 1 serves again" in shown
