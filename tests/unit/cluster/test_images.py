import re
import tomllib
from pathlib import Path

import pytest

from trimtab_cluster.errors import ClusterError
from trimtab_cluster.images import IMAGES, Image, tag_of
from trimtab_cluster.places import REPOSITORY

IMAGE = Image("sample", "Dockerfile")
DOCKERFILE = "ARG BASE\nFROM ${BASE}\nCOPY --chown=1:1 requirements.lock \\\n  package /opt/\nRUN true\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "requirements.lock").write_text("a==1\n")
    (tmp_path / "package/inner").mkdir(parents=True)
    (tmp_path / "package/inner/module.py").write_text("x = 1\n")
    (tmp_path / "unrelated.py").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", ["Dockerfile", "requirements.lock", "package/inner/module.py"])
def test_an_edit_of_what_goes_in_is_another_image(name: str, context: Path) -> None:
    before = tag_of(IMAGE, "base", context)
    with (context / name).open("a") as file:
        file.write("# edited\n")

    assert tag_of(IMAGE, "base", context) != before


def test_a_new_file_in_a_copied_folder_is_another_image(context: Path) -> None:
    before = tag_of(IMAGE, "base", context)
    (context / "package/new.py").write_text("")

    assert tag_of(IMAGE, "base", context) != before


def test_another_base_is_another_image(context: Path) -> None:
    assert tag_of(IMAGE, "base", context) != tag_of(IMAGE, "other", context)


def test_what_is_not_copied_does_not_matter(context: Path) -> None:
    before = tag_of(IMAGE, "base", context)
    (context / "unrelated.py").write_text("edited")
    (context / "package/__pycache__").mkdir()
    (context / "package/__pycache__/module.pyc").write_text("")

    assert tag_of(IMAGE, "base", context) == before


def test_a_dockerfile_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="Dockerfile is not there"):
        tag_of(IMAGE, "base", tmp_path)


@pytest.mark.parametrize(
    ("dockerfile", "extra"),
    [
        ("operator/Dockerfile", "operator"),
        ("runtime/Dockerfile.optimizer", "optimizer"),
        ("runtime/Dockerfile.optimizer-tensorflow", "optimizer"),
    ],
)
def test_an_image_gets_every_library_that_its_code_names(dockerfile: str, extra: str) -> None:
    lines = (REPOSITORY / dockerfile).read_text().replace("\\\n", " ").splitlines()
    installed = next(line for line in lines if "-c /opt/trimtab/requirements.lock" in line).split()

    assert {name_of(word) for word in installed} >= set(required(extra))


def required(extra: str) -> list[str]:
    """Return the libraries of an extra, those of the extras that it names, and those of every part."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found = [*project["dependencies"], *project["optional-dependencies"][extra]]
    further = [inner for word in found if (inner := word.partition("[")[2].rstrip("]"))]
    return [name for word in found if (name := name_of(word)) != "trimtab"] + [
        name for inner in further for name in required(inner)
    ]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9-]", requirement.replace("_", "-"))[0].lower()


def test_the_images_of_the_project_have_dockerfiles() -> None:
    assert all((REPOSITORY / image.dockerfile).is_file() for image in IMAGES)


def test_both_optimizer_images_begin_with_the_same_layers_so_that_torch_is_built_and_pulled_once() -> None:
    plain, tensorflow = (
        (REPOSITORY / f"runtime/Dockerfile.{name}").read_text() for name in ("optimizer", "optimizer-tensorflow")
    )
    shared = [re.search(r"^COPY requirements.lock.*?\n\n", text, re.M | re.S) for text in (plain, tensorflow)]

    assert shared[0]
    assert shared[1]
    assert shared[0][0] == shared[1][0]


def test_what_tensorflow_brings_changes_no_version_of_the_optimizer() -> None:
    own, beside = (_pins(REPOSITORY / name) for name in ("requirements.lock", "runtime/requirements-tensorflow.lock"))

    assert own.keys() & beside.keys()
    assert {name: beside[name] for name in own.keys() & beside.keys()} == {
        name: own[name] for name in own.keys() & beside.keys()
    }


def _pins(lock: Path) -> dict[str, list[str]]:
    """Return the lines of a lock by package; there may be one for each version of Python."""
    found: dict[str, list[str]] = {}
    for line in lock.read_text().splitlines():
        found.setdefault(line.partition("==")[0], []).append(line)
    return found
