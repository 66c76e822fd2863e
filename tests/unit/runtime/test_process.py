"""The process: what it is told, what it says, how it ends."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from trimtab_api.errors import InvalidSpec
from trimtab_runtime.config import read_config


def test_a_broken_artifact_ends_the_process_and_says_why_where_kubernetes_reads(
    models: Any, serve: Any, tmp_path: Path
) -> None:
    message = tmp_path / "termination-log"
    message.touch()
    inputs = [{"name": "z", "datatype": "FP32", "shape": [-1, 3]}]
    server = serve(models.scores("mistaken", inputs=inputs), ready=False, TERMINATION_LOG=str(message))
    assert server.exit_code() == 42
    assert message.read_text() == "model.yaml names the inputs ['z']; model.onnx has ['x']"
    assert [(event["message"], event["reason"]) for event in server.events] == [("cannot serve", "InvalidPackage")]


def test_a_message_has_no_place_on_a_laptop(serve: Any, tmp_path: Path) -> None:
    server = serve(tmp_path / "nothing", ready=False, TERMINATION_LOG=str(tmp_path / "none"))
    assert server.exit_code() == 42
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_ends_the_process_and_names_it(serve: Any, tmp_path: Path) -> None:
    server = serve(tmp_path, ready=False, MAX_BATCH_SIZE="many")
    assert server.exit_code() == 42
    assert "TRIMTAB_MAX_BATCH_SIZE is 'many'" in server.events[0]["cause"]


def test_events_are_json_lines_and_requests_are_none_of_them(models: Any, serve: Any) -> None:
    server = serve(models.scores(), DRAIN_SECONDS="0", REVISION="r3")
    httpx.get(f"{server.url}/v2")
    server.terminate()
    assert server.exit_code() == 0
    assert [event["message"] for event in server.events] == ["learned", "serving", "draining", "stopped"]
    assert {event["logger"] for event in server.events} == {"trimtab.runtime"}
    assert (server.events[1]["model"], server.events[1]["revision"]) == ("scores", "r3")


def test_nothing_is_reported_to_the_makers_of_the_library(models: Any, serve: Any) -> None:
    folder = models.scores("private")
    server = serve(folder)
    httpx.post(f"{server.url}/predict", json=[[1, 2, 3]])
    server.terminate()
    assert server.exit_code() == 0
    # Its reports are kept below the home folder until they are sent.
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.yaml"]


def test_a_port_that_is_taken_ends_the_process(models: Any, serve: Any) -> None:
    server = serve(models.scores(), PROTOCOLS="rest")
    other = serve(models.scores(), ready=False, PROTOCOLS="rest", REST_PORT=server.url.rpartition(":")[2])
    assert other.exit_code() not in (0, 42)
    assert "address already in use" in str(other.events)


def test_without_settings_there_are_defaults() -> None:
    config = read_config([], {})
    assert (config.model_dir, config.model_name, config.revision) == (Path("/model"), None, "1")
    assert (config.host, config.rest_port, config.grpc_port) == ("0.0.0.0", 8080, 9000)
    assert (config.drain_seconds, config.max_connection_age_seconds, config.threads) == (5, 30, None)
    assert (config.max_batch_size, config.max_delay_seconds) == (32, 0)
    assert sorted(config.protocols) == ["grpc", "rest"]


def test_a_flag_wins_over_the_environment() -> None:
    environ = {"TRIMTAB_REST_PORT": "1", "TRIMTAB_MAX_DELAY_MS": "2.5", "TRIMTAB_PROTOCOLS": "rest"}
    config = read_config(["--rest-port", "81", "--model-dir", "m"], environ)
    assert (config.rest_port, config.model_dir, list(config.protocols)) == (81, Path("m"), ["rest"])
    assert config.max_delay_seconds == 0.0025


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REST_PORT", "http"),
        ("GRPC_PORT", "65536"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "nan"),
        ("MAX_CONNECTION_AGE_SECONDS", "0"),
        ("MAX_BATCH_SIZE", "0"),
        ("MAX_BATCH_SIZE", "1.5"),
        ("PROTOCOLS", "http"),
        ("PROTOCOLS", ","),
        ("THREADS", "-1"),
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSpec, match=f"TRIMTAB_{name} is '{value}'; it has to be"):
        read_config([], {f"TRIMTAB_{name}": value})


def test_a_rest_server_starts_without_what_it_does_not_need() -> None:
    unwanted = {"torch", "trimtab_operator", "trimtab_optimizer", "fastapi", "onnx", "grpc"}
    code = f"import sys, trimtab_runtime.server.lifecycle; print({unwanted!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
