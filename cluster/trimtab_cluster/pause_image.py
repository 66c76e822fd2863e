"""The image of a pod's sandbox: one static program that waits for a signal, as a Docker archive made by hand."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

_NAME = "localhost/pause:1"


def pause_archive(binaries: Path) -> Path:
    """Return an archive that `ctr images import` takes. It is made once and lies beside the programs."""
    archive = binaries / "pause.tar"
    if archive.exists():
        return archive
    layer = _tar({"pause": (binaries / "pause").read_bytes()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [_NAME], "Layers": ["layer.tar"]}]
    content = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    partial = archive.with_suffix(".partial")
    partial.write_bytes(_tar(content))
    partial.rename(archive)
    return archive


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
