"""Graphs under construction, for random_nodes.py and random_toolkits.py."""

import numpy as np
from onnx import TensorProto, numpy_helper

from cases import Net

F32, F64, F16, I64, I32, U8, BOOL = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.BOOL)
NUMPY = {I64: np.int64, I32: np.int32, U8: np.uint8, F32: np.float32}


class Graph(Net):
    """A graph whose operators have the form of an operator set."""

    def __init__(self, draw, opset):
        super().__init__()
        self.draw, self.opset = draw, opset

    def floats(self, *shape, scale=0.7):
        self.count += 1
        return self.weight(f"weight_{self.count}", self.draw.floats(*shape, scale=scale))

    def number(self, value, dtype=np.float32):
        self.count += 1
        return self.weight(f"number_{self.count}", value, dtype)

    def axes(self, op, x, axes, outputs=1, **more):
        """Squeeze, Unsqueeze, ReduceSum (axes are an input from opset 13 on) and ReduceMean, ReduceMax (from 18 on)."""
        if self.opset >= (18 if op in ("ReduceMean", "ReduceMax") else 13):
            return self.op(op, [x, self.ints(*axes)], outputs, **more)
        return self.op(op, [x], outputs, axes=list(axes), **more)

    def split(self, x, sizes, axis):
        if len(sizes) == 1:
            return [x]
        if self.opset >= 13:
            return self.op("Split", [x, self.ints(*sizes)], len(sizes), axis=axis)
        return self.op("Split", [x], len(sizes), axis=axis, split=list(sizes))

    def slice(self, x, axis, start, end):
        return self.op("Slice", [x, self.ints(start), self.ints(end), self.ints(axis)])

    def softmax(self, x, op="Softmax"):
        return self.op(op, [x], axis=-1 if self.opset >= 13 else 2)

    def clip(self, x, low, high):
        return self.op("Clip", [x, self.number(low), self.number(high)])

    def norm(self, x, n):
        scale, shift = self.weight(self.new("scale"), 1 + self.draw.floats(n, scale=0.2)), self.floats(n, scale=0.2)
        if self.opset >= 17 and self.draw.yes(0.6):
            return self.op("LayerNormalization", [x, scale, shift], axis=-1, epsilon=1e-5)
        d = self.op("Sub", [x, self.axes("ReduceMean", x, [-1], keepdims=1)])
        square = self.op("Mul", [d, d]) if self.draw.yes(0.5) else self.op("Pow", [d, self.number(2.0)])
        v = self.op("Sqrt", [self.op("Add", [self.axes("ReduceMean", square, [-1], keepdims=1), self.number(1e-5)])])
        y = self.op("Div", [d, v]) if self.draw.yes(0.7) else self.op("Mul", [d, self.op("Reciprocal", [v])])
        return self.op("Add", [self.op("Mul", [y, scale]), shift])

    def rms(self, x, n):
        scale = self.weight(self.new("scale"), 1 + self.draw.floats(n, scale=0.2))
        if self.opset >= 23 and self.draw.yes(0.6):
            return self.op("RMSNormalization", [x, scale], axis=-1, epsilon=1e-5)
        v = self.op("Add", [self.axes("ReduceMean", self.op("Mul", [x, x]), [-1], keepdims=1), self.number(1e-5)])
        return self.op("Mul", [self.op("Div", [x, self.op("Sqrt", [v])]), scale])

    def new(self, name):
        self.count += 1
        return f"{name}_{self.count}"

    def activation(self, x, kind):
        if kind == "gelu":
            if self.opset >= 20 and self.draw.yes(0.5):
                return self.op("Gelu", [x])
            e = self.op("Add", [self.op("Erf", [self.op("Div", [x, self.number(2**0.5)])]), self.number(1.0)])
            return self.op("Mul", [self.op("Mul", [x, e]), self.number(0.5)])
        if kind == "swish":
            return self.op("Mul", [x, self.op("Sigmoid", [x])])
        if kind == "PRelu":
            return self.op("PRelu", [x, self.number([0.2])])
        if kind in ("", "Identity"):
            return self.op("Identity", [x])
        return self.op(kind, [x])

    def matrix(self, rows, columns, form=None):
        """A weight [rows, columns], as stored in some form."""
        form = form or self.draw.of({"": 8, "transposed": 1, "f16": 0.7, "f64": 0.2, "int8": 0.7 if self.opset >= 13 else 0, "constant": 0.7, "identity": 0.3,
                                     "factors": 0.4, "reshaped": 0.3, "normed": 0.3})
        values = self.draw.floats(rows, columns)
        if form == "transposed":
            return self.op("Transpose", [self.weight(self.new("weight"), values.T)], perm=[1, 0])
        if form == "f16":
            return self.op("Cast", [self.weight(self.new("weight"), values, np.float16)], to=F32)
        if form == "f64":
            return self.op("Cast", [self.weight(self.new("weight"), values, np.float64)], to=F32)
        if form == "int8":
            codes = self.weight(self.new("weight"), np.clip(np.round(values * 50), -127, 127), np.int8)
            if self.draw.yes(0.5):
                return self.op("DequantizeLinear", [codes, self.number(0.02), self.number(0, np.int8)])
            return self.op("DequantizeLinear", [codes, self.weight(self.new("scale"), np.full(columns, 0.02), np.float32),
                                                self.weight(self.new("zero"), np.zeros(columns), np.int8)], axis=1)
        if form == "constant":
            return self.op("Constant", [], value=numpy_helper.from_array(values))
        if form == "identity":
            return self.op("Identity", [self.weight(self.new("weight"), values)])
        if form == "factors":
            return self.op("MatMul", [self.floats(rows, 3), self.floats(3, columns)])
        if form == "reshaped":
            return self.op("Reshape", [self.weight(self.new("weight"), values.reshape(-1)), self.ints(rows, columns)])
        if form == "normed":  # weight normalisation: g v / |v|
            v = self.weight(self.new("weight"), values)
            norm = self.op("Sqrt", [self.axes("ReduceSum", self.op("Mul", [v, v]), [0], keepdims=1)])
            return self.op("Mul", [self.op("Div", [v, norm]), self.floats(1, columns)])
        return self.weight(self.new("weight"), values)

    def linear(self, x, inputs, outputs, bias=True, rank=3):
        w = self.matrix(inputs, outputs)
        forms = {"": 8, "einsum": 1 if self.opset >= 12 and rank == 3 else 0, "gemm": 6 if rank == 2 else 0, "flattened": 1 if rank == 3 else 0, "conv": 0.4 if rank == 3 else 0}
        form = self.draw.of(forms)
        b = self.floats(outputs) if bias else None
        if form == "gemm":
            if self.draw.yes(0.5):
                return self.op("Gemm", [x, w] + ([b] if b else []))
            return self.op("Gemm", [x, self.op("Transpose", [w], perm=[1, 0])] + ([b] if b else []), transB=1)
        if form == "flattened":
            y = self.op("Gemm", [self.op("Reshape", [x, self.ints(-1, inputs)]), w] + ([b] if b else []))
            shape = self.op("Concat", [self.slice(self.op("Shape", [x]), 0, 0, 2), self.ints(outputs)], axis=0)
            return self.op("Reshape", [y, shape])
        if form == "conv":
            y = self.op("Transpose", [x], perm=[1, 2, 0])
            kernel = self.axes("Unsqueeze", self.op("Transpose", [w], perm=[1, 0]), [2])
            return self.op("Transpose", [self.op("Conv", [y, kernel] + ([b] if b else []), kernel_shape=[1])], perm=[2, 0, 1])
        y = self.op("Einsum", [x, w], equation="abi,ij->abj") if form == "einsum" else self.op("MatMul", [x, w])
        if not b:
            return y
        return self.op("Add", [y, b] if self.draw.yes(0.7) else [b, y])


