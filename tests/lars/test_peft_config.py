"""PEFT itself and the files of a LARS adapter."""

from __future__ import annotations

import pytest

from lars_agent.errors import ModelUnsupported
from lars_agent.lars import LarsAdapter, LarsConfig, register_with_peft, save_adapter
from tests.tiny import tiny_model


def test_peft_reads_the_configuration_and_says_in_words_that_it_cannot_apply_it(tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny_model("llama")
    config = LarsConfig(rank=4, target_modules=("q_proj", "o_proj"))
    save_adapter(LarsAdapter.for_model(model, config), tmp_path, base_model="org/name", revision="c0ffee")
    with pytest.raises(KeyError, match="LARS"):  # by itself
        peft.PeftConfig.from_pretrained(tmp_path)
    try:
        register_with_peft()
        read = peft.PeftConfig.from_pretrained(tmp_path)
        assert (read.peft_type, read.base_model_name_or_path, read.revision) == ("LARS", "org/name", "c0ffee")
        assert (read.rank, tuple(read.target_modules), read.task_type) == (4, config.target_modules, "CAUSAL_LM")
        with pytest.raises(ModelUnsupported, match="load_adapter"):
            peft.PeftModel.from_pretrained(model, tmp_path)
    finally:
        for table in (peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING):
            table.pop("LARS", None)
