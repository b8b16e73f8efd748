"""How well each pooling mode learns a persona: modes x learning rates x seeds, with PEFT's LoRA beside them.

    python -m bench.quality            the whole sweep; goes on where it was stopped
    python -m bench.quality --report   writes bench/results/quality.json from the cells that are there, prints the table

Every cell trains on the same curated feedback of examples/mara, keeps its last step, and then answers prompts it has
never seen, decoded as the endpoint decodes them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn import functional

from bench import record
from bench.replies import examples, replies
from examples.persona import probes
from lars_agent.lars import LarsAdapter, LarsConfig, attach
from lars_agent.lars.forward import reply_logits
from lars_agent.lars.inject import Attachment
from lars_agent.models.library import ModelLibrary
from lars_agent.models.open import OpenedModel, open_model
from lars_agent.training.batches import batch_indices, collate, encode, pad_id
from lars_agent.training.config import TrainConfig
from lars_agent.training.curate import CurationPolicy, curate
from lars_agent.training.evaluate import REHEARSAL_TEXT, general_text, mean_loss, reply_nll
from lars_agent.training.trainer import Trainer, learning_rate

CELLS = record.RESULTS / "quality-cells.jsonl"
METHODS = ("response+token", "response", "prompt", "sequence", "causal", "learned", "lora")
RATES = (1e-3, 2e-3)
LORA_RATES = (2e-4, 5e-4, 1e-3, 2e-3, 4e-3)  # more and higher ones: compared at its best, not its worst
SEEDS = (0, 1, 2)
STEPS = 30  # half of what a night takes: enough to learn, too few for every method to be perfect
SCORES = {"fact_rate": "higher", "style_rate": "higher", "text_rise": "lower"}
KEY = ("method", "rate", "seed", "steps", "batch_size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--rates", nargs="*", type=float, help="instead of each method's own")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cells side by side, one thread each")
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report:
        sweep(options)
    report()


def sweep(options: argparse.Namespace) -> None:
    """Every cell that is not in the cells file yet is run, and its line appended there."""
    folder = ModelLibrary(options.models).pull("default").folder
    done = [{name: cell[name] for name in KEY} for cell in cells()]
    keys: list[dict[str, Any]] = [
        {"method": method, "rate": rate, "seed": seed, "steps": options.steps, "batch_size": options.batch_size}
        for seed in options.seeds
        for method in options.methods
        for rate in options.rates or (LORA_RATES if method == "lora" else RATES)
    ]
    record.RESULTS.mkdir(exist_ok=True)
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        for future in as_completed([pool.submit(run_cell, folder, key) for key in keys if key not in done]):
            with CELLS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(future.result()) + "\n")
            print(json.dumps(future.result()), flush=True)


def run_cell(folder: Path, key: dict[str, Any]) -> dict[str, Any]:
    """The cell's key and its scores, measured in this process on one thread."""
    torch.set_num_threads(1)
    config = TrainConfig(
        steps=key["steps"],
        batch_size=key["batch_size"],
        learning_rate=key["rate"],
        evaluate_every=10,
        checkpoint_every=10_000,
        seed=key["seed"],
    )
    return key | Cell(open_model(folder, torch.float32), config).run(key["method"])


