"""Random recurrent models in PyTorch, exported with both of its exporters. Used by random_models.py."""

import io
import logging
import warnings

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

from random_torch_cells import Sequence, Step

torch.set_grad_enabled(False)
torch.set_num_threads(1)

SEQUENCES = {"lstm": 5, "gru": 4, "rnn-tanh": 1, "rnn-relu": 1}
STEPS = {
    "lstm-cell": 3, "gru-cell": 3, "rnn-cell": 1, "lstm-normed": 2, "lstm-peephole": 1, "lstm-coupled": 1, "lstm-clipped": 1,
    "lstm-multiplicative": 1, "lstm-mogrifier": 1, "lstm-projected-cell": 1, "gru-normed": 1, "gru-before": 1, "gru-light": 1, "min-gru": 1,
    "min-gru-log": 1, "min-lstm": 1, "janet": 1, "sru": 1, "ind-rnn": 1, "fast-grnn": 1, "ugrnn": 1, "antisymmetric": 1,
    "rwkv-time-mix": 1, "s-lstm": 1, "lmu-like": 1, "elman-clipped": 1, "highway": 1, "s4d": 1, "linear-attention": 0.7, "mamba": 0.7, "qrnn": 1, "conv-cache": 0.7,
}
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu, "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
               "leaky": F.leaky_relu, "elu": F.elu, "hardswish": F.hardswish, "softplus": F.softplus, "mish": F.mish,
               "selu": F.selu, "celu": F.celu, "softsign": F.softsign, "hardtanh": F.hardtanh, "hardsigmoid": F.hardsigmoid, "relu6": F.relu6, "logsigmoid": F.logsigmoid,
               "softshrink": F.softshrink, "hardshrink": F.hardshrink, "threshold": lambda x: F.threshold(x, 0.0, 0.0), "abs": torch.abs, "square-relu": lambda x: torch.relu(x) ** 2,
               "sin": torch.sin, "exp": lambda x: torch.exp(-x * x)}


class RMSNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(n) + 0.5)

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class LanguageModel(nn.Module):
    """Tokens and states to the scores of each word and the next states, as `draw` says."""

    def __init__(self, draw):
        super().__init__()
        torch.manual_seed(int(draw.rng.integers(2**31)))
        self.step = draw.of({False: 3, True: 2}, "steps")
        self.kind = draw.of(STEPS if self.step else SEQUENCES)
        self.tags = [self.kind]
        self.vocabulary, e, n = draw.between(11, 40), draw.between(3, 9), draw.between(3, 9)
        if draw.yes(0.06):  # sizes that coincide
            self.vocabulary = e = n = draw.between(7, 12)
        count = draw.of({1: 3, 2: 3, 3: 1})
        bias = draw.of({True: 5, False: 1})
        self.batch_first = draw.of({True: 1, False: 1})
        self.head = draw.of({"bias": 6, "no-bias": 2, "tied": 2, "two": 2, "hidden": 1, "mixture": 0.3, "adaptive": 0.4, "weight-normed": 0.3, "glu": 0.4,
                             "maxout": 0.3, "cosine": 0.3})
        if self.head == "tied":
            e = n
        # Tokens.
        self.form = draw.of({"2d": 8, "1d": 1.5, "3d": 0.7, "one-hot": 0.7, "scalar": 0.5 if self.step else 0})
        self.dtype = np.dtype("float32") if self.form == "one-hot" else np.dtype(draw.of({"int64": 6, "int32": 1.5, "uint8": 0.3, "float32": 0.6}))
        self.tags += [f"tokens-{self.form}"] * (self.form != "2d") + [f"tokens-{self.dtype}"] * (self.dtype != np.int64)
        if self.form == "one-hot":
            self.table = nn.Linear(self.vocabulary, e, bias=draw.of({True: 1, False: 2}))
        else:
            self.table = nn.Embedding(self.vocabulary, e, padding_idx=draw.of({None: 3, 0: 1}))
        self.embed = draw.of({"": 6, "scaled": 1, "norm": 1, "dense": 1, "relu": 0.7, "rms": 0.5, "dropout": 1})
        if self.embed == "norm":
            self.embed_norm = nn.LayerNorm(e, elementwise_affine=draw.of({True: 2, False: 1}))
        elif self.embed == "rms":
            self.embed_norm = RMSNorm(e)
        elif self.embed == "dense":
            self.embed_dense = nn.Linear(e, e)
        self.clamped = self.form != "one-hot" and draw.of({False: 9, True: 1})
        # Cells.
        self.between = draw.of({"": 5, "dropout": 1, "norm": 1.5, "residual": 1.5, "dense": 0.7, "concat": 0.7, "pre-norm": 1}) if count > 1 else ""
        blocks, inputs = [], e
        if not self.step and not self.between and draw.of({True: 3, False: 1}):
            blocks = [Sequence(self.kind, e, n, count, bias, self.batch_first)]
        else:
            for k in range(count):
                wide = n if k == count - 1 or draw.of({True: 2, False: 1}) else draw.between(3, 9)
                blocks.append(Step(self.kind, inputs, wide, bias) if self.step else Sequence(self.kind, inputs, wide, 1, bias, self.batch_first))
                inputs = blocks[-1].out + (e if self.between == "concat" else 0)
        self.blocks = nn.ModuleList(blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(b.out) if self.between == "norm" else nn.LayerNorm(b.cell.input_size if hasattr(b, "cell") and hasattr(b.cell, "input_size") else e) for b in blocks)
        self.denses = nn.ModuleList(nn.Linear(b.out, b.out) for b in blocks)
        out = blocks[-1].out
        # Head.
        self.skip = draw.of({"": 8, "sum": 1, "concat": 1})
        if self.skip == "sum":
            self.skip_map = nn.Linear(e, out) if e != out else nn.Identity()
        elif self.skip == "concat":
            out += e
        self.before_head = draw.of({"": 5, "norm": 1, "dropout": 1, "relu": 0.5, "rms": 0.3, "batch-norm": 0.4, "group-norm": 0.3, "scale": 0.3})
        if self.before_head == "group-norm" and out % 2:
            self.before_head = "batch-norm"
        if self.before_head in ("batch-norm", "group-norm"):
            self.head_norm = nn.BatchNorm1d(out) if self.before_head == "batch-norm" else nn.GroupNorm(2, out)
            if self.before_head == "batch-norm":
                self.head_norm.running_mean.normal_(), self.head_norm.running_var.uniform_(0.5, 2)
        elif self.before_head == "scale":
            self.scale = nn.Parameter(torch.rand(out) + 0.5)
        if self.before_head in ("norm", "rms"):
            self.head_norm = nn.LayerNorm(out) if self.before_head == "norm" else RMSNorm(out)
        if self.head == "tied" and out != e:
            self.fit = nn.Linear(out, e)
        if self.head == "two":
            self.first, self.activation = nn.Linear(out, 6), draw.of({a: 1 if k < 10 else 0.4 for k, a in enumerate(ACTIVATIONS)})
            out = 6
            self.tags.append(self.activation)
        if self.head == "hidden":
            self.width = out
            if draw.of({True: 1, False: 1}):
                self.width = draw.between(3, 9)
                self.dense = nn.Linear(out, self.width)
        else:
            self.width = self.vocabulary
            if self.head == "tied":
                self.bias = nn.Parameter(torch.randn(self.vocabulary)) if draw.of({True: 1, False: 1}) else None
                if self.form == "one-hot":
                    self.decoder = nn.Linear(e, self.vocabulary)
            else:
                self.decoder = nn.Linear(out, self.vocabulary, bias=self.head != "no-bias")
            if self.head == "adaptive":  # the last five words share one place of the first softmax
                self.short = self.vocabulary - 5
                self.decoder, self.rare = nn.Linear(out, self.short + 1), nn.Sequential(nn.Linear(out, 3, bias=False), nn.Linear(3, 5, bias=False))
            elif self.head == "weight-normed":
                self.decoder = nn.utils.weight_norm(self.decoder)
            elif self.head in ("glu", "maxout"):
                self.pair = nn.Linear(out, 2 * out)
            if self.head == "mixture":
                self.second, self.weights = nn.Linear(out, self.vocabulary), nn.Linear(out, 2)
        names = {"output": 2, "y": 1, "decoder_out": 1} if self.head == "hidden" else {"logits": 2, "output": 2, "scores": 1, "log_probs": 1}
        self.output = draw.of(names)
        self.tail = "" if self.head in ("hidden", "cosine") else "softmax" if self.head == "mixture" else "log-softmax" if self.head == "adaptive" else draw.of(
            {"": 8, "log-softmax": 3, "softmax": 1.5, "scaled": 1, "capped": 1, "cost": 0.5, "negated": 0.3, "masked": 0.7, "log-of-softmax": 0.5, "clamped": 0.5})
        if self.tail == "masked":
            self.register_buffer("mask", torch.where(torch.rand(self.vocabulary) < 0.2, -1e4, 0.0))
        self.layout = draw.of({"": 10, "last": 1.5, "last-kept": 0.7, "flat": 1, "transposed": 0.7, "swapped": 0.7, "rank-4": 0.3})
        self.unfold = 1
        if self.step:
            self.unfold = 1 if self.form == "scalar" else draw.of({1: 15, 3: 1})
        if self.form == "1d":
            self.one_d = "batch" if self.step and self.unfold == 1 and draw.of({True: 1, False: 1}) else "sequence"
        self.dynamic = {"seq": not self.step and self.form != "scalar" and draw.of({True: 6, False: 1}),
                        "batch": self.form != "scalar" and not (self.form == "1d" and self.one_d == "sequence") and draw.of({True: 4, False: 1})}
        self.fixed = (self.unfold if self.step else 1 if self.form == "scalar" else draw.of({1: 1, 4: 1}),
                      1 if self.form == "scalar" or (self.form == "1d" and self.one_d == "sequence") else draw.of({1: 2, 2: 1}))
        # States.
        self.state = draw.of({"none": 0 if self.step else 3, "zeros": 1, "stacked": 4, "layers": 3, "one-features": 0.5, "one-rows": 0.5, "one-rank-4": 0.5,
                              "one-flat": 0.5, "learned": 0.7, "batch-major": 0.7})
        widths = [b.widths for b in blocks for _ in range(b.layers)]
        self.widths = widths
        even = all(w == widths[0] for w in widths)
        if self.state in ("stacked", "one-features", "batch-major") and not even:
            self.state = "layers"
        if self.state in ("one-rows", "one-rank-4") and not (even and len(set(widths[0])) == 1):
            self.state = "one-flat"
        if self.step and self.unfold == 1 and self.state in ("zeros", "learned"):
            self.state = "layers"  # else nothing would be recurrent
        self.layer_rank = draw.of({2: 1, 3: 1})
        self.names_first = draw.of({False: 6, True: 1})  # state inputs and outputs before the others
        self.returns_states = self.has_states() or (self.state == "none" and draw.of({True: 1, False: 2}))
        if self.state == "learned":
            self.starts = nn.ParameterList(nn.Parameter(torch.randn(w) * 0.5) for ws in widths for w in ws)
        self.tags += [self.head, self.state, f"layers-{len(widths)}"]
        self.tags += [t for t in [self.embed and f"embed-{self.embed}", self.between and f"between-{self.between}", self.skip and f"skip-{self.skip}",
                                  self.before_head and f"before-{self.before_head}", self.tail, self.layout, self.unfold > 1 and "unfolded",
                                  not bias and "no-cell-bias", self.batch_first and "batch-first"] if t]
        self.eval()

    def has_states(self):
        return self.state in ("stacked", "layers", "one-features", "one-rows", "one-rank-4", "one-flat", "batch-major")

    def state_shapes(self, batch):
        """Names and shapes of the state inputs."""
        w, layers = self.widths, len(self.widths)
        if self.state == "stacked":
            return {f"{'hcnm'[k]}0": (layers, batch, x) for k, x in enumerate(w[0])}
        if self.state == "batch-major":
            return {f"{'hcnm'[k]}0": (batch, layers, x) for k, x in enumerate(w[0])}
        if self.state == "layers":
            return {f"{'hcnm'[k]}_{l}": (1, batch, x)[3 - self.layer_rank:] for l, ws in enumerate(w) for k, x in enumerate(ws)}
        if self.state == "one-features":
            return {"state": (layers, batch, sum(w[0]))}
        if self.state == "one-rows":
            return {"state": (layers * len(w[0]), batch, w[0][0])}
        if self.state == "one-rank-4":
            return {"state": (layers, len(w[0]), batch, w[0][0])}
        if self.state == "one-flat":
            return {"state": (batch, sum(sum(ws) for ws in w))}
        return {}

    def unpack(self, states, batch):
        """Per layer a list of states [B, width]."""
        w = self.widths
        if self.state == "zeros":
            return [[torch.zeros(batch, x) for x in ws] for ws in w]
        if self.state == "learned":
            it = iter(self.starts)
            return [[next(it).unsqueeze(0).expand(batch, x) for x in ws] for ws in w]
        if self.state == "stacked":
            return [[s[l] for s in states] for l in range(len(w))]
        if self.state == "batch-major":
            return [[s[:, l] for s in states] for l in range(len(w))]
        if self.state == "layers":
            it = iter(states)
            return [[next(it) if self.layer_rank == 2 else next(it).squeeze(0) for _ in ws] for ws in w]
        if self.state == "one-features":
            return [list(states[0][l].split(ws, -1)) for l, ws in enumerate(w)]
        if self.state == "one-rows":
            return [[states[0][l * len(ws) + k] for k in range(len(ws))] for l, ws in enumerate(w)]
        if self.state == "one-rank-4":
            return [[states[0][l, k] for k in range(len(ws))] for l, ws in enumerate(w)]
        it = iter(states[0].split([x for ws in w for x in ws], -1))
        return [[next(it) for _ in ws] for ws in w]

    def pack(self, states):
        if self.state in ("stacked", "none"):
            if self.state == "none" and any(ws != self.widths[0] for ws in self.widths):
                return [s for layer in states for s in layer]
            return [torch.stack(s) for s in zip(*states)]
        if self.state == "batch-major":
            return [torch.stack(s, 1) for s in zip(*states)]
        if self.state == "layers":
            return [s if self.layer_rank == 2 else s.unsqueeze(0) for layer in states for s in layer]
        if self.state == "one-features":
            return [torch.stack([torch.cat(layer, -1) for layer in states])]
        if self.state == "one-rows":
            return [torch.stack([s for layer in states for s in layer])]
        if self.state == "one-rank-4":
            return [torch.stack([torch.stack(layer) for layer in states])]
        return [torch.cat([s for layer in states for s in layer], -1)]

    def cells(self, x, states):
        """One call of every layer. States: per layer lists of [B, width], or None."""
        first, ends, at = x, [], 0
        for k, block in enumerate(self.blocks):
            i = x
            if self.between == "pre-norm" and self.norms[k].normalized_shape[0] == x.shape[-1]:
                i = self.norms[k](x)
            if states is None:
                s = None
            elif block.is_step:
                s = states[at]
            else:
                s = [torch.stack(v) if block.layers > 1 else v[0].unsqueeze(0) for v in zip(*states[at : at + block.layers])]
            y, end = block(i, s)
            ends += [end] if block.is_step else [[v[l] for v in end] for l in range(block.layers)]
            at += block.layers
            if k < len(self.blocks) - 1:
                if self.between == "dropout":
                    y = F.dropout(y, 0.2, self.training)
                elif self.between == "norm":
                    y = self.norms[k](y)
                elif self.between == "dense":
                    y = torch.relu(self.denses[k](y))
                elif self.between == "concat":
                    y = torch.cat([y, first], -1)
            if self.between in ("residual", "pre-norm") and y.shape[-1] == x.shape[-1]:
                y = y + x
            x = y
        return x, ends

    def forward(self, *args):
        states, tokens = list(args), None
        tokens = states.pop(-1 if self.names_first else 0)
        # Tokens as [B, S] or [S, B] ([.., V] for one-hot rows).
        if self.form == "scalar":
            tokens = tokens.reshape(1, 1)
        elif self.form == "1d":
            axis = int(self.batch_first) if self.one_d == "batch" else int(not self.batch_first)
            tokens = tokens.unsqueeze(axis)
        elif self.form == "3d":
            tokens = tokens.squeeze(-1)
        if self.form != "one-hot" and self.dtype not in (np.int64, np.int32):
            tokens = tokens.long()
            if self.clamped:
                tokens = tokens.clamp(0, self.vocabulary - 1)
        seq_axis = 1 if self.batch_first else 0
        batch = tokens.shape[1 - seq_axis]
        x = self.table(tokens)
        if self.embed == "scaled":
            x = x * x.shape[-1] ** 0.5
        elif self.embed in ("norm", "rms"):
            x = self.embed_norm(x)
        elif self.embed == "dense":
            x = self.embed_dense(x)
        elif self.embed == "relu":
            x = torch.relu(x)
        elif self.embed == "dropout":
            x = F.dropout(x, 0.3, self.training)
        first = x
        direct = not self.step and len(self.blocks) == 1 and self.state == "stacked"
        if direct:
            x, ends = self.blocks[0](x, states)
            if self.between == "residual":
                x = x + first
        elif self.step:
            states, ys = self.unpack(states, batch), []
            for t in range(self.unfold):
                y, states = self.cells(x[:, t] if self.batch_first else x[t], states)
                ys.append(y)
            ends = self.pack(states) if self.returns_states else []
            x = torch.stack(ys, seq_axis) if self.unfold > 1 else ys[0].unsqueeze(seq_axis)
        else:
            x, ends = self.cells(x, None if self.state == "none" else self.unpack(states, batch))
            ends = self.pack(ends) if self.returns_states else []
        if self.skip == "sum":
            x = x + self.skip_map(first)
        elif self.skip == "concat":
            x = torch.cat([x, first], -1)
        if self.before_head in ("norm", "rms"):
            x = self.head_norm(x)
        elif self.before_head == "dropout":
            x = F.dropout(x, 0.3, self.training)
        elif self.before_head == "relu":
            x = torch.relu(x)
        elif self.before_head == "scale":
            x = x * self.scale
        elif self.before_head in ("batch-norm", "group-norm"):
            x = self.head_norm(x.flatten(0, 1)).reshape(x.shape)
        if self.layout == "last":
            x = x[:, -1] if self.batch_first else x[-1]
        elif self.layout == "last-kept":
            x = x[:, -1:] if self.batch_first else x[-1:]
        elif self.layout == "flat":
            x = x.reshape(-1, x.shape[-1])
        x = self.scores(x)
        if self.layout == "transposed":
            x = x.transpose(1, 2)
        elif self.layout == "swapped":
            x = x.transpose(0, 1)
        elif self.layout == "rank-4":
            x = x.unsqueeze(1)
        if not self.returns_states:
            return x
        return (*ends, x) if self.names_first else (x, *ends)

    def scores(self, x):
        if self.head == "hidden":
            return self.dense(x) if hasattr(self, "dense") else x
        if self.head == "mixture":
            parts = [torch.softmax(d(x), -1) for d in (self.decoder, self.second)]
            w = torch.softmax(self.weights(x), -1)
            return parts[0] * w[..., :1] + parts[1] * w[..., 1:]
        if self.head == "adaptive":
            first = torch.log_softmax(self.decoder(x), -1)
            return torch.cat([first[..., : self.short], torch.log_softmax(self.rare(x), -1) + first[..., self.short :]], -1)
        if self.head == "glu":
            x = F.glu(self.pair(x), -1)
        elif self.head == "maxout":
            x = self.pair(x).reshape(*x.shape, 2).amax(-1)
        elif self.head == "cosine":
            return F.linear(F.normalize(x, dim=-1), F.normalize(self.decoder.weight, dim=-1)) * 8.0
        if self.head == "two":
            x = ACTIVATIONS[self.activation](self.first(x))
        if self.head == "tied":
            x = self.fit(x) if hasattr(self, "fit") else x
            y = self.decoder(x) if self.form == "one-hot" else F.linear(x, self.table.weight, self.bias)
        else:
            y = self.decoder(x)
        tail = self.tail
        if tail == "log-softmax":
            return torch.log_softmax(y, -1)
        if tail == "softmax":
            return torch.softmax(y, -1)
        if tail == "scaled":
            return y / 0.7
        if tail == "capped":
            return 5.0 * torch.tanh(y / 5.0)
        if tail == "cost":
            return -torch.log_softmax(y, -1)
        if tail == "negated":
            return -y
        if tail == "masked":
            return y + self.mask
        if tail == "log-of-softmax":
            return torch.log(torch.softmax(y, -1))
        if tail == "clamped":
            return torch.clamp(y, -1.5, 1.5)
        return y

    def tokens(self, ids):
        """The token input for ids [S, B]."""
        x = ids.T if self.batch_first else ids
        if self.form == "scalar":
            x = x.reshape(())
        elif self.form == "1d":
            x = x.reshape(-1)
        elif self.form == "3d":
            x = x[..., None]
        elif self.form == "one-hot":
            x = np.eye(self.vocabulary)[x]
        return np.ascontiguousarray(x.astype(self.dtype))

    def rows(self, output, seq, batch):
        """The scores as [S, B, words], or the last step's as [1, B, words]."""
        if self.layout in ("last", "last-kept"):
            return output.reshape(1, batch, self.width)
        if self.layout == "transposed":
            output = output.swapaxes(1, 2)
        batch_first = self.batch_first != (self.layout == "swapped")
        return output.reshape(batch, seq, self.width).swapaxes(0, 1) if batch_first else output.reshape(seq, batch, self.width)


