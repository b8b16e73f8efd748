"""What a pull leaves in the library's folder."""

from __future__ import annotations

from pathlib import Path


def left(folder: Path) -> set[str]:
    """Every file and folder under `folder`, without what lies in an installed model."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in found if not (folder / name).with_name("model.json").is_file()}
