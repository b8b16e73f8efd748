"""The serving bench's claims, made of what was measured; a part that was not measured makes no row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.contenders import LLAMACPP, OURS, PROMPT_TOKENS, REPLY_TOKENS, TRANSFORMERS
from bench.record import row

Row = dict[str, Any]
OURS_4_BIT = "ours_int4"
DECODE, PREFILL = "decode_tokens_s", "prefill_tokens_s"
CELL = f"prompt {PROMPT_TOKENS}, reply {REPLY_TOKENS}, each run a process of its own"
ADAPTER_DTYPE, ADAPTER_THREADS = "int4", 2


def serve_rows(parts: Mapping[str, Any]) -> list[Row]:
    """Every row whose part is there."""
    return [made for part, builder in BUILDERS.items() if part in parts for made in builder(parts[part])]


def speed_rows(runs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Against llama.cpp on the file our weights were made from, and against transformers; then everyone's own speed."""
    counts = sorted({run["threads"] for run in runs})
    for what, figure, goal in (("decode_q4", DECODE, 1.2), ("prefill", PREFILL, 2.0)):
        for count in counts:
            ratios = paired(runs, OURS_4_BIT, LLAMACPP.name, figure, count)
            note = f"both at 4 bits, {CELL}; llama.cpp as node-llama-cpp builds it"
            yield row(f"{what}_vs_llamacpp_{count}t", ratios, "ratio", "higher", goal=goal, note=note)
    for name, goal, words in (
        (OURS_4_BIT, 4.0, "ours at 4 bits"),
        ("ours_bfloat16", None, "ours in bfloat16 too"),
    ):
        ratios = [ratio for count in counts for ratio in paired(runs, name, TRANSFORMERS.name, DECODE, count)]
        suffix = "" if goal else "_both_bf16"
        note = f"{words}; transformers' generate; 1 and 2 threads"
        yield row(f"decode_vs_transformers_bf16{suffix}", ratios, "ratio", "higher", goal=goal, note=note)
    for contender in (*OURS, LLAMACPP, TRANSFORMERS):
        for count in counts:
            own = of(runs, contender.name, count)
            for figure in (PREFILL, DECODE):
                values = [run[figure] for run in own]
                yield row(f"{figure}_{contender.name}_{count}t", values, "tokens/s", "higher")


def paired(runs: Sequence[Mapping[str, Any]], ours: str, theirs: str, figure: str, threads: int) -> list[float]:
    """The ratio of each round."""
    return [
        mine[figure] / other[figure]
        for mine, other in zip(of(runs, ours, threads), of(runs, theirs, threads), strict=True)
    ]


def of(runs: Sequence[Mapping[str, Any]], contender: str, threads: int) -> list[Mapping[str, Any]]:
    """One contender's runs, by round."""
    own = [run for run in runs if run["contender"] == contender and run["threads"] == threads]
    return sorted(own, key=lambda run: int(run["round"]))


def engine_rows(runs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """What an adapter costs while replying, and what a known prefix leaves of the time to the first token."""
    for run in runs:
        is_claim = (run["dtype"], run["threads"]) == (ADAPTER_DTYPE, ADAPTER_THREADS)
        where = "" if is_claim else f"_{run['dtype']}_{run['threads']}t"
        circumstances = f"{run['dtype']}, {run['threads']} threads, paired in one process"
        for kind, goal in (("bias", 0.03), ("token_term", None), ("causal", None)):
            costs = [1 - speeds[kind] / speeds["base"] for speeds in run["decode_tokens_s"]]
            suffix = "" if kind == "bias" else f"_{kind}"
            note = f"response pooling, {'no per-token term' if kind == 'bias' else kind}; {circumstances}"
            if kind == "causal":
                note = f"causal pooling; {circumstances}"
            yield row(
                f"adapter_decode_cost{where}{suffix}",
                costs,
                "ratio",
                "lower",
                goal=goal if is_claim else None,
                note=note,
            )
        ratios = [times["warm"] / times["cold"] for times in run["first_token_s"]]
        note = f"another question after the same 1,000 tokens, with an adapter; {circumstances}"
        goal = 0.15 if is_claim else None
        yield row(f"ttft_warm_over_cold_prefix1000{where}", ratios, "ratio", "lower", goal=goal, note=note)


def client_rows(runs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for run in runs:
        for count, speed in run["tokens_s"].items():
            note = "all replies together, over HTTP, with an adapter"
            yield row(f"throughput_{run['dtype']}_{count}_clients", [speed], "tokens/s", "higher", note=note)


def swap_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    note = f"{found['swaps']} swaps, 4 clients, {found['replies']} replies, {found['dtype']}"
    yield row("swap_failed_requests", [found["failed"]], "requests", "lower", goal=0, note=note)
    mixed = f"{note}; each against the reply of the version it names, made alone"
    yield row("swap_mixed_replies", [found["mixed"]], "replies", "lower", goal=0, note=mixed)
    yield row("swap_stale_replies", [found["stale"]], "replies", "lower", goal=0, note=f"{note}; asked after the swap")
    moved = f"{note}; from the pointer's first byte to the endpoint's answer"
    yield row("swap_p99_ms", [percentile(found["swap_ms"], 99)], "ms", "lower", goal=20, note=moved)
    whole = f"{note}; the whole call, with every check of the files"
    yield row("swap_call_p99_ms", [percentile(found["call_ms"], 99)], "ms", "lower", note=whole)


def feedback_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    for when in ("generating", "training"):
        times = found[f"{when}_ms"]
        note = f"{len(times)} calls over HTTP, each on the disk before it is answered"
        yield row(f"feedback_p99_ms_{when}", [percentile(times, 99)], "ms", "lower", goal=25, note=note)
        yield row(f"feedback_median_ms_{when}", [percentile(times, 50)], "ms", "lower", note=note)


def asleep_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    note = f"all processes of the daemon; resident {found['asleep']['rss']:.0f} MB, with the model loaded "
    note += f"{found['awake']['pss']:.0f} MB"
    yield row("idle_unloaded_pss_mb", [found["asleep"]["pss"]], "MB", "lower", goal=150, note=note)


def percentile(values: Sequence[float], share: int) -> float:
    """The least of `values` that `share` percent of them do not pass."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


BUILDERS: Mapping[str, Callable[[Any], Iterator[Row]]] = {
    "speed": speed_rows,
    "engine": engine_rows,
    "clients": client_rows,
    "swaps": swap_rows,
    "feedback": feedback_rows,
    "asleep": asleep_rows,
}
