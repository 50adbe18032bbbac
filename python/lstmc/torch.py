"""A compressed model as a module of PyTorch, whose parameters are the compressed ones, and back.

>>> import torch
>>> from lstmc.torch import from_torch, to_torch
>>> module = to_torch(model)
>>> logits, state = module(torch.zeros(3, 2, dtype=torch.long))
>>> logits.shape
torch.Size([3, 2, 32])
>>> from_torch(module).ir() == model.ir()
True

A module trains with any optimiser, on any device, in mixed precision and in several processes. Its parameters are

| representation | parameters | fixed |
|---|---|---|
| dense | the matrix or vector | |
| quantized | the numbers that are rounded to codes, scales, factors of columns | zero points |
| sparse | those of its values | the mask |
| low rank | those of both factors | |
| tensor train | those of all cores | |

Parts that weights share are one module. Codes are trained straight through (Bengio et al. 2013): a number is rounded in the forward pass and gets the gradient of what it is
rounded to; scales get that of learned step sizes (LSQ: Esser et al. 2020, equation 3). Where products take their vectors as int8, vectors are rounded in the forward pass as in the kernels.

The module runs the model's program (`Program` in lstmc's IR), so all models that lstmc takes are modules: LSTM, GRU, RNN, written-out cells, norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional, Union, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._native import Model

__all__ = ["Dense", "LowRank", "Network", "Part", "Quantized", "Sparse", "TensorTrain", "balance", "from_torch", "parameters_of", "to_torch"]

State = tuple[Tensor, ...]
Multiplier = Callable[[Tensor], Tensor]

# The smallest magnitude that a vector is quantized with, so that a vector of zeros has a scale.
_LEAST = 1e-30


def _rounded(x: Tensor) -> Tensor:
    """`x` as int8 with one scale for each vector, straight through: `[.., in]`."""
    largest = x.detach().abs().amax(dim=-1, keepdim=True).clamp_min(_LEAST)
    codes = torch.round(x.detach() * (127.0 / largest))
    return x + (codes * (largest / 127.0) - x.detach())


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    return x * factor + (x * (1.0 - factor)).detach()


class Part(nn.Module):
    """A linear map, `[out, in]`, or a constant of another rank."""

    number: int
    kind: str

    def __init__(self, number: int, described: dict[str, Any]) -> None:
        super().__init__()
        self.number = number
        self.kind = described["kind"]
        self.shape = tuple(described["shape"])

    def matrix(self) -> Tensor:
        """The map as a matrix, `[out, in]`."""
        raise NotImplementedError

    def multiplier(self, kept: Optional[Tensor] = None) -> Multiplier:
        """The function of products with vectors, `[.., in]` to `[.., out]`, with its matrices made once. `kept` is a mask over the matrix."""
        matrix = self.matrix() if kept is None else self.matrix() * kept

        def multiply(x: Tensor) -> Tensor:
            return F.linear(x, matrix)

        return multiply

    def multiply(self, x: Tensor) -> Tensor:
        """Products with vectors: `[.., in]` to `[.., out]`."""
        return self.multiplier()(x)

    def rows(self, tokens: Tensor) -> Tensor:
        """Rows of the matrix: `[..]` to `[.., in]`."""
        return F.embedding(tokens, self.matrix())

    def tensors(self) -> dict[str, np.ndarray[Any, Any]]:
        """The tensors of this part alone, by name, as numbers that `lstmc` stores."""
        return {}


def _parameter(array: np.ndarray[Any, Any]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array.astype(np.float32)))


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor that several processes may have parts of."""
    full: Any = getattr(tensor, "full_tensor", None)
    return tensor.detach() if full is None else cast(Tensor, full()).detach()


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return cast("np.ndarray[Any, Any]", _whole(tensor).to("cpu", torch.float32).numpy())


class Dense(Part):
    """The numbers themselves."""

    def __init__(self, number: int, described: dict[str, Any]) -> None:
        super().__init__(number, described)
        self.data = _parameter(described["data"])

    def matrix(self) -> Tensor:
        return self.data

    def tensors(self) -> dict[str, np.ndarray[Any, Any]]:
        return {"data": _array(self.data)}


