"""The binaries of Kubernetes and its company: from the cache, else from a prebuilt pack, else built from Go modules.

No registry ships them as a package, but each is an ordinary Go program. What was once built or unpacked stays in the
cache under the hash of its go.mod, go.sum and main.go, so a changed pin is built anew and nothing else is.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from trimtab_cluster.components import COMPONENTS, Component, component
from trimtab_cluster.errors import ClusterError
from trimtab_cluster.locks import locked
from trimtab_cluster.places import REPOSITORY, cache_dir
from trimtab_cluster.say import say, timed
from trimtab_cluster.toolchain import find_go

_SIGN_OF_LIFE = 20  # seconds


def ready(names: Iterable[str]) -> dict[str, Path]:
    """Return the path of every program of the named components, after getting those that are not in the cache."""
    wanted = [component(name) for name in names]
    with locked(_folder() / ".lock"):
        if not all(_home(each).is_dir() for each in wanted):
            _unpack()
        for each in wanted:
            if not _home(each).is_dir():
                _build(each)
    return present(wanted)


def present(wanted: Iterable[Component]) -> dict[str, Path]:
    """Return the path of every program that is in the cache."""
    found = {program: _home(each) / program for each in wanted for program in each.programs}
    return {program: path for program, path in found.items() if path.exists()}


def _folder() -> Path:
    return cache_dir() / "binaries"


def _home(each: Component) -> Path:
    return _folder() / f"{each.name}-{each.digest()}"


def _pack() -> Path | None:
    """Return the prebuilt pack, if there is one: it saves a quarter of an hour, and nothing relies on it.

    TRIMTAB_KUBERNETES_PACK names it; set to nothing, it means that everything is to be built.
    """
    named = os.environ.get("TRIMTAB_KUBERNETES_PACK")
    if named is None:
        pack = REPOSITORY.parent / "shared/kubernetes/binaries.tar.xz"
        return pack if pack.is_file() else None
    if named and not Path(named).is_file():
        raise ClusterError(f"TRIMTAB_KUBERNETES_PACK names {named}, which is no file", "correct or unset it")
    return Path(named) if named else None


def _unpack() -> None:
    """Take every component that the pack holds and the cache lacks."""
    pack = _pack()
    if not pack:
        return
    with tempfile.TemporaryDirectory(dir=_folder()) as unpacked:
        with timed(f"unpacking {pack.name}"):
            subprocess.run(["tar", "-xJf", pack, "-C", unpacked], check=True)
        for each in COMPONENTS:
            if not _home(each).is_dir() and all((Path(unpacked) / file).is_file() for file in each.builds):
                _take(each, Path(unpacked))


def _take(each: Component, folder: Path) -> None:
    """Move a component's files from `folder` into the cache, if they are of the pinned versions."""
    with tempfile.TemporaryDirectory(dir=_folder()) as temporary:
        staging = Path(temporary) / each.name
        staging.mkdir()
        for file in each.builds:
            shutil.move(folder / file, staging / file)
        for program, file in each.programs.items():
            if program != file:
                (staging / program).symlink_to(file)
        if wrong := _wrong_versions(each, staging):
            say(f"{each.name}: not taken, as {wrong}")
        else:
            staging.rename(_home(each))


def _wrong_versions(each: Component, folder: Path) -> str:
    for program, (question, module) in each.tells.items():
        asked = subprocess.run([folder / program, question], capture_output=True, text=True, check=False)
        if each.version(module) not in asked.stdout:
            return f"{program} is not {each.version(module)}"
    return ""


def _build(each: Component) -> None:
    go = find_go()
    with tempfile.TemporaryDirectory(dir=_folder()) as built, timed(f"building {each.name} from its Go modules"):
        for file, package in each.builds.items():
            flags = ["-trimpath", "-buildvcs=false", "-tags", each.tags, "-ldflags", each.link_flags()]
            _compile([go, "build", *flags, "-o", f"{built}/{file}", package], each)
        _take(each, Path(built))
    if not _home(each).is_dir():
        raise ClusterError(f"{each.name} was built in another version than its go.mod pins", "correct go.mod")


def _compile(command: Sequence[str], each: Component) -> None:
    """Run the compiler, with a sign of life while it works: Kubernetes takes minutes."""
    started = time.monotonic()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    with subprocess.Popen(command, cwd=each.source, env=environment) as compiler:
        while compiler.poll() is None:
            try:
                compiler.wait(_SIGN_OF_LIFE)
            except subprocess.TimeoutExpired:
                say(f"  {each.name}: {time.monotonic() - started:.0f} s")
    if compiler.returncode:
        raise ClusterError(
            f"{each.name} could not be built", "see the lines above; the Go module proxy must be reachable"
        )
