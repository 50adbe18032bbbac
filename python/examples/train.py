"""Trains a compressed model in PyTorch, on one device or on several, and writes it back.

    python train.py small.lstmc --train train.txt --valid valid.txt --epochs 1 -o trained.lstmc
    torchrun --nproc-per-node 2 train.py small.lstmc --train train.txt --valid valid.txt -o trained.lstmc

With `torchrun` the streams of a batch are shared out among processes, whose gradients are averaged: with the same batch the result is the same but for rounding. `--shard` also
shares out parameters and the optimiser's state (FSDP), for models that do not fit one device.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any, cast

import lstmc
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lstmc.torch import Network, State, balance, from_torch, to_torch
from torch import Tensor, nn


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a compressed model, .lstmc")
    parser.add_argument("--train", required=True, help="the text that is trained on")
    parser.add_argument("--valid", help="a text that perplexity is measured on")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--lr", type=float, default=0.002, help="AdamW's learning rate, which falls to zero linearly")
    parser.add_argument("--batch", type=int, default=20, help="streams, of all processes together")
    parser.add_argument("--bptt", type=int, default=20, help="steps that gradients go back")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--clip", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shard", action="store_true", help="share out parameters too")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--output", required=True)
    return parser.parse_args()


def wrapped(network: Network, shard: bool, device: torch.device) -> nn.Module:
    """The network as one of several processes has it."""
    if not dist.is_initialized():
        return network
    if shard:
        from torch.distributed.fsdp import fully_shard

        return cast(nn.Module, fully_shard(network))
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def streams(tokens: np.ndarray[Any, Any], batch: int, rank: int, world: int) -> Tensor:
    """This process's streams, each a contiguous part of the text: `[time, streams]`."""
    length = len(tokens) // batch
    mine = range(rank * batch // world, (rank + 1) * batch // world)
    parts = [tokens[k * length : (k + 1) * length] for k in mine]
    return torch.from_numpy(np.stack(parts, axis=1).astype(np.int64))


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(args.seed + rank)

    model = lstmc.load(args.model)
    network = to_torch(model, round_activations=False).to(device)
    balance(network)
    network.dropout = args.dropout
    module = wrapped(network, args.shard, device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=args.lr, weight_decay=0.0)

    with open(args.train, encoding="utf-8") as file:
        tokens = streams(model.encode(file.read()), args.batch, rank, world).to(device)
    windows = -(-(len(tokens) - 1) // args.bptt)
    total = max(1, round(args.epochs * windows))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / total)
    state: State | None = None
    started, loss_sum, count = time.monotonic(), 0.0, 0
    for step in range(total):
        start = step % windows * args.bptt
        if start == 0:
            state = None
        window = tokens[start : start + args.bptt + 1]
        logits, state = cast("tuple[Tensor, State]", module(window[:-1], state))
        state = tuple(s.detach() for s in state)
        # As in Zaremba et al. 2014: the mean over streams of the sum over steps.
        loss = F.cross_entropy(logits.flatten(0, 1), window[1:].flatten(), reduction="sum") / window.shape[1]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), args.clip)
        optimizer.step()
        schedule.step()
        loss_sum, count = loss_sum + loss.item(), count + len(window) - 1
        if rank == 0 and (step + 1) % 200 == 0:
            rate = (step + 1) * args.bptt * args.batch / (time.monotonic() - started)
            print(f"window {step + 1} of {total}: loss {loss_sum / count:.4f}, {rate:,.0f} tokens/s", flush=True)
            loss_sum, count = 0.0, 0

    # All processes take part, because each may have a part of the parameters.
    trained = from_torch(module, name="trained in PyTorch")
    if rank == 0:
        trained.save(args.output)
        if args.valid is not None:
            found = trained.eval(args.valid, progress=False)
            print(f"perplexity {found.perplexity:.4f}, {trained.nbytes:,} bytes")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