class Quantized(Part):
    """Codes with scales: `matrix[i, j] = scales[i, j / group] (codes[i, j] - zero_points[i, j / group]) columns[j]`."""

    codes: Tensor
    zero_points: Tensor

    def __init__(self, number: int, described: dict[str, Any], rounds: bool) -> None:
        super().__init__(number, described)
        self.group: int = described["group"]
        self.low, self.high = described["range"]
        self.rounds = rounds and bool(described["int8"])
        self.scales = _parameter(described["scales"])
        columns = described.get("columns")
        self.columns = None if columns is None else _parameter(columns)
        zero_points = described.get("zero_points")
        self.has_zero_points = zero_points is not None
        if zero_points is None:
            zero_points = np.zeros(described["scales"].shape, np.int8)
        self.register_buffer("zero_points", torch.from_numpy(zero_points.copy()))
        # What codes are where a scale is zero, and nothing else can tell.
        self.register_buffer("codes", torch.from_numpy(described["codes"].copy()))
        with torch.no_grad():
            step = self._spread(self.scales)
            if self.columns is not None:
                step = step * self.columns
            latent = (self.codes - self._spread(self.zero_points)) * step
        # The numbers that are rounded, in units of the weights.
        self.latent = nn.Parameter(latent)

    def _spread(self, groups: Tensor) -> Tensor:
        """`[out, groups]` to `[out, in]`."""
        columns = self.codes.shape[1]
        if groups.shape[1] == 1:
            return groups.expand(-1, columns)
        return groups.repeat_interleave(self.group, dim=1)[:, :columns]

    def _steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """The step of each number, the range of codes counted from the zero points: `[out, in]` each."""
        zero_points = self._spread(self.zero_points)
        # LSQ, section 2.2: gradients of scales are as small as those of weights.
        largest = max(self.high, 1)
        scales = _scaled_gradient(self.scales, 1.0 / math.sqrt(self.group * largest))
        step = self._spread(scales)
        if self.columns is not None:
            rows = self.latent.shape[0]
            step = step * _scaled_gradient(self.columns, 1.0 / math.sqrt(rows * largest))
        return step, self.low - zero_points, self.high - zero_points

    def _codes(self, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Codes counted from the zero points, straight through: the gradient of a number within their range."""
        safe = torch.where(step == 0, torch.ones_like(step), step)
        steps = torch.where(step == 0, torch.zeros_like(step), self.latent / safe)
        within = torch.maximum(torch.minimum(steps, high.to(steps.dtype)), low.to(steps.dtype))
        return within + (torch.round(within) - within).detach()

    def matrix(self) -> Tensor:
        step, low, high = self._steps()
        return self._codes(step, low, high) * step

    def multiplier(self, kept: Optional[Tensor] = None) -> Multiplier:
        if not self.rounds:
            return super().multiplier(kept)
        # As in the kernels: the vector is multiplied by the columns, and then rounded.
        matrix, columns = self.matrix(), self.columns
        if columns is not None:
            matrix = matrix / torch.where(columns == 0, torch.ones_like(columns), columns)
        if kept is not None:
            matrix = matrix * kept

        def multiply(x: Tensor) -> Tensor:
            return F.linear(_rounded(x if columns is None else x * columns), matrix)

        return multiply

    @torch.no_grad()
    def tensors(self) -> dict[str, np.ndarray[Any, Any]]:
        step, low, high = self._steps()
        codes = self._codes(step, low, high) + self._spread(self.zero_points)
        codes = torch.where(step == 0, self.codes.to(codes.dtype), codes)
        found = {"codes": codes.to("cpu", torch.int8).numpy(), "scales": _array(self.scales)}
        if self.columns is not None:
            found["columns"] = _array(self.columns)
        if self.has_zero_points:
            found["zero_points"] = self.zero_points.cpu().numpy()
        return found


class Sparse(Part):
    """A mask over values."""

    kept: Tensor

    def __init__(self, number: int, described: dict[str, Any], values: Part) -> None:
        super().__init__(number, described)
        self.values = values
        kept = torch.from_numpy(described["kept"].reshape(self.shape))
        self.register_buffer("kept", kept)

    def matrix(self) -> Tensor:
        return self.values.matrix() * self.kept

    def multiplier(self, kept: Optional[Tensor] = None) -> Multiplier:
        return self.values.multiplier(self.kept)


class LowRank(Part):
    """`left right`."""

    def __init__(self, number: int, described: dict[str, Any], left: Part, right: Part) -> None:
        super().__init__(number, described)
        self.left = left
        self.right = right

    def matrix(self) -> Tensor:
        return self.left.matrix() @ self.right.matrix()

    def multiplier(self, kept: Optional[Tensor] = None) -> Multiplier:
        left, right = self.left.multiplier(), self.right.multiplier()
        return lambda x: left(right(x))

    def rows(self, tokens: Tensor) -> Tensor:
        return self.left.rows(tokens) @ self.right.matrix()


class TensorTrain(Part):
    """A chain of cores (Oseledets 2011): core `k` is `[r(k-1), out_modes[k], in_modes[k], r(k)]`."""

    def __init__(self, number: int, described: dict[str, Any], cores: Sequence[Part]) -> None:
        super().__init__(number, described)
        self.cores = nn.ModuleList(cores)
        self.out_modes: list[int] = list(described["out_modes"])
        self.in_modes: list[int] = list(described["in_modes"])

    def _cores(self) -> list[Tensor]:
        found: list[Tensor] = []
        for core, out_mode, in_mode in zip(self.cores, self.out_modes, self.in_modes):
            matrix = cast(Part, core).matrix()
            found.append(matrix.reshape(matrix.shape[0] // out_mode, out_mode, in_mode, -1))
        return found

    def matrix(self) -> Tensor:
        cores = self._cores()
        chain = cores[0].new_ones(1, 1, 1)  # [rows, columns, rank]
        for core in cores:
            _, out_mode, in_mode, following = core.shape
            rows, columns, _ = chain.shape
            product = torch.einsum("ija,amnb->imjnb", chain, core)
            chain = product.reshape(rows * out_mode, columns * in_mode, following)
        return chain[: self.shape[0], : self.shape[1], 0]

    def rows(self, tokens: Tensor) -> Tensor:
        flat, digits = tokens.reshape(-1), list[Tensor]()
        rest = flat
        for mode in reversed(self.out_modes):
            digits.append(rest % mode)
            rest = torch.div(rest, mode, rounding_mode="floor")
        cores = self._cores()
        chain = cores[0].new_ones(flat.shape[0], 1, 1)  # [tokens, columns, rank]
        for core, digit in zip(cores, reversed(digits)):
            chain = torch.einsum("tja,atnb->tjnb", chain, core[:, digit]).flatten(1, 2)
        return chain[:, : self.shape[1], 0].reshape(*tokens.shape, self.shape[1])


def _part(number: int, described: list[dict[str, Any]], made: dict[int, Part], rounds: bool) -> Part:
    """A part with the parts inside of it; one that is shared is made once."""
    if number in made:
        return made[number]
    row = described[number]
    inner = [_part(n, described, made, rounds) for n in row["parts"]]
    kind = row["kind"]
    if kind == "dense":
        part: Part = Dense(number, row)
    elif kind == "quantized":
        part = Quantized(number, row, rounds)
    elif kind == "sparse":
        part = Sparse(number, row, inner[0])
    elif kind == "low_rank":
        part = LowRank(number, row, inner[0], inner[1])
    else:
        part = TensorTrain(number, row, inner)
    made[number] = part
    return part


def _primitive(name: str, x: Tensor) -> Tensor:
    if name == "tanh":
        return torch.tanh(x)
    if name == "sigmoid":
        return torch.sigmoid(x)
    if name == "exp":
        return torch.exp(x)
    if name == "ln1p":
        return torch.log1p(x)
    if name == "ln":
        return torch.log(x)
    return torch.sqrt(x)


def _formula(formula: Any, inputs: Sequence[Any]) -> list[Tensor]:
    """The results of an elementwise formula. Inputs are tensors, or functions that make them when they are needed."""
    terms, results = formula
    values: list[Any] = []
    for term in terms:
        operation = term[0]
        if operation == "input":
            value = inputs[term[1]]
        elif operation == "constant":
            value = term[1]
        elif operation == "add":
            value = values[term[1]] + values[term[2]]
        elif operation == "sub":
            value = values[term[1]] - values[term[2]]
        elif operation == "mul":
            value = values[term[1]] * values[term[2]]
        elif operation == "div":
            value = values[term[1]] / values[term[2]]
        elif operation in ("max", "min"):
            a, b = values[term[1]], values[term[2]]
            like = a if isinstance(a, Tensor) else b
            a, b = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (a, b))
            value = torch.maximum(a, b) if operation == "max" else torch.minimum(a, b)
        elif operation == "mul_add":
            value = values[term[1]] * values[term[2]] + values[term[3]]
        elif operation == "select":
            less, then, otherwise = values[term[1]] < values[term[2]], values[term[3]], values[term[4]]
            like = next(v for v in (less, then, otherwise) if isinstance(v, Tensor))
            then, otherwise = (torch.as_tensor(v, device=like.device) for v in (then, otherwise))
            value = torch.where(torch.as_tensor(less, device=like.device), then, otherwise)
        else:
            value = _primitive(operation, values[term[1]])
        values.append(value)
    return [values[r] for r in results]


class Network(nn.Module):
    """A model's program. `dropout` is the fraction of the inputs of cells and linear layers that is left out in training (Zaremba et al. 2014)."""

    def __init__(self, model: Model, round_activations: bool = True) -> None:
        super().__init__()
        program = model._program()
        self.model = model
        self.dropout = 0.0
        self.words: int = program["words"]
        self.steps: list[dict[str, Any]] = program["steps"]
        self.groups: list[tuple[list[int], bool]] = program["groups"]
        self.states: list[dict[str, Any]] = program["states"]
        self.output: int = program["output"]
        made: dict[int, Part] = {}
        self.weights = nn.ModuleDict()
        self._names: list[str] = []
        for name, number in program["weights"]:
            key = name.replace(".", "_")
            while key in self.weights:
                key += "_"
            self._names.append(key)
            self.weights[key] = _part(number, program["parts"], made, round_activations)

    def _weight(self, number: int) -> Part:
        return cast(Part, self.weights[self._names[number]])

    def _constant(self, number: Optional[int]) -> Optional[Tensor]:
        return None if number is None else self._weight(number).matrix().flatten()

    def initial_state(self, batch: int) -> State:
        """The state at the beginning of a text, for so many streams: `[batch, width]` each."""
        any_parameter = next(self.parameters())
        found: list[Tensor] = []
        for state in self.states:
            initial = self._constant(state["initial"])
            if initial is None:
                initial = any_parameter.new_zeros(state["width"])
            found.append(initial.expand(batch, -1))
        return tuple(found)

    def forward(self, tokens: Tensor, state: Optional[State] = None) -> tuple[Tensor, State]:
        """Logits (or the model's hidden vectors) after each token, `[time, batch, words]`, and the state after the last, from that before the first.

        `tokens` are `[time, batch]`. Detach the state between windows, or gradients go back through all of them.
        """
        if state is None:
            state = self.initial_state(tokens.shape[1])
        run = _Run(self, tokens, list(state))
        for steps, is_recurrent in self.groups:
            if is_recurrent:
                run.recurrence(steps)
            else:
                run.whole(steps[0])
        return run.sequences[self.output], run.final()


class _Run:
    """A forward pass over a window."""

    def __init__(self, network: Network, tokens: Tensor, state: list[Tensor]) -> None:
        self.network = network
        self.tokens = tokens
        self.start = state
        self.end: list[Optional[Tensor]] = [None] * len(state)
        self.sequences: dict[int, Tensor] = {}
        # Of the maps of a recurrence.
        self.multipliers: dict[int, Multiplier] = {}

    def final(self) -> State:
        """The state after the window."""
        found: list[Tensor] = []
        for number, state in enumerate(self.network.states):
            end = self.end[number]
            found.append(self.sequences[state["next"]][-1] if end is None else end)
        return tuple(found)

    def _sequence(self, x: Any) -> Tensor:
        """A slice, `[time, batch, features]`."""
        of_state, number, first, width = x
        if of_state:
            # Before each step: what the step before computed.
            following = self.sequences[self.network.states[number]["next"]]
            sequence = torch.cat([self.start[number][None], following[:-1]])
        else:
            sequence = self.sequences[number]
        if first == 0 and width == sequence.shape[-1]:
            return sequence
        return sequence[..., first : first + width]

    def _dropped(self, x: Tensor) -> Tensor:
        network = self.network
        return F.dropout(x, network.dropout, network.training) if network.dropout > 0 else x

    def whole(self, number: int) -> None:
        """A step for the whole window at once."""
        step = self.network.steps[number]
        if step["kind"] == "cell":
            self.sequences[number] = self._cell(step)
        else:
            self.sequences[number] = self._compute(step, self._sequence, self.tokens)

    def recurrence(self, steps: list[int]) -> None:
        """Steps that run together, once for each time step."""
        network, members = self.network, set(steps)
        # The stepwise states that these steps compute.
        own = {k: s["next"] for k, s in enumerate(network.states) if s["stepwise"] and s["next"] in members}
        current = {k: self.start[k] for k in own}
        weights = {w for s in steps for _, w in network.steps[s].get("terms", ())}
        self.multipliers = {w: network._weight(w).multiplier() for w in weights}
        found: dict[int, list[Tensor]] = {s: [] for s in steps}
        for time in range(self.tokens.shape[0]):
            now: dict[int, Tensor] = {}

            def read(x: Any, time: int = time, now: dict[int, Tensor] = now) -> Tensor:
                of_state, number, first, width = x
                if of_state:
                    value = current[number] if number in current else self._sequence(x)[time]
                else:
                    value = now[number] if number in now else self.sequences[number][time]
                return value if value.shape[-1] == width else value[..., first : first + width]

            for s in steps:
                now[s] = self._compute(network.steps[s], read, self.tokens[time])
                found[s].append(now[s])
            current = {k: now[s] for k, s in own.items()}
        for s in steps:
            self.sequences[s] = torch.stack(found[s])

    def _compute(self, step: dict[str, Any], read: Any, tokens: Tensor) -> Tensor:
        """A step that is no cell; `read` gives slices, of the window or of a time step."""
        network, kind = self.network, step["kind"]
        if kind == "embed":
            return network._weight(step["table"]).rows(tokens)
        if kind == "apply":
            bias = network._constant(step["bias"])
            total: Optional[Tensor] = None
            for x, weight in step["terms"]:
                known = self.multipliers.get(weight)
                multiply = network._weight(weight).multiply if known is None else known
                product = multiply(self._dropped(read(x)))
                total = product if total is None else total + product
            assert total is not None, "a step has at least one term"
            return total if bias is None else total + bias
        if kind == "map":
            operands = [
                network._constant(o) if isinstance(o, int) else read(o)
                for o in step["operands"]
            ]
            (result,) = _formula(step["formula"], operands)
            return result
        if kind == "norm":
            scale, shift = (network._constant(step[name]) for name in ("scale", "shift"))
            x = read(step["x"])
            return F.layer_norm(x, (x.shape[-1],), scale, shift, step["epsilon"])
        if kind == "log_softmax":
            return F.log_softmax(read(step["x"]), dim=-1)
        return torch.cat([read(x) for x in step["parts"]], dim=-1)

    def _cell(self, step: dict[str, Any]) -> Tensor:
        """A recurrent cell over the window."""
        network = self.network
        units, formula = step["width"], step["formula"]
        of_input, of_recurrent, of_bias = step["rows"]
        from_input = network._weight(step["input"]).multiply(self._dropped(self._sequence(step["x"])))
        bias = cast(Tensor, network._constant(step["bias"]))
        recurrent = network._weight(step["recurrent"])
        vectors = network._constant(step["parameters"])
        vectors = [] if vectors is None else list(vectors.reshape(-1, units))
        blocks = [(g, i, r, b) for g, (i, r, b) in enumerate(zip(of_input, of_recurrent, of_bias))]
        # What does not depend on the state, of each gate: [time, batch, units].
        constant: list[Tensor] = []
        for _, i, _, b in blocks:
            terms = [from_input[..., i * units : (i + 1) * units]] if i is not None else []
            terms += [bias[b * units : (b + 1) * units]] if b is not None else []
            constant.append(terms[0] + terms[1] if len(terms) == 2 else terms[0])
        values = [self.start[k] for k in step["states"]]
        multiply = recurrent.multiplier()
        outputs: list[Tensor] = []
        for time in range(from_input.shape[0]):
            product = multiply(values[0])
            gates: list[Tensor] = []
            for g, i, r, _ in blocks:
                # A gate without rows of the input is a bias alone, the same at all steps.
                base = constant[g][time] if i is not None else constant[g]
                gates.append(base if r is None else base + product[..., r * units : (r + 1) * units])
            values = _formula(formula, gates + values + vectors)
            outputs.append(values[0])
        for k, value in zip(step["states"], values):
            self.end[k] = value
        return torch.stack(outputs)


def to_torch(model: Model, *, round_activations: bool = True) -> Network:
    """A model as a module that trains. With `round_activations`, products round their vectors where the kernels do."""
    return Network(model, round_activations)


def from_torch(module: nn.Module, *, name: str = "torch") -> Model:
    """The model of a module: the one that it was made from, with what the module has learned. `name` stands in its recipe for the training.

    Modules that wrap the network (`DistributedDataParallel`, `torch.compile`) are looked through. A model that was not trained comes back identical.
    """
    network = _network(module)
    tensors: dict[tuple[int, str], np.ndarray[Any, Any]] = {}
    for part in network.modules():
        if isinstance(part, Part):
            tensors.update({(part.number, key): value for key, value in part.tensors().items()})
    return network.model._with_tensors(tensors, name)


def _network(module: nn.Module) -> Network:
    for inner in module.modules():
        if isinstance(inner, Network):
            return inner
    raise TypeError(f"expected a module of to_torch; found {type(module).__name__}")


@torch.no_grad()
def balance(module: nn.Module) -> None:
    """Rescales the two dense factors of low-rank maps to the same size, which does not change their product: descent is slow if one is much larger than the other."""
    rights: dict[int, list[Dense]] = {}
    lefts: dict[int, Dense] = {}
    for part in _network(module).modules():
        if isinstance(part, LowRank) and isinstance(part.left, Dense) and isinstance(part.right, Dense):
            lefts[id(part.left)] = part.left
            rights.setdefault(id(part.left), []).append(part.right)
    for key, left in lefts.items():
        others = [right for other, found in rights.items() if other != key for right in found]
        mine = rights[key]
        if any(right is other for right in mine for other in others):
            # What several left factors share cannot be rescaled for one of them.
            continue
        # Component by component; of a left factor that several maps share, for all of them at once.
        of_left = left.data.norm(dim=0)
        of_right = torch.stack([right.data.norm(dim=1) for right in mine]).square().mean(dim=0).sqrt()
        is_used = (of_left > 0) & (of_right > 0)
        factor = torch.where(is_used, (of_right / of_left.clamp_min(_LEAST)).sqrt(), torch.ones_like(of_left))
        left.data.mul_(factor)
        for right in mine:
            right.data.div_(factor[:, None])


def parameters_of(module: nn.Module, kinds: Union[type[Part], tuple[type[Part], ...]]) -> Iterable[nn.Parameter]:
    """The parameters of parts of some kinds: to train scales alone, say, or with another rate."""
    for part in _network(module).modules():
        if isinstance(part, kinds):
            yield from part.parameters(recurse=False)
