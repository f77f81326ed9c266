"""Training on the CPU until a deadline: one single-threaded process per core, gradients averaged between them.

Matrices are trained with Muon, everything else with AdamW. The learning rate rises briefly, stays, and falls linearly
to zero over the last part; progress is measured in time, so that training ends when it was told to, even if the process
was stopped for a while or other programs were busy. A checkpoint is written every few minutes and `--resume` goes on
from it.
"""

import argparse
import os
import random
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from .data import USED_TOKENS, WINDOW
from .headstart import write_copying_circuit
from .model import Nano, NanoConfig

MIX = {"stdlib": 0.12, "packages": 0.12, "fim": 0.02, "tools": 0.55, "chat": 0.10, "copy": 0.04, "repeats": 0.05}
EMPHASIS = {"tools": 3.0}  # on a kind's weights: of a call, only a few tokens are choices, the rest is known markup
VOCABULARY = 4096
MUON_RATE, MUON_DECAY, MUON_MOMENTUM = 0.010, 0.02, 0.95
ADAM_RATES = {"embed_tokens": 0.0012, "lm_head": 0.0006}  # more would wash the copying circuit out at once
ADAM_RATE = 0.003
BALANCE = 0.01
WARMUP, DECAY_FROM = 0.02, 0.45
CLIP = 1.0
AVERAGE = 0.99  # of the weights, over about a hundred steps: what is exported


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is asked to do."""

    folder: Path
    minutes: float
    processes: int
    windows_per_step: int
    micro: int
    resume: bool
    compile: bool
    checkpoint_minutes: float


class Windows:
    """Draws windows of every kind without repetition until a kind is used up, then again in another order.

    Repeats are made on the spot: random tokens, then the same once more, where only the second time is learnt.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        files = {kind: np.load(folder / f"{kind}.npz") for kind in MIX if kind != "repeats"}
        self.ids = {kind: file["ids"] for kind, file in files.items()}
        self.weights = {kind: file["weights"] for kind, file in files.items()}
        self.rng = random.Random(seed)
        self.waiting: dict[str, list[int]] = {kind: [] for kind in files}

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        kinds = self.rng.choices(list(MIX), list(MIX.values()), k=count)
        windows = [self.repeats() if kind == "repeats" else self.next_of(kind) for kind in kinds]
        ids, weights = zip(*windows, strict=True)
        return torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(weights))

    def next_of(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        if not self.waiting[kind]:
            self.waiting[kind] = self.rng.sample(range(len(self.ids[kind])), len(self.ids[kind]))
        index = self.waiting[kind].pop()
        weights = self.weights[kind][index].astype(np.float32) * EMPHASIS.get(kind, 1.0)
        return self.ids[kind][index].astype(np.int64), weights

    def repeats(self) -> tuple[np.ndarray, np.ndarray]:
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < WINDOW:
            piece = self.rng.choices(range(USED_TOKENS), k=self.rng.randint(4, 200))
            ids += piece + piece
            weights += [0.0] * (len(piece) + 1) + [1.0] * (len(piece) - 1)
        return np.array(ids[:WINDOW], np.int64), np.array(weights[:WINDOW], np.float32)


class Muon:
    """Momentum whose update for a matrix is orthogonalised by a Newton-Schulz iteration (Jordan et al., 2024).

    Parameters with more than two dimensions are stacks of matrices.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.momenta = [torch.zeros_like(p) for p in parameters]

    def step(self, rate: float) -> None:
        for parameter, momentum in zip(self.parameters, self.momenta, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            momentum.lerp_(gradient, 1 - MUON_MOMENTUM)
            update = orthogonal(gradient.lerp(momentum, MUON_MOMENTUM))
            scale = max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
            parameter.mul_(1 - rate * MUON_DECAY).add_(update, alpha=-rate * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values near one, by five quintic Newton-Schulz steps in bf16."""
    x = matrix.bfloat16()
    wide = x.shape[-2] > x.shape[-1]
    x = x.mT if wide else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    found: Tensor = (x.mT if wide else x).float()
    return found


def optimisers(model: Nano) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the matrices and AdamW for everything else."""
    small = ("embed_tokens", "lm_head", "mlp.gate.", "shared_expert_gate", "in_proj_ba", "conv1d")
    matrices, groups = [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and not any(part in name for part in small):
            matrices.append(parameter)
        else:
            rate = next((rate for part, rate in ADAM_RATES.items() if part in name), ADAM_RATE)
            groups.append({"params": [parameter], "lr": rate, "peak": rate})
    return Muon(matrices), torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)


def rate_factor(progress: float) -> float:
    """The learning rate at a point of the run, as a share of its peak."""
    if progress < WARMUP:
        return progress / WARMUP
    return min(1.0, (1.0 - progress) / (1.0 - DECAY_FROM))


def loss_of(model: Nano, ids: Tensor, weights: Tensor, total_weight: float, share: float) -> tuple[Tensor, Tensor]:
    """The weighted loss of a share of a batch, and the mean cross-entropy of its learnt tokens (for the log)."""
    flat_ids, flat_weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
    # Learnt tokens first, padded to a few sizes only: arrays of ever new sizes would fragment the heap.
    count = int((flat_weights > 0).sum())
    rows = flat_weights.argsort(descending=True)[: -(-count // 1024) * 1024]
    with torch.autocast("cpu", torch.bfloat16):
        hidden, balance = model(ids)
        logits = model.lm_head(hidden[:, :-1].flatten(0, 1)[rows])
    each = F.cross_entropy(logits.float(), flat_ids[rows], reduction="none")
    loss = (each * flat_weights[rows]).sum() / total_weight
    return loss + BALANCE * balance * share, each.detach()[:count].mean()


class Run:
    """One process of a training run."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan, self.rank = plan, rank
        torch.manual_seed(7)
        self.config = NanoConfig(vocab_size=VOCABULARY)
        self.model = Nano(self.config)
        write_copying_circuit(self.model)
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.muon, self.adam = optimisers(self.model)
        self.step_number, self.tokens, self.progress = 0, 0, 0.0
        if plan.resume:
            self.load()
        self.windows = Windows(plan.folder, seed=1000 * self.step_number + rank)
        if plan.compile:
            for layer in self.model.layers:
                layer.compile(dynamic=False)
        self.deadline = time.time() + plan.minutes * 60
        self.saved = time.time()

    @property
    def checkpoint(self) -> Path:
        return self.plan.folder / "checkpoint.pt"

    def load(self) -> None:
        state = torch.load(self.checkpoint)
        self.model.load_state_dict(state["model"])
        peaks = [group["peak"] for group in self.adam.param_groups]
        self.adam.load_state_dict(state["adam"])
        for group, peak in zip(self.adam.param_groups, peaks, strict=True):
            group["peak"] = peak
        self.average = state["average"]
        for momentum, saved in zip(self.muon.momenta, state["muon"], strict=True):
            momentum.copy_(saved)
        self.step_number, self.tokens, self.progress = state["step"], state["tokens"], state["progress"]

    def save(self) -> None:
        state = {
            "config": self.config.as_dict(), "model": self.model.state_dict(), "average": self.average,
            "adam": self.adam.state_dict(),
            "muon": self.muon.momenta, "step": self.step_number, "tokens": self.tokens, "progress": self.progress,
        }  # fmt: skip
        temporary = self.checkpoint.with_suffix(".new")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)
        self.saved = time.time()

    def gradients(self) -> tuple[float, float]:
        """Fill every parameter's gradient with the mean over processes; gives the loss and the gradient's norm."""
        ids, weights = self.windows.draw(self.plan.windows_per_step // self.plan.processes)
        total = weights[:, 1:].sum().item()
        shown = 0.0
        for part in range(0, len(ids), self.plan.micro):
            rows = slice(part, part + self.plan.micro)
            share = len(ids[rows]) / len(ids)
            loss, mean = loss_of(self.model, ids[rows], weights[rows], total, share)
            loss.backward()
            shown += mean.item() * share
        parameters = list(self.model.parameters())
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None] + [torch.tensor([shown])])
        dist.all_reduce(flat)
        flat /= self.plan.processes
        norm = flat[:-1].norm().item()
        flat[:-1] *= min(1.0, CLIP / (norm + 1e-6))
        for parameter, piece in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.view_as(parameter)
        return flat[-1].item(), norm

    def advance(self, seconds: float) -> None:
        """Move progress on by a step's share of the time that is left; process 0 decides for all."""
        left = max(0.0, self.deadline - time.time())
        share = seconds / (left + seconds) if left > 0 else 1.0
        progress = torch.tensor([self.progress + (1.0 - self.progress) * min(1.0, share)], dtype=torch.float64)
        dist.broadcast(progress, 0)
        self.progress = progress.item()

    def run(self) -> None:
        started, shown_at, losses = time.time(), self.step_number, []
        while self.progress < 1.0:
            begun = time.time()
            loss, norm = self.gradients()
            losses.append(loss)
            factor = rate_factor(self.progress)
            for group in self.adam.param_groups:
                group["lr"] = group["peak"] * factor
            with torch.no_grad():
                self.muon.step(MUON_RATE * factor)
                self.adam.step()
                if self.rank == 0:
                    for name, tensor in self.model.state_dict().items():
                        self.average[name].lerp_(tensor, 1 - AVERAGE)
            self.adam.zero_grad()
            for parameter in self.muon.parameters:
                parameter.grad = None
            self.step_number += 1
            self.tokens += self.plan.windows_per_step * WINDOW
            # A long step means that the process was stopped or compiled: not a measure of the ones to come.
            self.advance(min(time.time() - begun, 20.0) if self.step_number > shown_at + 3 else 1.0)
            if self.rank == 0 and self.step_number % 20 == 0:
                speed = 20 * self.plan.windows_per_step * WINDOW / (time.time() - started)
                started = time.time()
                print(
                    f"step {self.step_number} tokens {self.tokens:,} progress {self.progress:.3f} "
                    f"loss {sum(losses) / len(losses):.3f} norm {norm:.2f} rate {factor:.2f} {speed:,.0f} tokens/s",
                    flush=True,
                )
                losses = []
            if self.rank == 0 and time.time() - self.saved > 60 * self.plan.checkpoint_minutes:
                self.save()
        if self.rank == 0:
            self.save()


def work(rank: int, plan: Plan) -> None:
    """What each process runs."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // plan.processes))
    dist.init_process_group(
        "gloo", init_method=f"file://{plan.folder}/rendezvous", rank=rank, world_size=plan.processes,
        timeout=timedelta(hours=6),
    )  # fmt: skip
    Run(plan, rank).run()
    dist.destroy_process_group()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Train the bundled model on this machine's CPU.")
    parser.add_argument("--folder", type=Path, required=True, help="where the windows are and the checkpoint goes")
    parser.add_argument("--minutes", type=float, required=True, help="stop after this time")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--windows-per-step", type=int, default=4)
    parser.add_argument("--micro", type=int, default=2, help="windows that one process computes at once")
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="run without torch.compile")
    plan = Plan(**vars(parser.parse_args()))
    (plan.folder / "rendezvous").unlink(missing_ok=True)
    (plan.folder / "train.pid").write_text(str(os.getpid()))
    spawn(work, args=(plan,), nprocs=plan.processes)


if __name__ == "__main__":
    main()
