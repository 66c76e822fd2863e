import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimtab_cluster.locks import locked
from trimtab_cluster.places import Cluster
from trimtab_cluster.processes import alive, kill, recorded, start_time


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory() as state:  # pytest's own folder is too deep for sockets
        monkeypatch.setenv("XDG_STATE_HOME", state)
        made = Cluster("unit")
        made.run.mkdir(parents=True)
        yield made


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.wait()


def test_a_recorded_process_is_found_again(cluster: Cluster, sleeper: int) -> None:
    (cluster.run / "etcd.pid").write_text(f"{sleeper} {start_time(sleeper)}")

    assert recorded(cluster, "etcd") == sleeper


def test_a_pid_that_another_process_got_is_not_taken_for_the_component(cluster: Cluster, sleeper: int) -> None:
    (cluster.run / "etcd.pid").write_text(f"{sleeper} 1")

    assert recorded(cluster, "etcd") is None


def test_a_record_that_was_cut_off_names_no_process(cluster: Cluster) -> None:
    (cluster.run / "etcd.pid").write_text("1")

    assert recorded(cluster, "etcd") is None
    assert recorded(cluster, "never-started") is None


def test_a_killed_process_is_gone_when_kill_returns(cluster: Cluster, sleeper: int) -> None:
    started = start_time(sleeper)
    (cluster.run / "etcd.pid").write_text(f"{sleeper} {started}")

    kill([sleeper])

    assert not alive(sleeper)
    assert recorded(cluster, "etcd") is None


def test_a_process_that_is_gone_has_no_start_time() -> None:
    assert start_time(2**22 + 1) == ""


def test_a_lock_whose_file_its_holder_removed_is_taken_on_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    with locked(path):
        path.unlink()
    with locked(path):
        assert path.exists()