class Pieces:
    """A model under construction: tokens [S, B] (or [B, S]), one sequence x [S, B, features], states, scores."""

    def __init__(self, draw, opset=None, batch_first=None, step=False):
        self.draw, self.step = draw, step
        self.opset = opset or draw.between(11, 24)
        self.net = Graph(draw, self.opset)
        self.batch_first = draw.yes(0.4) if batch_first is None else batch_first
        self.vocabulary, self.e, self.n = draw.between(11, 40), draw.between(3, 9), draw.between(3, 9)
        if draw.yes(0.06):  # sizes that coincide
            self.vocabulary = self.e = self.n = draw.between(7, 12)
        self.tags, self.state_shapes, self.links, self.further = [f"opset-{self.opset}"], {}, [], {}
        self.dims = draw.of({"named": 4, "unnamed": 2, "fixed": 1, "fixed-batch": 1})
        self.tags.append(self.dims)
        self.seq = 1 if step else draw.of({1: 1, 4: 1}) if self.dims == "fixed" else None
        self.batch = draw.of({1: 2, 2: 1, 3: 1}) if self.dims in ("fixed", "fixed-batch") else None
        self.scale, self.hidden, self.width, self.declared = "logits", False, self.vocabulary, draw.yes(0.8)
        self.dtype = draw.of({I64: 6, I32: 2, F32: 0.5, U8: 0.3})
        if self.dtype != I64:
            self.tags.append(f"tokens-{np.dtype(NUMPY[self.dtype])}")

    def dim(self, axis):
        fixed = self.seq if axis == "seq" else self.batch
        return fixed or (axis if self.dims in ("named", "fixed-batch") else None)

    def embed(self, name="tokens", vector=False):
        net, draw = self.net, self.draw
        self.token_name, self.vector = name, vector
        dims = [self.dim("batch"), self.dim("seq")] if self.batch_first else [self.dim("seq"), self.dim("batch")]
        net.input(name, self.dtype, *([self.dim("batch") if self.step else self.dim("seq")] if vector else dims))
        tokens = name
        if self.dtype in (F32, U8):
            tokens = net.op("Cast", [tokens], to=draw.of({I64: 1, I32: 1}))
        way = draw.of({"": 10, "one-hot": 0.7, "shifted": 0.4, "clipped": 0.4, "factored": 0.7, "columns": 0.5, "scaled": 0.7, "added": 0.5})
        if way in ("shifted", "one-hot") and self.dtype != I64:
            way = ""
        if way:
            self.tags.append(f"embed-{way}")
        if way == "shifted":  # row 0 is for padding
            table = net.floats(self.vocabulary + 1, self.e)
            x = net.op("Gather", [table, net.op("Add", [tokens, net.number(1, np.int64)])])
        elif way == "clipped":
            clipped = net.clip(net.op("Cast", [tokens], to=F32), 0.0, self.vocabulary - 1.0)
            x = net.op("Gather", [net.matrix(self.vocabulary, self.e), net.op("Cast", [clipped], to=I64)])
        elif way == "one-hot":
            rows = net.op("OneHot", [tokens, net.number(self.vocabulary, np.int64), net.number([0.0, 1.0])], axis=-1)
            x = net.op("MatMul", [rows, net.matrix(self.vocabulary, self.e)])
        elif way == "factored":
            x = net.op("MatMul", [net.op("Gather", [net.floats(self.vocabulary, 3), tokens]), net.matrix(3, self.e)])
        elif way == "columns":
            table = net.op("Transpose", [net.floats(self.e, self.vocabulary)], perm=[1, 0])
            x = net.op("Gather", [table, tokens])
        else:
            x = net.op("Gather", [net.matrix(self.vocabulary, self.e), tokens], axis=0)
        if way == "scaled":
            x = net.op("Mul", [x, net.number(self.e**0.5)])
        elif way == "added":
            x = net.op("Add", [x, net.floats(self.e)])
        if vector and not self.step:
            x = net.axes("Unsqueeze", x, [1])
        return x  # of the tokens' order, or [B, features] for a step's vector

    def sizes(self):
        return list(dict.fromkeys((self.seq or (1 if self.step else s), self.batch or (1 if self.vector and not self.step else b)) for s, b in ((5, 1), (3, 2))))

    def tokens(self, ids):
        x = ids.T if self.batch_first else ids
        return np.ascontiguousarray((x.reshape(-1) if self.vector else x).astype(NUMPY[self.dtype]))

    def state(self, name, *dims):
        """A state input; dims has "batch" for the streams."""
        self.net.input(name, F32, *[self.dim("batch") if d == "batch" else d for d in dims])
        self.state_shapes[name] = dims
        return name

    def returns(self, value, name, input_name, *dims):
        """Name a value as output, the next value of a state."""
        self.net.op("Identity", [value], name)
        self.net.output(name, F32, *[self.dim("batch") if d == "batch" else d for d in dims])
        self.links.append((input_name, name))

    def case(self, kind, rows, output):
        from random_models import Case

        shapes = lambda b: {name: tuple(b if d == "batch" else d for d in dims) for name, dims in self.state_shapes.items()}
        more = lambda s, b: {name: make(s, b) for name, make in self.further.items()}
        model = self.net.model("random", opset=self.opset, ir_version=min(10, {11: 6, 12: 7, 13: 7, 14: 7}.get(self.opset, 8 if self.opset < 21 else 10)))
        return Case(kind, self.tags, model, self.vocabulary, self.sizes(), self.tokens, shapes, self.links, rows, self.scale, self.token_name, output, more, self.width == self.vocabulary and not self.hidden)
