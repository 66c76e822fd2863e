"""Coming up, going down, and everything that may go wrong between."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from trimtab_cluster import processes
from trimtab_cluster.places import Cluster
from trimtab_testing.clusters import kubectl, run, start, traces_of

NewCluster = Callable[[str], Cluster]
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "waiting"},
    "spec": {
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            {
                "name": "pause",
                "image": "localhost/pause:1",
                "imagePullPolicy": "Never",
                "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
            }
        ],
    },
}


def test_after_down_nothing_of_the_cluster_is_left(new_cluster: NewCluster) -> None:
    cluster = new_cluster("gone")
    settings = _kernel_settings()
    run("up", "--name", cluster.name)
    kubectl(cluster, "apply", "-f", "-", given=json.dumps(POD))
    kubectl(cluster, "wait", "--for=condition=Ready", "pod/waiting", "--timeout=60s")
    assert traces_of(cluster)

    run("down", "--name", cluster.name)

    assert traces_of(cluster) == []
    assert _kernel_settings() == settings


def test_two_clusters_run_side_by_side(new_cluster: NewCluster) -> None:
    one, two = new_cluster("one"), new_cluster("two")
    starting = [_start(cluster) for cluster in (one, two)]
    assert [process.communicate()[1] for process in starting if process.wait()] == []
    kubectl(one, "create", "configmap", "only-in-one")

    run("down", "--name", one.name)

    assert traces_of(one) == []
    run("status", "--name", two.name)
    assert "only-in-one" not in kubectl(two, "get", "configmaps")


def test_a_killed_up_is_cleaned_by_the_next_down(new_cluster: NewCluster) -> None:
    cluster = new_cluster("cut")
    _kill_when_there(_start(cluster), cluster.log / "kube-apiserver.log")
    assert traces_of(cluster)

    run("down", "--name", cluster.name)

    assert traces_of(cluster) == []


def test_a_killed_up_is_made_good_by_the_next_up(new_cluster: NewCluster) -> None:
    cluster = new_cluster("again")
    _kill_when_there(_start(cluster), cluster.log / "etcd.log")

    run("up", "--name", cluster.name, "--apiserver-only")

    assert "default" in kubectl(cluster, "get", "namespaces")


def test_a_cluster_without_its_records_is_removed_all_the_same(new_cluster: NewCluster) -> None:
    cluster = new_cluster("lost")
    run("up", "--name", cluster.name, "--apiserver-only")
    for record in cluster.run.iterdir():
        record.unlink()
    (cluster.state / "cluster.json").unlink()

    run("down", "--name", cluster.name)

    assert traces_of(cluster) == []


def test_up_starts_afresh_where_a_component_was_killed(new_cluster: NewCluster) -> None:
    cluster = new_cluster("hurt")
    run("up", "--name", cluster.name, "--apiserver-only")
    etcd = processes.recorded(cluster, "etcd")
    assert etcd
    processes.kill([etcd])

    run("up", "--name", cluster.name, "--apiserver-only")

    assert processes.recorded(cluster, "etcd") not in (None, etcd)
    run("status", "--name", cluster.name)


def test_up_leaves_a_cluster_that_runs_as_it_is(new_cluster: NewCluster) -> None:
    cluster = new_cluster("same")
    run("up", "--name", cluster.name, "--apiserver-only")
    kubectl(cluster, "create", "configmap", "kept")

    run("up", "--name", cluster.name, "--apiserver-only")

    assert "kept" in kubectl(cluster, "get", "configmaps")


def test_the_audit_log_names_who_wrote(new_cluster: NewCluster) -> None:
    cluster = new_cluster("audit")
    run("up", "--name", cluster.name, "--apiserver-only", "--audit")
    kubectl(cluster, "create", "configmap", "written")

    events = [json.loads(line) for line in (cluster.log / "audit.log").read_text().splitlines()]

    writers = {
        event["user"]["username"]
        for event in events
        if event["verb"] == "create" and event["objectRef"].get("name") == "written"
    }
    assert writers == {"admin"}


def test_controllers_collect_what_belongs_to_nobody(new_cluster: NewCluster) -> None:
    cluster = new_cluster("owned")
    run("up", "--name", cluster.name, "--apiserver-only", "--controllers")
    kubectl(cluster, "create", "configmap", "owner")
    uid = kubectl(cluster, "get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child", "ownerReferences": [owner]}}
    kubectl(cluster, "apply", "-f", "-", given=json.dumps(child))

    kubectl(cluster, "delete", "configmap", "owner")

    kubectl(cluster, "wait", "--for=delete", "configmap/child", "--timeout=60s")


def _start(cluster: Cluster) -> subprocess.Popen[str]:
    return start("up", "--name", cluster.name, "--apiserver-only")


def _kill_when_there(process: subprocess.Popen[str], file: Path) -> None:
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def _kernel_settings() -> list[str]:
    names = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
    return [(Path("/proc/sys") / name).read_text() for name in names]
