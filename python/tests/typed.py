"""How users write it: checked by pyright, not run."""

from __future__ import annotations

import concurrent.futures

import lstmc
import numpy as np
from lstmc.torch import Network, from_torch, to_torch

model: lstmc.Model = lstmc.compile(
    "model.onnx", vocab=["a", "b"], passes="quantize(bits=8)", calibrate=["a b"], validate="valid.txt", train=np.arange(9)
)
found: lstmc.Evaluation = model.eval(["a b", "b a"])
print(found.perplexity, model.score([1, 2]), model.score([[1], [2]])[0].mean())
ids, scores = model.session().top_k(3)
print(ids.astype(np.int64), float(scores[0]), model.streams(3).step(ids).shape)
with concurrent.futures.ThreadPoolExecutor() as pool:
    best = lstmc.search(model, "found", calibrate="a.txt", validate="b.txt", max_bytes="2MB", executor=pool)
print(best.best.nbytes, lstmc.compare([model, best.best], "t.txt").rows, lstmc.report([model], "t.txt").html)
network: Network = to_torch(model)
print(from_torch(network).recipe, [name for name, _ in lstmc.passes()])
