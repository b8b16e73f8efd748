"""`lars-agent bundle`: all that another device needs to install lars-agent without a network.

bundle/deploy/install.sh ...    the scripts, the units in systemd/, README.md
bundle/wheels/                  lars-agent's own wheel and those of all that it depends on, as installed here
bundle/constraints.txt          their versions
bundle/models/                  the base model that the daemon starts with
bundle/platform                 the Python and the processor that the wheels are for
bundle/SHA256SUMS               of all of these
"""

from __future__ import annotations

import base64
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lars_agent.errors import LarsError, last_line
from lars_agent.files import publish_folder, raise_disk_full, sha256_of
from service.cli.output import ERR, Json, print_result, print_text
from service.settings.load import load_settings

NAME, PACKAGES = "lars-agent", ("lars_agent", "service")
SHARED = Path("share") / NAME  # of the installed program, under sys.prefix
CARRIED = ("README.md", "deploy", "systemd")
SUMS = "SHA256SUMS"
WHEEL_TEXT = "Wheel-Version: 1.0\nGenerator: lars-agent\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def bundle(
    target: Annotated[Path, typer.Argument(help="A new folder, or a new file that ends with .tar.")],
    with_model: Annotated[bool, typer.Option("--model/--no-model", help="With the base model.")] = True,
    as_json: Json = False,
) -> None:
    """Collect programs and base model for a device without a network: deploy/install.sh --from TARGET installs them."""
    if target.exists():
        raise LarsError(f"{target} exists already; name a new folder or file")
    if not target.absolute().parent.is_dir():
        raise LarsError(f"there is no folder {target.absolute().parent}")
    with raise_disk_full(target), tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".bundle-") as temp:
        folder = Path(temp, "bundle")
        _fill(folder, with_model)
        if target.suffix == ".tar":
            with tarfile.open(Path(temp, "tar"), "w") as archive:
                archive.add(folder, arcname=".", filter=_of_nobody)
            Path(temp, "tar").replace(target)
        else:
            publish_folder(folder, target)
    words = f"{target} is for {_platform()}; there: sudo deploy/install.sh --from {target.name}"
    print_result({"bundle": str(target), "platform": _platform()}, words, as_json)


def _fill(folder: Path, with_model: bool) -> None:
    """Write the bundle into the new folder `folder`."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    for name in CARRIED:
        _copy(_carried() / name, folder / name)
    pins = sorted({f"{one.name}=={one.version}" for one in distributions() if one.name and one.name != NAME})
    (folder / "constraints.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    (folder / "platform").write_text(_platform() + "\n", encoding="utf-8")
    wheel = write_wheel(wheels)
    _download(folder, wheel)
    if with_model:
        _copy_model(folder / "models")
    lines = [f"{sha256_of(file)}  {file.relative_to(folder)}\n" for file in _files(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    for path in (folder, *folder.rglob("*")):  # nothing in it is anybody's own
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def write_wheel(folder: Path) -> Path:
    """Write lars-agent's own wheel, from the files that run now, and return its path."""
    installed = distribution(NAME)
    stem = f"lars_agent-{installed.version}"
    info, path = f"{stem}.dist-info", folder / f"{stem}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in _contents(installed, stem):
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = (0o100000 | mode) << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            record.append(f"{name},sha256={digest},{len(content)}\n")
        archive.writestr(f"{info}/RECORD", "".join([*record, f"{info}/RECORD,,\n"]))
    return path


def _contents(installed: Distribution, stem: str) -> Iterator[tuple[str, bytes, int]]:
    """Yield name, content and mode of each file of the wheel."""
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        root = Path(next(iter(spec.submodule_search_locations or ())))
        for file in _files(root):
            yield f"{package}/{file.relative_to(root)}", file.read_bytes(), 0o644
    for name in CARRIED:
        for file in _files(_carried() / name):
            place = file.relative_to(_carried())
            yield f"{stem}.data/data/{SHARED / place}", file.read_bytes(), file.stat().st_mode & 0o777
    for name in ("METADATA", "entry_points.txt"):
        yield f"{stem}.dist-info/{name}", (installed.read_text(name) or "").encode(), 0o644
    yield f"{stem}.dist-info/WHEEL", WHEEL_TEXT.encode(), 0o644


def _carried() -> Path:
    """Return the folder of the scripts: of the installed program, or of the checkout."""
    places = (Path(sys.prefix) / SHARED, Path(__file__).parents[2])
    found = next((place for place in places if (place / "deploy" / "install.sh").is_file()), None)
    if found is None:
        raise LarsError(f"the scripts are not in {places[0]}; install lars-agent again")
    return found


def _download(folder: Path, wheel: Path) -> None:
    """Download the wheels of all that lars-agent depends on, in the versions that are installed here."""
    wheels, pins = folder / "wheels", folder / "constraints.txt"
    print_text(f"collecting the wheels of {wheel.stem.partition('-py3')[0]}", ERR)
    torch = next((pin for pin in pins.read_text(encoding="utf-8").splitlines() if pin.startswith("torch==")), "")
    if torch.endswith("+cpu"):
        pinned = folder / "torch.txt"
        pinned.write_text(torch.removesuffix("+cpu") + "\n", encoding="utf-8")
        _run([str(folder / "deploy" / "torch_wheels.py"), str(pinned), str(wheels)])
        pinned.unlink()
    options = ["--quiet", "--dest", str(wheels), "--find-links", str(wheels), "--constraint", str(pins)]
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--only-binary", ":all:"]
    _run([*pip, *options, str(wheel)])


def _run(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LarsError(f"the wheels could not be collected: {last_line(done.stderr)}")


def _copy_model(folder: Path) -> None:
    """Copy the model that the daemon starts with."""
    from lars_agent.models.library import CURRENT_FILE, ModelLibrary  # imports torch
    from service.serving.model_removal import chosen_model

    settings = load_settings()
    library = ModelLibrary(settings.models_dir)
    model = chosen_model(library, settings.model.name)
    if model is None:
        raise LarsError("no base model is installed; run: lars-agent model pull default, or give --no-model")
    library.verify(model.name)
    _copy(model.folder, folder / model.name)
    if library.current() is not None:
        (folder / CURRENT_FILE).write_text(model.name + "\n", encoding="utf-8")


def _platform() -> str:
    return f"Python {sys.version_info.major}.{sys.version_info.minor} {platform.machine()}"


def _files(path: Path) -> list[Path]:
    """Return the files under a folder, or the file itself, without compiled ones."""
    found = [path] if path.is_file() else path.rglob("*")
    return sorted(file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _copy(source: Path, target: Path) -> None:
    for file in _files(source):
        place = target / file.relative_to(source) if source.is_dir() else target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        place.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take the owner's name out."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
