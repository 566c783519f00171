"""Checkpoints: whole or not there, and enough to go on exactly.

OUT/checkpoints/step-00000100/
    adapter/   LoRA as PEFT loads it, or
    model/     the whole model as transformers and vLLM load it, with its processor
    optimizer.safetensors, random-<process>.safetensors
    run.json   step, recipe, dataset, seed, versions, refused rows

A checkpoint is written under a name that starts with a dot, forced to the disk and then renamed.
DeepSpeed keeps its optimizer in a format of its own, in deepspeed/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from config.errors import TrainingError
from train.models import base_model, hub_name
from train.processes import Processes

PREFIX = "model."  # the scorer's name for the model in it
SHARD = "5GB"


class Checkpoints:
    """The checkpoints of one output folder, for the objects that one run trains."""

    def __init__(
        self,
        out: Path,
        keep: int,
        accelerator: Accelerator,
        scorer: nn.Module,
        optimizer: Any,
        processor: Any,
    ) -> None:
        self.folder = out / "checkpoints"
        self.keep = keep
        self.accelerator = accelerator
        self.processes = Processes(accelerator)
        self.scorer = scorer
        self.model = accelerator.unwrap_model(scorer).model
        self.optimizer = optimizer
        self.processor = processor

    def all(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if (path / "run.json").is_file())

    def last(self) -> Path | None:
        return next(iter(reversed(self.all())), None)

    def save(self, step: int, about: dict[str, Any]) -> Path:
        """Raises TrainingError, naming the last good checkpoint, where the disk does not take it."""
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{final.name}"
        error: Exception | None = None
        try:
            if self.processes.is_main:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
        except OSError as failed:
            error = failed
        state = self._state()  # every process takes part, whatever became of the folder
        self.processes.wait()
        try:
            if error is None:
                self._write(partial, state, {"step": step, **about})
        except (OSError, SafetensorError) as failed:
            error = failed
        if self.processes.any(error is not None):
            if self.processes.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"the checkpoint of step {step} could not be written to {self.folder}: "
                f"{error or 'another process failed'}. {told(self.last())}"
            ) from error
        if self.processes.is_main:
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _sync(self.folder)
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old)
        self.processes.wait()
        return final

    def load(self, path: Path) -> dict[str, Any]:
        """Puts weights, optimizer and random state back; gives what run.json says."""
        about: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
        if self._is_deepspeed:
            self.accelerator.load_state(str(path / "deepspeed"))
        else:
            weights = read_weights(path, self.model)
            options = StateDictOptions(full_state_dict=True, strict=False)
            named = {PREFIX + name: tensor for name, tensor in weights.items()}
            set_model_state_dict(self.scorer, named, options=options)
            self._load_optimizer(load_file(path / "optimizer.safetensors"))
        random = path / f"random-{self.processes.index}.safetensors"
        if random.exists():  # with other processes than before, each keeps the recipe's seed
            _set_random(load_file(random))
        return about

    @property
    def _is_deepspeed(self) -> bool:
        return bool(self.accelerator.distributed_type == DistributedType.DEEPSPEED)

    def _state(self) -> dict[str, dict[str, Tensor]]:
        """Weights and optimizer, whole on the main process. LoRA leaves out what does not train."""
        lora = hasattr(self.model, "peft_config")
        if self._is_deepspeed:
            found = self.accelerator.get_state_dict(self.scorer)
            return {"weights": _named(found), "optimizer": {}}
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=lora
        )
        weights = get_model_state_dict(self.scorer, options=options)
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, flatten_optimizer_state_dict=True
        )
        flat = get_optimizer_state_dict(self.scorer, self._inner, options=options)
        tensors = {name: value for name, value in flat.items() if name.startswith("state.")}
        return {"weights": _named(weights), "optimizer": tensors}

    @property
    def _inner(self) -> torch.optim.Optimizer:
        found: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return found

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """The learning rate is the step's; the recipe has the other numbers of AdamW."""
        options = StateDictOptions(full_state_dict=True)
        whole = get_optimizer_state_dict(self.scorer, self._inner, options=options)
        for name, state in whole["state"].items():
            for key in state:
                state[key] = tensors[f"state.{name}.{key}"]
        set_optimizer_state_dict(self.scorer, self._inner, whole, options=options)

    def _write(self, folder: Path, state: dict[str, dict[str, Tensor]], about: Any) -> None:
        save_file(_random(), folder / f"random-{self.processes.index}.safetensors")
        if self._is_deepspeed:
            self.accelerator.save_state(str(folder / "deepspeed"))
        if self.processes.is_main:
            save_file(_contiguous(state["optimizer"]), folder / "optimizer.safetensors")
            write_weights(folder, self.model, state["weights"], self.processor)
            text = json.dumps(about, indent=1, sort_keys=True)
            (folder / "run.json").write_text(text + "\n", encoding="utf-8")
            for file in folder.rglob("*"):
                _sync(file)


def told(last: Path | None) -> str:
    if last is None:
        return "There is no checkpoint yet."
    return f"The last good checkpoint is {last}."


def write_weights(
    folder: Path, model: Any, weights: dict[str, Tensor], processor: Any, dtype: Any = None
) -> None:
    """weights: by the model's own names. LoRA becomes adapter/, whole weights model/."""
    if hasattr(model, "peft_config"):
        config = model.peft_config["default"]
        target = folder / "adapter"
        config.save_pretrained(str(target))
        renamed = {
            name.replace(".default.", "."): tensor
            for name, tensor in weights.items()
            if ".default." in name
        }
        save_file(_contiguous(renamed), target / "adapter_model.safetensors")
    else:
        target = folder / "model"
        write_model(target, model, weights)
    processor.save_pretrained(str(target))


def write_model(target: Path, model: Any, weights: dict[str, Tensor]) -> None:
    """Under the names that checkpoints on the hub have: transformers 5's own for LLaVA are not
    read by other programs."""
    target.mkdir(parents=True)
    kind = model.config.model_type
    renamed = {hub_name(kind, name): tensor for name, tensor in weights.items()}
    if getattr(model.config, "tie_word_embeddings", False):
        renamed.pop(hub_name(kind, "lm_head.weight"), None)
    save_torch_state_dict(_contiguous(renamed), target, max_shard_size=SHARD)
    model.config.save_pretrained(str(target))
    if model.can_generate():
        model.generation_config.save_pretrained(str(target))


def read_weights(path: Path, model: Any) -> dict[str, Tensor]:
    """A checkpoint's weights by the model's own names."""
    if hasattr(model, "peft_config"):
        found = load_file(path / "adapter" / "adapter_model.safetensors")
        return {
            re.sub(r"\.(lora_[A-Z]\w*)\.", r".\1.default.", name): tensor
            for name, tensor in found.items()
        }
    kind = base_model(model).config.model_type
    own = {hub_name(kind, name): name for name in model.state_dict()}
    found = {}
    for file in sorted((path / "model").glob("*.safetensors")):
        found |= load_file(file)
    return {own[name]: tensor for name, tensor in found.items()}


def _named(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Own memory for each: safetensors refuses tensors that share it, as tied weights do."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _random() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
