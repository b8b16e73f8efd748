"""The parts of `python -m bench serve`, the rows and the figure; a part that was not run makes no row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from bench.child import call
from bench.plots import plot_speed
from bench.record import Row, claimed
from bench.serve import speed
from bench.serve.live import feedback_latency, swaps, throughput, unloaded
from bench.suite import parts_store

Runs = Sequence[Mapping[str, Any]]
DECODE, PREFILL = "decode_tokens_s", "prefill_tokens_s"
CELL = f"prompt {speed.PROMPT_TOKENS}, reply {speed.REPLY_TOKENS}, each run a process of its own"
CLAIMED_ENGINE = ("int4", 2)  # whose rows have goals
KINDS = {"bias": "", "token_term": "_token_term", "causal": "_causal"}
COLOURS = dict.fromkeys(speed.OURS, "#0072B2") | {speed.LLAMACPP: "#E69F00", speed.TRANSFORMERS: "#D55E00"}


def serve_rows(parts: Mapping[str, Any]) -> list[Row]:
    """Every row whose part was measured."""
    return [made for part, builder in BUILDERS.items() if part in parts for made in builder(parts[part])]


def serve_plots(parts: Mapping[str, Any], folder: Path) -> list[Path]:
    """Tokens a second of every contender, while a prompt is read and while a reply is made."""
    if "speed" not in parts:
        return []
    found, counts = _speeds(parts["speed"])
    labels = {PREFILL: "reading a prompt, tokens/s", DECODE: "replying, tokens/s"}
    medians = {
        f"{labels[figure]}, {count} thread{'s' if count > 1 else ''}": {
            name: statistics.median(found[name, count, figure]) for name in reversed(speed.CONTENDERS)
        }
        for count, figure in product(counts, labels)
    }
    return plot_speed(medians, COLOURS, folder / "serve")


def _speeds(runs: Runs) -> tuple[dict[tuple[str, int, str], list[float]], list[int]]:
    """Both figures of each contender and thread count, round by round, and the thread counts."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for run, figure in product(runs, (PREFILL, DECODE)):
        found.setdefault((run["contender"], run["threads"], figure), []).append(run[figure])
    return found, sorted({run["threads"] for run in runs})


def _speed_rows(runs: Runs) -> Iterator[Row]:
    """Rows against llama.cpp on the file our weights were made from, against transformers, and each one's own."""
    found, counts = _speeds(runs)

    def paired(ours: str, theirs: str, figure: str, count: int) -> list[float]:
        return [
            mine / other for mine, other in zip(found[ours, count, figure], found[theirs, count, figure], strict=True)
        ]

    for (name, figure), count in product((("decode_q4", DECODE), ("prefill", PREFILL)), counts):
        yield claimed(f"{name}_vs_llamacpp_{count}t", paired("ours_int4", speed.LLAMACPP, figure, count), cell=CELL)
    for suffix, ours in (("", "ours_int4"), ("_both_bf16", "ours_bfloat16")):
        ratios = [ratio for count in counts for ratio in paired(ours, speed.TRANSFORMERS, DECODE, count)]
        yield claimed(f"decode_vs_transformers_bf16{suffix}", ratios)
    for contender, count, figure in product(speed.CONTENDERS, counts, (PREFILL, DECODE)):
        words = {"figure": figure, "contender": contender, "threads": count}
        yield claimed("{figure}_{contender}_{threads}t", found[contender, count, figure], **words)


def _engine_rows(runs: Runs) -> Iterator[Row]:
    """The cost of an adapter while replying, and of the time to the first token what a known prefix leaves."""
    for run in runs:
        where = "" if (run["dtype"], run["threads"]) == CLAIMED_ENGINE else "_{dtype}_{threads}t"
        words = {**run, "how": f"{run['dtype']}, {run['threads']} threads, paired in one process"}
        for kind, suffix in KINDS.items():
            costs = [1 - one[kind] / one["base"] for one in run["decode_tokens_s"]]
            yield claimed(f"adapter_decode_cost{where}{suffix}", costs, **words)
        ratios = [times["warm"] / times["cold"] for times in run["first_token_s"]]
        yield claimed(f"ttft_warm_over_cold_prefix1000{where}", ratios, **words)


def _client_rows(runs: Runs) -> Iterator[Row]:
    for run in runs:
        for count, tokens_s in run["tokens_s"].items():
            yield claimed("throughput_{dtype}_{count}_clients", [tokens_s], dtype=run["dtype"], count=count)


