"""Recurrent cells in PyTorch. Used by random_torch.py."""

import torch
from torch import nn
from torch.nn import functional as F


class Sequence(nn.Module):
    """One of PyTorch's own recurrent layers (neither exporter writes a valid LSTM with `proj_size`), over a sequence [S, B, inputs] with states [layers, B, width]."""

    is_step = False

    def __init__(self, kind, inputs, units, layers=1, bias=True, batch_first=False):
        super().__init__()
        options = dict(num_layers=layers, bias=bias, batch_first=batch_first, dropout=0.1 if layers > 1 else 0.0)
        self.layers, self.out, self.widths = layers, units, [units]
        if kind == "lstm":
            self.cell, self.widths = nn.LSTM(inputs, units, **options), [units, units]
        elif kind == "gru":
            self.cell = nn.GRU(inputs, units, **options)
        else:
            self.cell = nn.RNN(inputs, units, nonlinearity=kind.removeprefix("rnn-"), **options)

    def forward(self, x, states):
        if states is None:
            y, ends = self.cell(x)
        else:
            y, ends = self.cell(x, tuple(states) if len(states) > 1 else states[0])
        return y, list(ends) if isinstance(ends, tuple) else [ends]


class Step(nn.Module):
    """A cell for one step: x [B, inputs] and states [B, width]."""

    is_step, layers = True, 1

    def __init__(self, kind, inputs, units, bias=True):
        super().__init__()
        self.kind, self.out, n = kind, units, units
        self.widths = [n]
        linear = lambda i, o, b=bias: nn.Linear(i, o, bias=b)
        vector = lambda *shape: nn.Parameter(torch.randn(shape) * 0.5)
        self.n = n
        if kind in ("lstm-cell", "gru-cell", "rnn-cell"):
            self.cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[kind[:-5]](inputs, n, bias=bias)
            self.widths = [n, n] if kind == "lstm-cell" else [n]
        elif kind in ("lstm-normed", "lstm-peephole", "lstm-coupled", "lstm-clipped", "lstm-multiplicative", "lstm-mogrifier", "lstm-projected-cell"):
            self.widths = [n, n]
            self.x, self.h = linear(inputs, 4 * n), linear(n, 4 * n, False)
            if kind == "lstm-normed":
                self.nx, self.nh, self.nc = nn.LayerNorm(4 * n), nn.LayerNorm(4 * n), nn.LayerNorm(n)
            elif kind == "lstm-peephole":
                self.p = vector(3, n)
            elif kind == "lstm-coupled":
                self.x, self.h = linear(inputs, 3 * n), linear(n, 3 * n, False)
            elif kind == "lstm-multiplicative":
                self.mx, self.mh = linear(inputs, n, False), linear(n, n, False)
            elif kind == "lstm-mogrifier":
                self.q, self.r = linear(n, inputs), linear(inputs, n)
            elif kind == "lstm-projected-cell":
                self.out = max(2, n - 2)
                self.h, self.proj, self.widths = linear(self.out, 4 * n, False), linear(n, self.out, False), [self.out, n]
        elif kind == "gru-normed":
            self.x, self.h = linear(inputs, 3 * n), linear(n, 3 * n)
            self.nx, self.nh = nn.LayerNorm(3 * n), nn.LayerNorm(3 * n)
        elif kind == "gru-before":
            self.x, self.zr, self.hh = linear(inputs, 3 * n), linear(n, 2 * n, False), linear(n, n, False)
        elif kind == "gru-light":
            self.x, self.h = linear(inputs, 2 * n), linear(n, 2 * n, False)
        elif kind in ("min-gru", "min-gru-log"):
            self.z, self.c = linear(inputs, n), linear(inputs, n)
        elif kind == "min-lstm":
            self.f, self.i, self.c = linear(inputs, n), linear(inputs, n), linear(inputs, n)
        elif kind == "janet":
            self.widths = [n, n]
            self.x, self.h = linear(inputs, 2 * n), linear(n, 2 * n, False)
        elif kind == "sru":
            self.x, self.v, self.skip = linear(inputs, 3 * n), vector(2, n), linear(inputs, n, False)
        elif kind == "ind-rnn":
            self.x, self.u = linear(inputs, n), vector(n)
        elif kind == "fast-grnn":
            self.x, self.h = linear(inputs, n, False), linear(n, n, False)
            self.bz, self.bh, self.zeta, self.nu = vector(n), vector(n), vector(1), vector(1)
        elif kind == "ugrnn":
            self.x, self.h = linear(inputs, 2 * n), linear(n, 2 * n, False)
        elif kind == "antisymmetric":
            self.x, self.h = linear(inputs, n), vector(n, n)
        elif kind == "rwkv-time-mix":
            self.widths = [inputs, n, n]
            self.mix, self.decay, self.first = vector(3, inputs), vector(n), vector(n)
            self.k, self.v, self.r, self.o = linear(inputs, n, False), linear(inputs, n, False), linear(inputs, n, False), linear(n, n, False)
        elif kind == "s-lstm":
            self.widths = [n, n, n, n]
            self.x, self.h = linear(inputs, 4 * n), linear(n, 4 * n, False)
        elif kind == "lmu-like":
            self.widths = [n, n]
            self.ex, self.eh, self.em = linear(inputs, 1, False), linear(n, 1, False), linear(n, 1, False)
            self.wx, self.wh, self.wm, self.a, self.b = linear(inputs, n), linear(n, n, False), linear(n, n, False), vector(n, n), vector(n)
        elif kind == "elman-clipped":
            self.x, self.h = linear(inputs, n), linear(n, n)
        elif kind == "s4d":  # a bank of 3 decays for each feature, state [B, 3 n]
            self.x, self.widths, self.a, self.b, self.c, self.d = linear(inputs, n), [3 * n], vector(n, 3), vector(n, 3), vector(n, 3), vector(n)
        elif kind == "linear-attention":  # state: a matrix [3, n]
            self.q, self.k, self.v, self.widths, self.decay = linear(inputs, 3), linear(inputs, 3), linear(inputs, n), [3 * n], vector(3, 1)
        elif kind == "mamba":
            self.x, self.dt, self.bc, self.a, self.widths = linear(inputs, n), linear(inputs, n), linear(inputs, 6), vector(n, 3), [3 * n]
        elif kind == "qrnn":  # a causal convolution over two steps, then gates
            self.x, self.widths = linear(2 * inputs, 3 * n), [inputs, n]
        elif kind == "conv-cache":
            self.kernel, self.x, self.widths = vector(inputs, 3), linear(inputs, n), [2 * inputs, n]
        elif kind == "highway":
            self.x, self.h, self.t = linear(inputs, 2 * n), linear(n, 2 * n, False), linear(n, 2 * n)
        else:
            raise ValueError(kind)

    def forward(self, x, states):
        kind = self.kind
        h = states[0]
        if kind == "lstm-cell":
            h, c = self.cell(x, (h, states[1]))
            return h, [h, c]
        if kind in ("gru-cell", "rnn-cell"):
            h = self.cell(x, h)
            return h, [h]
        if kind == "lstm-coupled":
            i, g, o = (self.x(x) + self.h(h)).chunk(3, -1)
            i = torch.sigmoid(i)
            c = (1 - i) * states[1] + i * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            return h, [h, c]
        if kind.startswith("lstm-"):
            c = states[1]
            if kind == "lstm-mogrifier":
                x = 2 * torch.sigmoid(self.q(h)) * x
                h = 2 * torch.sigmoid(self.r(x)) * h
            if kind == "lstm-multiplicative":
                h = self.mx(x) * self.mh(h)
            gates = self.nx(self.x(x)) + self.nh(self.h(h)) if kind == "lstm-normed" else self.x(x) + self.h(h)
            i, f, g, o = gates.chunk(4, -1)
            if kind == "lstm-peephole":
                i, f = i + self.p[0] * c, f + self.p[1] * c
            c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(g)
            if kind == "lstm-clipped":
                c = torch.clamp(c, -0.6, 0.6)
            if kind == "lstm-peephole":
                o = o + self.p[2] * c
            h = torch.sigmoid(o) * torch.tanh(self.nc(c) if kind == "lstm-normed" else c)
            if kind == "lstm-projected-cell":
                h = torch.clamp(self.proj(h), -0.5, 0.5)
            return h, [h, c]
        if kind == "gru-normed":
            xr, xz, xn = self.nx(self.x(x)).chunk(3, -1)
            hr, hz, hn = self.nh(self.h(h)).chunk(3, -1)
            z = torch.sigmoid(xz + hz)
            h = (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * h
        elif kind == "gru-before":
            xz, xr, xn = self.x(x).chunk(3, -1)
            hz, hr = self.zr(h).chunk(2, -1)
            z, r = torch.sigmoid(xz + hz), torch.sigmoid(xr + hr)
            h = z * h + (1 - z) * torch.tanh(xn + self.hh(r * h))
        elif kind == "gru-light":
            z, n = (self.x(x) + self.h(h)).chunk(2, -1)
            z = torch.sigmoid(z)
            h = z * h + (1 - z) * torch.relu(n)
        elif kind == "min-gru":
            z = torch.sigmoid(self.z(x))
            h = (1 - z) * h + z * self.c(x)
        elif kind == "min-gru-log":
            z, c = torch.sigmoid(self.z(x)), self.c(x)
            h = torch.lerp(h, torch.where(c >= 0, c + 0.5, torch.sigmoid(c)), z)
        elif kind == "min-lstm":
            f, i = torch.sigmoid(self.f(x)), torch.sigmoid(self.i(x))
            h = f / (f + i) * h + i / (f + i) * self.c(x)
        elif kind == "janet":
            s, g = (self.x(x) + self.h(h)).chunk(2, -1)
            c = torch.sigmoid(s) * states[1] + (1 - torch.sigmoid(s - 1.0)) * torch.tanh(g)
            return c, [c, c]
        elif kind == "sru":
            u, f, r = self.x(x).chunk(3, -1)
            f, r = torch.sigmoid(f + self.v[0] * h), torch.sigmoid(r + self.v[1] * h)
            h = f * h + (1 - f) * u
            return r * h + (1 - r) * self.skip(x), [h]
        elif kind == "ind-rnn":
            h = torch.relu(self.x(x) + self.u * h)
        elif kind == "fast-grnn":
            s = self.x(x) + self.h(h)
            z = torch.sigmoid(s + self.bz)
            h = (torch.sigmoid(self.zeta) * (1 - z) + torch.sigmoid(self.nu)) * torch.tanh(s + self.bh) + z * h
        elif kind == "ugrnn":
            g, c = (self.x(x) + self.h(h)).chunk(2, -1)
            g = torch.sigmoid(g + 1.0)
            h = g * h + (1 - g) * torch.tanh(c)
        elif kind == "antisymmetric":
            h = h + 0.1 * torch.tanh(self.x(x) + h @ (self.h - self.h.T - 0.01 * torch.eye(self.n)))
        elif kind == "rwkv-time-mix":
            last, num, den = states
            k, v, r = (m * x + (1 - m) * last for m in torch.sigmoid(self.mix))
            k, v, r = torch.exp(self.k(k)), self.v(v), torch.sigmoid(self.r(r))
            bonus = torch.exp(self.first) * k
            y = self.o(r * (num + bonus * v) / (den.abs() + bonus))
            w = torch.exp(-torch.exp(self.decay))
            return y, [x, w * num + k * v, w * den.abs() + k]
        elif kind == "s-lstm":
            c, n, m = states[1:]
            i, f, z, o = (self.x(x) + self.h(h)).chunk(4, -1)
            f = F.logsigmoid(f) + m
            m = torch.maximum(f, i)
            i, f = torch.exp(i - m), torch.exp(f - m)
            c, n = f * c + i * torch.tanh(z), f * n + i
            h = torch.sigmoid(o) * c / (n.abs() + 0.5)
            return h, [h, c, n, m]
        elif kind == "lmu-like":
            m = states[1]
            u = self.ex(x) + self.eh(h) + self.em(m)
            m = m @ self.a + u * self.b
            h = torch.tanh(self.wx(x) + self.wh(h) + self.wm(m))
            return h, [h, m]
        elif kind == "s4d":
            state = torch.exp(-torch.exp(self.a)) * h.reshape(-1, self.n, 3) + self.b * self.x(x).unsqueeze(-1)
            return (state * self.c).sum(-1) + self.d * self.x(x), [state.flatten(1)]
        elif kind == "linear-attention":
            k, v, q = torch.relu(self.k(x)), self.v(x), torch.relu(self.q(x))
            state = torch.sigmoid(self.decay) * h.reshape(-1, 3, self.n) + k.unsqueeze(2) * v.unsqueeze(1)
            return torch.einsum("bk,bkn->bn", q, state), [state.flatten(1)]
        elif kind == "mamba":
            dt, x = F.softplus(self.dt(x)).unsqueeze(-1), (self.x(x), self.bc(x))
            b, c = x[1].chunk(2, -1)
            state = torch.exp(-dt * torch.exp(self.a)) * h.reshape(-1, self.n, 3) + dt * b.unsqueeze(1) * x[0].unsqueeze(-1)
            return (state * c.unsqueeze(1)).sum(-1), [state.flatten(1)]
        elif kind == "qrnn":
            z, f, o = self.x(torch.cat([h, x], -1)).chunk(3, -1)
            f = torch.sigmoid(f)
            c = f * states[1] + (1 - f) * torch.tanh(z)
            return torch.sigmoid(o) * c, [x, c]
        elif kind == "conv-cache":
            cache = torch.cat([h.reshape(h.shape[0], -1, 2), x.unsqueeze(-1)], -1)
            z = torch.sigmoid(self.x(F.silu((cache * self.kernel).sum(-1))))
            h = z * states[1] + (1 - z) * self.x(x)
            return h, [cache[..., 1:].flatten(1), h]
        elif kind == "elman-clipped":
            h = F.hardtanh(self.x(x) + self.h(h))
        elif kind == "highway":
            g, t = (self.x(x) + self.h(h)).chunk(2, -1)
            h = torch.tanh(g) * torch.sigmoid(t) + h * (1 - torch.sigmoid(t))
            g, t = self.t(h).chunk(2, -1)
            h = torch.tanh(g) * torch.sigmoid(t) + h * (1 - torch.sigmoid(t))
        return h, [h]
