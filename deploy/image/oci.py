#!/usr/bin/env python3
"""oci.py ROOT NAME FILE [DOCKERFILE]: packs the folder ROOT as an image called NAME into FILE, a tar of an OCI image layout.

How it is run comes from the last stage of the DOCKERFILE, ours unless told. The same ROOT and SOURCE_DATE_EPOCH (0 if unset) make the same
bytes: sorted, owned by root, of one date. https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
MEDIA = "application/vnd.oci.image."


def tar(members):
    """A tar of (TarInfo, bytes or None), each owned by root and of the one date."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = EPOCH
            archive.addfile(info, None if data is None else io.BytesIO(data))
    return out.getvalue()


def files_of(root):
    """What is below `root`, sorted by path."""
    for path in sorted(root.rglob("*")):
        info = tarfile.TarInfo(str(path.relative_to(root)))
        info.mode = path.lstat().st_mode & 0o7777
        data = None
        if path.is_symlink():
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        elif path.is_dir():
            info.type = tarfile.DIRTYPE
        else:
            data = path.read_bytes()
            info.size = len(data)
        yield info, data


def said_by(dockerfile):
    """The image's configuration: what the last stage says. Knows the instructions that ours has, and refuses others."""
    config = {"Labels": {}}
    for line in re.split(r"^FROM .*\n", dockerfile, flags=re.M)[-1].splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "LABEL":
                key, _, value = rest.partition("=")
                config["Labels"][key] = shlex.split(value)[0]
            case "USER":
                config["User"] = rest
            case "WORKDIR":
                config["WorkingDir"] = rest
            case "ENTRYPOINT":
                config["Entrypoint"] = json.loads(rest)
            case "COPY" | "":
                pass
            case _:
                sys.exit(f"oci.py does not know the Dockerfile's {word}: teach it, or leave that out")
    return config


def pack(root, name, dockerfile):
    layer = tar(files_of(root))
    blobs = {}

    def blob(media, data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": MEDIA + media, "digest": f"sha256:{digest}", "size": len(data)}

    def document(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    created = datetime.fromtimestamp(EPOCH, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    machine = platform.machine()
    config = blob("config.v1+json", document({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        "os": "linux",
        "created": created,
        "config": said_by(dockerfile),
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        "history": [{"created": created, "created_by": "make image"}],
    }))
    manifest = blob("manifest.v1+json", document({
        "schemaVersion": 2,
        "mediaType": MEDIA + "manifest.v1+json",
        "config": config,
        "layers": [blob("layer.v1.tar+gzip", gzip.compress(layer, compresslevel=6, mtime=0))],
    }))
    # containerd takes the name from the first, skopeo and podman from the second.
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "mediaType": MEDIA + "index.v1+json", "manifests": [manifest]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": document(index), **blobs}

    def member(path, data):
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(data), 0o644
        return info, data

    return manifest["digest"], tar(member(path, files[path]) for path in sorted(files))


def main():
    ours = Path(__file__).resolve().parents[2] / "Dockerfile"
    root, name, file, dockerfile = (sys.argv[1:] + [ours])[:4]
    digest, archive = pack(Path(root), name, Path(dockerfile).read_text())
    Path(file).write_bytes(archive)
    print(f"{file}  {name}  {digest}  {len(archive) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
