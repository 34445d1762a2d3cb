"""Other trainers doing the same work: litgpt's pretraining step, and transformers.

    python -m benchmarks.training.peers litgpt compiled    (a line of JSON, then numbers, on stdin)

Each as its authors run it, and where they leave a choice the faster one: AdamW is fused for
all of them (litgpt fuses it on CUDA alone), logging is off, and gradients are accumulated over
micro-batches (of four sequences, litgpt's default, on the CPU), which keep more of an update in
the cache than the whole batch at once does. Left out: nanoGPT, whose GPT-2
shape is other work. Runs in an environment of its own, without mixlab (environments.py).
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from benchmarks.training.work import (
    BETAS,
    CLIP,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Gate,
    Work,
    batches,
)

FOREVER = 1_000_000_000


def adamw(model: torch.nn.Module) -> torch.optim.AdamW:
    """The settings that all contenders share."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=LEARNING_RATE,
        betas=BETAS,
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )


def litgpt(work: Work, compiled: bool) -> None:
    """`litgpt/pretrain.py`: fit(), with Fabric, without its logging."""
    import lightning
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    precision: Any = "bf16-mixed" if work.precision == "bfloat16" else "32-true"
    fabric = lightning.Fabric(accelerator=work.device, devices=1, precision=precision)
    with fabric.init_module():
        model: Any = GPT(
            Config(
                name=work.name, block_size=work.context, vocab_size=work.vocabulary,
                padded_vocab_size=work.vocabulary, n_layer=work.layers, n_head=work.heads,
                n_query_groups=work.kv_heads, n_embd=work.width, rotary_percentage=1.0,
                parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=1e-5,
                mlp_class_name="LLaMAMLP", intermediate_size=work.ffn_width,
            )
        )  # fmt: skip
    model.apply(model._init_weights)
    model = fabric.setup(torch.compile(model) if compiled else model)
    optimiser = fabric.setup_optimizers(adamw(model))

    def update(tokens: torch.Tensor) -> None:
        parts = tokens.split(work.at_once)
        for part in parts:
            logits = model(part[:, :-1].contiguous())
            loss = chunked_cross_entropy(logits, part[:, 1:].contiguous())
            fabric.backward(loss / len(parts))
        fabric.clip_gradients(model, optimiser, max_norm=CLIP)
        optimiser.step()
        optimiser.zero_grad()

    _updates(work, model, update)


def transformers(work: Work, compiled: bool) -> None:
    """A plain PyTorch step around LlamaForCausalLM."""
    model: Any = _llama(work)
    run = torch.compile(model) if compiled else model
    optimiser = adamw(model)
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    if work.precision == "bfloat16":
        autocast = lambda: torch.autocast(work.device, torch.bfloat16)  # noqa: E731

    def update(tokens: torch.Tensor) -> None:
        parts = tokens.split(work.at_once)
        for part in parts:
            targets = part[:, 1:].contiguous()
            with autocast():
                loss = run(
                    input_ids=part[:, :-1].contiguous(), labels=targets, shift_labels=targets
                ).loss
            (loss / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()

    _updates(work, model, update)


def trainer(work: Work, compiled: bool) -> None:
    """transformers.Trainer."""
    from torch.utils.data import IterableDataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model: Any = _llama(work)
    gate = _gate(work, model)

    class Windows(IterableDataset[dict[str, torch.Tensor]]):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for tokens in batches(work):
                for row in tokens.cpu():
                    # Labels are shifted by the model, so that the last input has no target.
                    yield {"input_ids": row[:-1], "labels": row[:-1]}

    class Waiting(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> Any:
            control.should_training_stop = gate()
            return control

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=work.at_once,
        gradient_accumulation_steps=work.sequences // work.at_once,
        max_steps=FOREVER,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        optim="adamw_torch_fused",
        bf16=work.precision == "bfloat16",
        use_cpu=work.device == "cpu",
        torch_compile=compiled,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=work.device != "cpu",
    )
    Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[Waiting()]).train()


def _llama(work: Work) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=work.vocabulary, hidden_size=work.width, intermediate_size=work.ffn_width,
        num_hidden_layers=work.layers, num_attention_heads=work.heads,
        num_key_value_heads=work.kv_heads, max_position_embeddings=work.context,
        rms_norm_eps=1e-5, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config).to(work.device).train()


def _gate(work: Work, model: torch.nn.Module) -> Gate:
    parameters = sum(weight.numel() for weight in model.parameters())
    return Gate(work.device, parameters=parameters)


def _updates(work: Work, model: torch.nn.Module, update: Callable[[torch.Tensor], None]) -> None:
    gate = _gate(work, model)
    for tokens in batches(work):
        update(tokens)
        if gate():
            return


CONTENDERS = {"litgpt": litgpt, "transformers": transformers, "trainer": trainer}


def main() -> None:
    """One contender, until its standard input ends."""
    name, mode = sys.argv[1:3]
    work = Work.from_json(sys.stdin.readline())
    torch.set_num_threads(work.threads)
    CONTENDERS[name](work, mode == "compiled")


if __name__ == "__main__":
    main()
