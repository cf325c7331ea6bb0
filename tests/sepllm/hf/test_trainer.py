"""An exported model trains on with transformers' Trainer, and is saved as what it was."""

from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from sepllm.hf.modeling_sepllm import SepLLMGPTNeoXForCausalLM
from tests.sepllm.hf.tiny_model import tiny_model, tokens


@pytest.mark.slow
def test_loss_falls_and_the_saved_folder_is_the_trained_model(tmp_path: Path) -> None:
    model = tiny_model(max_position_embeddings=256)
    ids = tokens(8, 160)
    rows = [{"input_ids": row, "labels": row} for row in ids]
    with torch.no_grad():
        before = model(ids, labels=ids).loss
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        gradient_checkpointing=True,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    again = SepLLMGPTNeoXForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        after = again(ids, labels=ids)
        assert torch.equal(after.logits, model.eval()(ids).logits)
    assert after.loss < before - 0.2
    assert again.config.sepllm == model.config.sepllm
