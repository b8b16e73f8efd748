"""The harness of all benchmarks: run what is due, append it to a JSON lines file, make rows and plots of the newest."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import record, report
from bench.record import Row

FAILED = "failed"
Record = Mapping[str, Any]
Newest = Mapping[Any, Record]


@dataclass(frozen=True)
class Store:
    """A file of measurements, only ever appended to; of each key the newest record counts.

    Attributes:
        file_name: of the JSON lines, in the folder of the results.
        key: tells which records measure the same.
        rows, plots: make rows of the newest records, and write figures of them to a folder.
        shown: the values of a record that are printed before and after it is measured.
        is_failure: tells a record to be measured again with `--retry`.
    """

    file_name: str
    key: Callable[[Record], Hashable]
    rows: Callable[[Newest], list[Row]]
    shown: Sequence[str]
    plots: Callable[[Newest, Path], list[Path]] = lambda newest, folder: []
    is_failure: Callable[[Record], bool] = lambda record: FAILED in record

    def records(self, folder: Path) -> Iterator[dict[str, Any]]:
        """Yield every record, oldest first; skip a line that was cut off."""
        path = folder / self.file_name
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def append(self, folder: Path, item: Record) -> None:
        """Add the record as the last line."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file_name
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(item) + "\n")

    def newest(self, folder: Path) -> dict[Hashable, dict[str, Any]]:
        """The last record of each key."""
        return {self.key(item): item for item in self.records(folder)}

    def by_processor(self, folder: Path) -> dict[str | None, dict[Hashable, dict[str, Any]]]:
        """The last record of each key on each processor; the processor that was measured on last comes last."""
        found: dict[str | None, dict[Hashable, dict[str, Any]]] = {}
        for item in self.records(folder):
            processor = item.get("machine", {}).get("cpu")
            found[processor] = {**found.pop(processor, {}), self.key(item): item}
        return found

    def line(self, item: Record) -> str:
        """The record as a line for the terminal."""
        shown = ((name, item[name]) for name in (*self.shown, FAILED) if item.get(name) is not None)
        return ", ".join(f"{name} {one:,}" if isinstance(one, int | float) else str(one) for name, one in shown)


@dataclass(frozen=True)
class Suite:
    """One result file `<area>.json`, made of one store or several by `command`.

    Figures of different processors make no row together, unless they are none of speed and memory (`on_any_processor`).
    """

    area: str
    command: str
    stores: tuple[Store, ...]
    on_any_processor: bool = False

    def measure(
        self,
        store: Store,
        subjects: Iterable[Record],
        run: Callable[[Record], Record],
        folder: Path,
        *,
        fresh: bool = False,
        retry: bool = False,
        side_by_side: int = 1,
    ) -> None:
        """Measure each subject that the store lacks (all if `fresh`, failed ones if `retry`), then write the results.

        `run` returns the figures that complete the subject's record.
        """

        def work(subject: Record) -> Record:
            print(f"measuring: {store.line(subject)}", flush=True)
            return {**subject, **run(subject), **record.circumstances()}

        known, wanted = (
            {} if fresh else self._known(store, folder),
            {store.key(subject): subject for subject in subjects},
        )
        due = [one for key, one in wanted.items() if key not in known or (retry and store.is_failure(known[key]))]
        with ThreadPoolExecutor(side_by_side) as pool:
            for number, found in enumerate((pool.map if side_by_side > 1 else map)(work, due), start=1):
                store.append(folder, found)
                print(f"{number:3}/{len(due)} {store.line(found)}", flush=True)
        self.write(folder)

    def write(self, folder: Path) -> list[Row]:
        """Write rows and plots of the newest records, and print them."""
        named: dict[str, Row] = {}
        plots = list[Path]()
        for store in self.stores:
            groups = self._groups(store, folder)
            named |= {row["name"]: {**row, "cpu": name} for name, newest in groups for row in store.rows(newest)}
            plots += store.plots(groups[-1][1], folder)
        rows = list(named.values())
        names = {"runs": [store.file_name for store in self.stores], "plots": [plot.name for plot in plots]}
        path = record.write(self.area, self.command, rows, folder, **names)
        for line in report.lines({self.area: rows}):
            print(line, flush=True)
        print(f"written: {', '.join(map(str, [path, *plots]))}", flush=True)
        return rows

    def _groups(self, store: Store, folder: Path) -> list[tuple[str | None, Newest]]:
        """The records that make rows together, with their processors."""
        by_processor = store.by_processor(folder)
        if not by_processor or self.on_any_processor:
            return [(" and ".join(filter(None, by_processor)) or None, store.newest(folder))]
        return list(by_processor.items())

    def _known(self, store: Store, folder: Path) -> Newest:
        """The records that need not be measured again: of this processor, and of one that nobody has noted."""
        if self.on_any_processor:
            return store.newest(folder)
        found = store.by_processor(folder)
        return {**found.get(None, {}), **found.get(record.processor(), {})}


def parts_store(
    file_name: str,
    rows: Callable[[Any], list[Row]],
    plots: Callable[[Any, Path], list[Path]] = lambda figures, folder: [],
) -> Store:
    """A store of `{"part": ..., "figures": ...}` records, whose rows and plots are made of the figures by part."""

    def figures(newest: Newest) -> dict[str, Any]:
        return {name: item["figures"] for name, item in newest.items()}

    return Store(
        file_name,
        key=lambda item: str(item["part"]),
        rows=lambda newest: rows(figures(newest)),
        shown=("part",),
        plots=lambda newest, folder: plots(figures(newest), folder),
    )