def export(model, exporter, opset, named, own_names):
    """The model, and the names of its token input, state inputs, output and next states. `named`: dims have names; `own_names`: values keep the exporter's."""
    seq, batch = (4 if model.dynamic["seq"] else model.fixed[0]), (2 if model.dynamic["batch"] else model.fixed[1])
    ids = np.arange(seq * batch).reshape(seq, batch) % model.vocabulary
    shapes = model.state_shapes(batch)
    samples = [torch.from_numpy(np.array(model.tokens(ids)))]
    states = [torch.zeros(s) for s in shapes.values()]
    sample = tuple(states + samples if model.names_first else samples + states)
    names = list(shapes) + ["tokens"] if model.names_first else ["tokens", *shapes]
    # Which axes of each input vary: found by comparing the shapes of two sizes.
    other = [(*model.tokens(np.zeros((seq, batch + 1), int)).shape,)] if batch and model.dynamic["batch"] else None
    axes = {name: {} for name in names}
    if model.dynamic["batch"]:
        big = {"tokens": other[0], **model.state_shapes(batch + 1)}
        for name, value in zip(names, sample):
            for a, (x, y) in enumerate(zip(value.shape, big[name])):
                if x != y:
                    axes[name][a] = "batch"
    if model.dynamic["seq"]:
        longer = model.tokens(np.zeros((seq + 1, batch), int)).shape
        index = names.index("tokens")
        for a, (x, y) in enumerate(zip(sample[index].shape, longer)):
            if x != y:
                axes["tokens"][a] = "seq"
    result = model(*sample)
    count = len(result) if isinstance(result, tuple) else 1
    ends = [f"next_{k}" for k in range(count - 1)]
    outputs = [*ends, model.output] if model.names_first else [model.output, *ends]
    file = io.BytesIO()
    options = {"opset_version": opset} if own_names else {"input_names": names, "output_names": outputs, "opset_version": opset}
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "torchscript":
            given = {} if own_names else {k: v if named else list(v) for k, v in axes.items() if v}
            torch.onnx.export(model, sample, file, dynamo=False, dynamic_axes=given, **options)
            found = onnx.load_from_string(file.getvalue())
            return found, names_of(model, found.graph)
        torch._dynamo.reset()
        dims = {"batch": torch.export.Dim("batch", min=1), "seq": torch.export.Dim("seq", min=1)}
        shapes = tuple({a: dims[d] if named else torch.export.Dim.DYNAMIC for a, d in axes[name].items()} for name in names)
        program = torch.onnx.export(model, sample, dynamo=True, external_data=False, verbose=False, dynamic_shapes=(shapes,), **options)
        return program.model_proto, names_of(model, program.model_proto.graph)


def names_of(model, graph):
    inputs, outputs = [[v.name for v in values] for values in (graph.input, graph.output)]
    tokens, output = (-1 if model.names_first else 0), (-1 if model.names_first and model.returns_states else 0)
    return inputs.pop(tokens), inputs, outputs.pop(output), outputs
