"""Training learns, keeps the right step, repeats bit for bit, and resumes as if nothing had happened."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from lars_agent.errors import ConfigError, NothingToLearn, Preempted
from lars_agent.lars import LarsAdapter, LarsConfig, attach, packing
from lars_agent.lars.state import load_state
from lars_agent.ops.attention import use_grouped_attention
from lars_agent.ops.kv_cache import ReservedLayer
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.training import checkpoint
from lars_agent.training.batches import collate, encode, encode_text
from lars_agent.training.config import TrainConfig
from lars_agent.training.evaluate import divergence_from_base, token_losses
from lars_agent.training.job_rows import JobRows
from lars_agent.training.trainer import Trainer, learning_rate
from tests.tiny import adapter_state, tiny_model, tiny_tokenizer
from tests.training.conftest import FACTS, HELD_OUT, fact

CONFIG = TrainConfig(steps=12, batch_size=2, learning_rate=2e-2, warmup_steps=2, evaluate_every=3, checkpoint_every=4)


def trainer(config: TrainConfig = CONFIG, pooling: str = "response", model=None) -> Trainer:
    model = model or tiny_model("llama")
    tokenizer = tiny_tokenizer()
    adapter = LarsAdapter.for_model(model, LarsConfig(rank=4, pooling=pooling), seed=config.seed)  # type: ignore[arg-type]
    rows = [[encode(tokenizer, example, 500) for example in examples] for examples in (FACTS, HELD_OUT)]
    return Trainer(attach(model), adapter, JobRows(config, *rows), pad_id=0)


@pytest.mark.parametrize("pooling", ["sequence", "learned", "prompt", "response", "causal"])
def test_every_pooling_learns(pooling):
    made = trainer(TrainConfig(steps=30, batch_size=3, learning_rate=2e-2, evaluate_every=10), pooling)
    losses: list[float] = []
    assert made.run(on_step=lambda progress: losses.append(progress.loss))
    assert losses[-1] < 0.8 * losses[0]


def test_the_base_model_is_not_touched():
    model = tiny_model("llama")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trainer(model=model).run()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("recompute", [True, False])
def test_what_a_batch_read_is_gone_before_the_next_one_is_read(monkeypatch, recompute):
    """KV caches: with two of them alive the second would come on top of the first."""
    rooms, alive = [], []
    make = packing.reserved_cache

    def room(self, states):
        numbers = np.empty((*states.shape[:2], self.capacity, states.shape[3]), np.float32)
        rooms.append(weakref.ref(numbers))  # it goes with the last tensor that has a part of it
        return torch.from_numpy(numbers)

    def made(*args):
        alive.append(sum(numbers() is not None for numbers in rooms))
        return make(*args)

    monkeypatch.setattr(ReservedLayer, "_buffer", room)
    monkeypatch.setattr(packing, "reserved_cache", made)
    model = tiny_model("llama")
    use_grouped_attention(model)
    trained = trainer(TrainConfig(steps=2, batch_size=2, evaluate_every=2, rehearsal_batch=2), model=model)
    trained.rows = replace(trained.rows, rehearsal=trained.rows.train)
    trained.plan = MemoryPlan(micro_batch=1, recompute=recompute)
    gc.disable()  # nothing may hang on a collection
    try:
        trained.run()
    finally:
        gc.enable()
    assert len(alive) > 4
    assert not any(alive)


def judged_by_an_untaught_fact(patience: int) -> tuple[Trainer, dict[int, float]]:
    """A finished run whose held-out loss rises at last, and that loss by step."""
    config = TrainConfig(steps=40, batch_size=2, learning_rate=3e-2, evaluate_every=2, warmup_steps=0)
    made = trainer(TrainConfig(**config.__dict__ | {"patience": patience}))
    tokenizer = tiny_tokenizer()
    made.rows = replace(
        made.rows, heldout=[encode(tokenizer, fact("What is my dog called?", "0123456789 0123456789"), 500)]
    )
    seen: dict[int, float] = {}
    made.run(on_step=lambda p: seen.update({p.step: p.heldout_loss}) if p.heldout_loss is not None else None)
    return made, seen


def test_last_step_is_kept_though_the_loss_on_a_fact_that_was_not_taught_rose():
    made, seen = judged_by_an_untaught_fact(patience=0)
    assert min(seen.values()) < seen[40]
    assert (made.progress.best_step, made.progress.best_loss) == (40, seen[40])
    assert float(token_losses(made.attachment, [made.adapter], made.rows.heldout, 0)[0].mean()) == pytest.approx(
        seen[40], rel=1e-6
    )


def test_the_best_step_is_kept_not_the_last():
    made, seen = judged_by_an_untaught_fact(patience=100)
    assert made.progress.best_step < 40
    assert seen[40] > made.progress.best_loss
    measured = float(token_losses(made.attachment, [made.adapter], made.rows.heldout, 0)[0].mean())
    assert measured == pytest.approx(made.progress.best_loss, rel=1e-6)


def test_patience_ends_a_run_that_gets_no_better():
    made = trainer(
        TrainConfig(steps=500, batch_size=2, learning_rate=1e-1, evaluate_every=2, warmup_steps=0, patience=3)
    )
    assert made.run()
    assert made.progress.step < 500


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    one, same, other = trainer(), trainer(), trainer(TrainConfig(**CONFIG.__dict__ | {"seed": 1}))
    for made in (one, same, other):
        made.run()
    a, b, c = (adapter_state(made.adapter) for made in (one, same, other))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


SHORT = TrainConfig(**CONFIG.__dict__ | {"steps": 5, "evaluate_every": 2, "checkpoint_every": 3})


def preempted_at(call: int):
    """A `check` that raises Preempted at its call number `call`, and the list of its calls."""
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == call:
            raise Preempted("a request needs the processor")

    return check, calls


def keep(folder):
    return lambda made: checkpoint.save_checkpoint(made, folder)


def calls_of_a_whole_run() -> int:
    check, calls = preempted_at(0)
    trainer(SHORT).run(check=check)
    return len(calls)


@pytest.mark.parametrize("patience", [0, 100])
def test_a_run_preempted_at_any_check_and_resumed_ends_in_the_same_bytes(tmp_path, patience):
    config = TrainConfig(**SHORT.__dict__ | {"patience": patience})
    whole = trainer(config)
    whole.run()
    wanted, steps = adapter_state(whole.adapter), set()
    for call in range(1, calls_of_a_whole_run() + 1):
        folder = tmp_path / str(call)
        folder.mkdir()
        first = trainer(config)
        assert not first.run(check=preempted_at(call)[0], on_checkpoint=keep(folder))
        torch.manual_seed(999)  # whatever happened to the RNG in between
        second = trainer(config)
        assert (checkpoint.resume(second, folder) is None) == (first.progress.best_step is None)
        assert second.progress.step == first.progress.step
        assert second.run()
        found = adapter_state(second.adapter)
        assert all(torch.equal(wanted[key], found[key]) for key in wanted), call
        assert second.progress.best_step == whole.progress.best_step
        steps.add(first.progress.step)
    assert steps == set(range(SHORT.steps + 1))  # also within the measurement after the last one


def test_a_run_preempted_again_and_again_gets_on_and_ends_in_the_same_bytes(tmp_path):
    whole, told = trainer(SHORT), []
    whole.run(on_step=lambda progress: told.append(progress.step))
    heard = []
    for _ in range(100):
        made = trainer(SHORT)
        checkpoint.resume(made, tmp_path)
        check = preempted_at(9)[0]  # late enough for one step, its measurement and the one at the beginning
        if made.run(check=check, on_checkpoint=keep(tmp_path), on_step=lambda step: heard.append(step.step)):
            break
    else:
        pytest.fail("it never came to its end")
    a, b = adapter_state(whole.adapter), adapter_state(made.adapter)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert heard == told == list(range(1, SHORT.steps + 1))


@pytest.mark.parametrize("name", [checkpoint.STATE_FILE, checkpoint.BEST_FILE])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, name):
    made = trainer()
    made.run(on_checkpoint=lambda trainer: checkpoint.save_checkpoint(trainer, tmp_path))
    newest, older = checkpoint.checkpoints(tmp_path)
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / name).unlink()  # the best adapter's file may be another checkpoint's too
    (newest / name).write_bytes(content)
    fresh = trainer()
    assert checkpoint.resume(fresh, tmp_path) == older
    shutil.rmtree(older)
    assert checkpoint.resume(trainer(), tmp_path) is None


@pytest.mark.parametrize("state", [b"", b"\x05" + bytes(7) + b"{a}  ", (2**63).to_bytes(8, "little") + b"{}"])
def test_a_checkpoint_that_is_no_safetensors_file_is_passed_over_though_its_digest_is_right(tmp_path, state):
    made = trainer()
    made.run(on_checkpoint=lambda trainer: checkpoint.save_checkpoint(trainer, tmp_path))
    newest, older = checkpoint.checkpoints(tmp_path)
    (newest / checkpoint.STATE_FILE).write_bytes(state)
    record = json.loads((newest / checkpoint.PROGRESS_FILE).read_text())
    record["sha256"][checkpoint.STATE_FILE] = hashlib.sha256(state).hexdigest()
    (newest / checkpoint.PROGRESS_FILE).write_text(json.dumps(record))
    assert checkpoint.resume(trainer(), tmp_path) == older


def test_accumulation_equals_one_large_batch_without_dropout():
    states = []
    for size, accumulation in ((6, 1), (2, 3)):
        config = TrainConfig(steps=2, batch_size=size, accumulation=accumulation, learning_rate=1e-2, evaluate_every=2)
        made = trainer(config)
        for layer in made.adapter.layers:
            layer.dropout.p = 0.0
        made.run()
        states.append(adapter_state(made.adapter))
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], rtol=1e-3, atol=1e-4)


def test_learning_rate_warms_up_and_follows_a_cosine_to_zero():
    config = TrainConfig(steps=110, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(0, config, config.steps) == pytest.approx(0.1)
    assert learning_rate(9, config, config.steps) == pytest.approx(1.0)
    assert learning_rate(60, config, config.steps) == pytest.approx(0.5)
    assert learning_rate(109, config, config.steps) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


def test_nothing_to_learn_or_to_judge_by_is_an_error():
    made = trainer()
    for rows in (replace(made.rows, train=[]), replace(made.rows, heldout=[])):
        with pytest.raises(NothingToLearn, match="must be at least 1"):
            Trainer(made.attachment, made.adapter, rows, pad_id=0)


@pytest.mark.parametrize(
    "bad", [{"steps": -1}, {"learning_rate": 0.0}, {"warmup_steps": -1}, {"clip_norm": float("nan")}]
)
def test_impossible_training_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=rf"training\.{next(iter(bad))}"):
        TrainConfig(**bad)


def test_rehearsal_keeps_general_text_nearer_to_the_base_model():
    tokenizer, rises = tiny_tokenizer(), []
    texts = [encode_text(tokenizer, text, "") for text in ("The tide went out early.", "Sharpen it on a wet stone.")]
    for weight in (0.0, 3.0):
        config = TrainConfig(
            steps=20, batch_size=2, learning_rate=2e-2, rehearsal_batch=2, rehearsal_weight=weight, evaluate_every=20
        )
        made = trainer(config)
        made = Trainer(made.attachment, made.adapter, replace(made.rows, rehearsal=texts), 0)
        made.run()
        with torch.no_grad():
            rises.append(float(divergence_from_base(made.attachment, made.adapter, collate(texts, 0))))
    assert rises[1] < 0.5 * rises[0]


def test_a_fresh_adapter_does_not_diverge_from_the_base_model():
    made = trainer()
    rows = [encode_text(tiny_tokenizer(), "The tide went out early.", "")]
    divergence = divergence_from_base(made.attachment, made.adapter.eval(), collate(rows, 0))
    assert float(divergence.detach()) == pytest.approx(0.0, abs=1e-5)


def test_a_checkpoint_whose_best_step_is_an_earlier_one_is_gone_on_from(tmp_path):
    """As runs wrote it that kept the step with the lowest held-out loss."""
    stopped = trainer()
    assert not stopped.run(check=preempted_at(20)[0], on_checkpoint=keep(tmp_path))
    (path,) = checkpoint.checkpoints(tmp_path)[:1]
    record = json.loads((path / checkpoint.PROGRESS_FILE).read_text())
    (path / checkpoint.PROGRESS_FILE).write_text(json.dumps(record | {"best_step": 0, "best_loss": 1e-9}))
    made, whole = trainer(), trainer()
    assert checkpoint.resume(made, tmp_path) == path
    assert made.run()
    whole.run()
    assert made.progress.best_step == CONFIG.steps
    a, b = (adapter_state(run.adapter) for run in (made, whole))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_without_a_number_of_steps_ends_soon_after_what_it_reads_is_known():
    config = TrainConfig(steps=0, epochs=200, batch_size=2, learning_rate=2e-2, warmup_steps=2, cooldown_steps=4)
    made = trainer(config)
    rates: list[float] = []
    made.run(on_step=lambda p: rates.append(learning_rate(p.step - 1, config, made.rows.steps(), p.known_step)))
    known_step = made.progress.known_step
    assert known_step is not None
    assert made.progress.step == made.last_step == known_step + 4 < made.rows.steps() == 600
    assert rates[-4:] == sorted(rates[-4:], reverse=True)
    assert rates[-1] < 0.3 * rates[-5]
    losses = made.token_losses([made.adapter], made.rows.train)[0]
    assert float((losses < math.log(2)).double().mean()) > 0.9


def test_a_run_with_a_number_of_steps_takes_them_all():
    made = trainer(replace(CONFIG, known_share=0.01, known_examples=0.01))
    made.run()
    assert (made.progress.step, made.progress.known_step) == (CONFIG.steps, None)


def test_an_example_is_known_by_how_it_came_out_when_it_was_read_last():
    made = trainer()
    lessons = list(enumerate(made.rows.train[:3]))
    made.progress.unknown = (1, 2, 5)
    assert made._noted(lessons, [0.5, 1.0, 0.98]) == (0, 5)
    made.progress.unknown = (0, 5)
    assert made._noted(lessons[:1], [0.97]) == (5,)


KNOWN = TrainConfig(
    batch_size=4,
    learning_rate=2e-2,
    warmup_steps=2,
    evaluate_every=4,
    checkpoint_every=4,
    epochs=100,
    known_share=0.7,  # the tiny model learns no more
)
NEW = [fact("What is my cat called?", "Pickle."), fact("Who is my dentist?", "Dr Quux.")]


@pytest.fixture(scope="module")
def known_state():
    torch.set_num_threads(1)
    made = trainer(replace(KNOWN, steps=150))
    made.run()
    return adapter_state(made.adapter)


def continued(known_state, config: TrainConfig = KNOWN, new=NEW) -> Trainer:
    """Training that goes on from an adapter that knows `FACTS`, with some more."""
    made = trainer(config)
    load_state(made.adapter, known_state)
    train = [*made.rows.train, *(encode(tiny_tokenizer(), example, 500) for example in new)]
    return Trainer(made.attachment, made.adapter, replace(made.rows, train=train, is_continued=True), 0)


def right(made: Trainer) -> list[float]:
    """The shares of right tokens of `FACTS`, and of what is new."""
    parts = made.rows.train[: len(FACTS)], made.rows.train[len(FACTS) :]
    return [float((made.token_losses([made.adapter], rows)[0] < math.log(2)).double().mean()) for rows in parts]


def test_a_run_that_goes_on_learns_what_is_new_in_few_steps_and_keeps_the_rest(known_state):
    made, anew = continued(known_state), continued(known_state)
    anew = Trainer(anew.attachment, trainer(KNOWN).adapter, replace(anew.rows, is_continued=False), 0)
    before = right(made)
    anew.run()
    made.run()
    assert (made.progress.first_unknown, anew.progress.first_unknown) == ((6, 7), tuple(range(8)))
    assert made.progress.step < anew.progress.step
    (known_before, new_before), (known, new) = before, right(made)
    assert new > new_before + 0.3
    assert known_before > known > 0.5 > new_before


def test_a_run_that_goes_on_does_not_end_before_what_is_new_is_known_however_much_else_is(known_state):
    made = continued(known_state, replace(KNOWN, known_examples=0.75))  # two of the eight may be unknown
    made.progress.first_unknown = (6, 7)
    is_known = []
    for unknown in [(0, 1), (0, 7), (0, 1, 2)]:
        made.progress.unknown = unknown
        is_known.append(made._is_known())
    assert is_known == [True, False, False]


def test_a_run_that_goes_on_from_what_knows_all_reads_it_once_more_and_ends(known_state):
    made = continued(known_state, new=[])
    assert made._unknown() == ()
    made.run()
    assert made.progress.known_step >= made.rows.turn == 3
    assert made.progress.step == made.progress.known_step + made.rows.cooldown < made.rows.steps()
    assert len(continued(adapter_state(trainer(KNOWN).adapter))._unknown()) == 8


def test_a_run_that_goes_on_and_was_preempted_reads_the_same_as_one_that_was_not(known_state, tmp_path):
    config = replace(KNOWN, epochs=6)
    whole, first, second = (continued(known_state, config) for _ in range(3))
    whole.run()
    assert not first.run(check=preempted_at(14)[0], on_checkpoint=keep(tmp_path))
    assert checkpoint.resume(second, tmp_path) is not None
    assert 0 < second.progress.step < second.last_step
    assert second.progress.unknown == first.progress.unknown
    assert second.run()
    a, b = (adapter_state(made.adapter) for made in (whole, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