def _swap_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    how = f"{found['swaps']} swaps, 4 clients, {found['replies']} replies, {found['dtype']}"
    yield claimed("swap_failed_requests", [found["failed"]], how=how)
    yield claimed("swap_mixed_replies", [found["mixed"]], how=how)
    yield claimed("swap_stale_replies", [found["stale"]], how=how)
    yield claimed("swap_p99_ms", [percentile(found["swap_ms"], 99)], how=how)
    yield claimed("swap_call_p99_ms", [percentile(found["call_ms"], 99)], how=how)


def _feedback_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    for when in ("generating", "training"):
        times = found[f"{when}_ms"]
        for name, percent in (("p99", 99), ("median", 50)):
            yield claimed(f"feedback_{name}_ms_{when}", [percentile(times, percent)], calls=len(times))


def _unloaded_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    asleep, awake = found["asleep"], found["awake"]
    yield claimed("idle_unloaded_pss_mb", [asleep["pss"]], rss=asleep["rss"], awake=awake["pss"])


def _grammar_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    words = {"how": f"{found['dtype']}, {found['threads']} threads, paired in one process"}
    yield claimed("grammar_cost", [one["held"] / one["free"] - 1 for one in found["replies"]], **words)
    yield claimed("grammar_new_ms", [1000 * one["new_s"] for one in found["replies"]], **words)


def _contended_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    how = "{dtype}, default settings, over the better of one and {threads} threads in the same round".format(**found)
    for load, rounds in (("contended", found["busy"]), ("calm", found["calm"])):
        for name, figure in (("decode", "decode_tokens_s"), ("prefill", "prefill_tokens_s")):
            ratios = [one["chosen"][figure] / max(fixed[figure] for fixed in one["fixed"]) for one in rounds]
            yield claimed(f"{name}_{load}", ratios, how=how, loops=found["loops"])
    gains = [one["chosen"]["decode_tokens_s"] / one["fixed"][-1]["decode_tokens_s"] for one in found["busy"]]
    yield claimed("decode_contended_gain", gains, how=found["dtype"], loops=found["loops"], threads=found["threads"])


def _int4_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    """1 where a packed product is chosen, on arm64 KleidiAI's, and every output is within its bound."""
    wanted = {"arm64": ["DynamicInt4Linear"]}.get(found["machine"], ["Int4Linear", "DynamicInt4Linear"])
    holds = found["kernel"] in wanted and found["worst"] <= 1
    yield claimed("{machine}_int4_path" if found["machine"] != "arm64" else "arm64_int4_path", [int(holds)], **found)


def percentile(values: Sequence[float], share: int) -> float:
    """The least of `values` that `share` percent of them do not exceed."""
    return sorted(values)[max(0, -(-len(values) * share // 100) - 1)]


BUILDERS: Mapping[str, Callable[[Any], Iterator[Row]]] = {
    "speed": _speed_rows,
    "engine": _engine_rows,
    "clients": _client_rows,
    "swaps": _swap_rows,
    "feedback": _feedback_rows,
    "asleep": _unloaded_rows,
    "grammar": _grammar_rows,
    "contended": _contended_rows,
    "int4_path": _int4_rows,
}


SERVED_DTYPES = ("bfloat16", "int4")
SWAPS, SWAPS_DTYPE = 200, "int4"  # whose products are the same for one row and for several, to the last bit


def serve_parts(model: Path, cache: Path, rounds: int) -> dict[str, Callable[[], Any]]:
    """The measurement of each part; `cache` is the folder of downloads, paired runs are repeated `rounds` times."""
    return {
        "speed": partial(speed.speed_runs, model, cache, rounds),
        "engine": partial(speed.engine_runs, model),
        "clients": lambda: [throughput(model, dtype) for dtype in SERVED_DTYPES],
        "swaps": partial(swaps, model, SWAPS_DTYPE, SWAPS),
        "feedback": partial(feedback_latency, model),
        "asleep": partial(unloaded, model),
        "grammar": partial(speed.grammar_runs, model, rounds),
        "contended": partial(speed.contended_runs, model, rounds),
        "int4_path": partial(call, "bench.serve.int4_path.int4_path", model),
    }


RUNS = parts_store("serve-runs.jsonl", serve_rows, serve_plots)