class Cell:
    """One training run and its scores."""

    def __init__(self, opened: OpenedModel, config: TrainConfig) -> None:
        self.tokenizer, self.config = opened.tokenizer, config
        self.attachment: Attachment = attach(opened.model)
        self.pad = pad_id(opened.tokenizer)
        curated = curate(examples(), CurationPolicy(), seed=0)
        self.train = [encode(self.tokenizer, example, config.max_seq_len) for example in curated.train]
        self.heldout = [encode(self.tokenizer, example, config.max_seq_len) for example in curated.heldout]
        self.general = general_text(self.tokenizer)
        self.rehearsal = general_text(self.tokenizer, REHEARSAL_TEXT)

    def run(self, method: str) -> dict[str, Any]:
        base_text = mean_loss(self.attachment, None, self.general, self.pad)
        started = time.monotonic()
        adapter, best_step, heldout = self._lora() if method == "lora" else self._lars(method)
        seconds = time.monotonic() - started
        return self._scores(adapter) | {
            "best_step": best_step,
            "heldout_loss": round(heldout, 4),
            "text_rise": round(mean_loss(self.attachment, adapter, self.general, self.pad) / base_text - 1, 4),
            "train_seconds": round(seconds, 1),
        }

    def _scores(self, adapter: LarsAdapter | None) -> dict[str, Any]:
        held_out = probes()
        texts = replies(self.attachment, adapter, self.tokenizer, [probe.prompt for probe in held_out])
        passed = {
            kind: [p.passed(text) for p, text in zip(held_out, texts, strict=True) if p.kind == kind]
            for kind in ("fact", "style")
        }
        return {f"{kind}_rate": round(sum(marks) / len(marks), 4) for kind, marks in passed.items()}

    def _lars(self, method: str) -> tuple[LarsAdapter, int, float]:
        pooling, _, token = method.partition("+")
        lars = LarsConfig(pooling=pooling, token_term=token == "token")  # type: ignore[arg-type]
        adapter = LarsAdapter.for_model(self.attachment.model, lars, seed=self.config.seed)
        trainer = Trainer(self.attachment, adapter, self.config, self.train, self.heldout, self.pad, self.rehearsal)
        trainer.run()
        return adapter, trainer.progress.best_step, trainer.progress.best_loss

    def _lora(self) -> tuple[None, int, float]:
        """PEFT's LoRA on every linear layer but the head (r 8, alpha 16, dropout 0.05), rehearsed and kept as ours."""
        torch.manual_seed(self.config.seed)
        lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
        model = inject_adapter_in_model(lora, self.attachment.model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)
        for step in range(self.config.steps):
            model.train()
            self._lora_step(parameters, optimizer, step)
        model.eval()
        return None, self.config.steps, mean_loss(self.attachment, None, self.heldout, self.pad)

    def _lora_step(self, parameters: list[torch.Tensor], optimizer: torch.optim.Optimizer, step: int) -> None:
        """What `Trainer` does in a step, with LoRA in the adapter's place."""
        indices = batch_indices(len(self.train), self.config.batch_size, step, self.config.seed)
        batch = collate([self.train[index] for index in indices], self.pad)
        loss = reply_nll(self.attachment, None, batch).sum() / batch.reply_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        self._lora_rehearsal(step).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _lora_rehearsal(self, step: int) -> torch.Tensor:
        """KL(base model || adapted model) on general text, as `divergence_from_base` with LoRA switched off and on."""
        size = self.config.rehearsal_batch
        indices = batch_indices(len(self.rehearsal), size, step, self.config.seed)
        batch = collate([self.rehearsal[index] for index in indices], self.pad)
        self._switch_lora(on=False)
        with torch.no_grad():
            base = reply_logits(self.attachment, None, batch).log_softmax(dim=-1)
        self._switch_lora(on=True)
        adapted = reply_logits(self.attachment, None, batch).log_softmax(dim=-1)
        divergence = functional.kl_div(adapted, base, reduction="batchmean", log_target=True)
        return self.config.rehearsal_weight * divergence

    def _switch_lora(self, *, on: bool) -> None:
        for module in self.attachment.model.modules():
            if isinstance(module, BaseTunerLayer):
                module.enable_adapters(on)


def cells() -> list[dict[str, Any]]:
    """The cells measured so far."""
    return [json.loads(line) for line in CELLS.read_text().splitlines()] if CELLS.exists() else []


def report() -> None:
    """bench/results/quality.json holds a row per method, rate and score; the table for the README is printed."""
    rows: list[dict[str, Any]] = []
    for (method, rate), members in sorted(groups().items()):
        note = f"{len(members)} seeds, {members[0]['steps']} steps of {members[0]['batch_size']}"
        for score, better in SCORES.items():
            values = [member[score] for member in members]
            rows.append(record.row(f"{score}/{method}/{rate:g}", values, "ratio", better, note=note))  # type: ignore[arg-type]
    print(record.write("quality", "python -m bench.quality", rows, cells=cells()))
    print(table())


def groups() -> dict[tuple[str, float], list[dict[str, Any]]]:
    """The cells of each method and rate, one a seed."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for cell in cells():
        found.setdefault((cell["method"], cell["rate"]), []).append(cell)
    return found


def table() -> str:
    """Each method at the rate at which it recalls most, as Markdown: medians over the seeds, and their range."""
    best: dict[str, tuple[float, list[dict[str, Any]]]] = {}
    for (method, rate), members in groups().items():
        if method not in best or recall(members) > recall(best[method][1]):
            best[method] = (rate, members)
    lines = ["| method | rate | facts, held-out phrasings | style, unseen questions | general-text loss |"]
    lines.append("|---|---|---|---|---|")
    for method, (rate, members) in sorted(best.items(), key=lambda item: -recall(item[1][1])):
        spread = [
            f"{statistics.median(values):.0%} ({min(values):.0%} to {max(values):.0%})"
            if score != "text_rise"
            else f"{statistics.median(values):+.1%} ({min(values):+.1%} to {max(values):+.1%})"
            for score in SCORES
            for values in [[member[score] for member in members]]
        ]
        lines.append(f"| {method} | {rate:g} | {' | '.join(spread)} |")
    return "\n".join(lines)


def recall(members: list[dict[str, Any]]) -> float:
    """Median over the seeds."""
    return statistics.median(member["fact_rate"] for member in members)


if __name__ == "__main__":
    main()
