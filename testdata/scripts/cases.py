"""Write test cases in ONNX's standard layout: model.onnx, test_data_set_N/input_K.pb and output_K.pb."""

import shutil

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

ABSOLUTE = 2e-5  # f32 rounding over a few hundred operations on values of order 1
RELATIVE = 1e-4


def scrub(model):
    """Remove what tells about the exporting machine: stack traces, local paths, doc strings."""

    def graph(g):
        g.doc_string = ""
        for item in [*g.node, *g.input, *g.output, *g.value_info, *g.initializer]:
            item.doc_string = ""
        for item in [g, *g.node, *g.input, *g.output, *g.value_info, *g.initializer]:
            if "metadata_props" in item.DESCRIPTOR.fields_by_name:
                del item.metadata_props[:]
        for node in g.node:
            for attribute in node.attribute:
                attribute.doc_string = ""
                if attribute.HasField("g"):
                    graph(attribute.g)

    model.doc_string = ""
    del model.metadata_props[:]
    graph(model.graph)
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    return model


def run_onnxruntime(path, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def run_reference(path, feeds):
    return ReferenceEvaluator(str(path)).run(None, feeds)


def compare(expected, found):
    assert len(expected) == len(found), f"{len(expected)} outputs expected, {len(found)} found"
    for (name, e), f in zip(expected.items(), found):
        assert e.shape == f.shape and e.dtype == f.dtype, f"{name}: {e.dtype}{e.shape} expected, {f.dtype}{f.shape} found"
        np.testing.assert_allclose(f, e, rtol=RELATIVE, atol=ABSOLUTE, err_msg=name)


def new_folder(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_data_sets(folder, data_sets):
    """`data_sets`: pairs of {input name: array} and {output name: array}."""
    for n, (inputs, outputs) in enumerate(data_sets):
        data = folder / f"test_data_set_{n}"
        data.mkdir()
        for kind, values in [("input", inputs), ("output", outputs)]:
            for k, (name, value) in enumerate(values.items()):
                tensor = numpy_helper.from_array(np.array(value, order="C"), name)
                (data / f"{kind}_{k}.pb").write_bytes(tensor.SerializeToString(deterministic=True))


def write_case(folder, model, data_sets, runners=(run_onnxruntime,), external=None):
    """Write one test case and check it: the model is valid, and every runner finds the recorded outputs."""
    new_folder(folder)
    path = folder / "model.onnx"
    scrub(model)
    if external:
        onnx.save_model(model, path, save_as_external_data=True, location=external, size_threshold=64)
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)
    write_data_sets(folder, data_sets)
    for inputs, outputs in data_sets:
        for runner in runners:
            compare(outputs, runner(path, inputs))
    ops = "-".join(n.op_type for n in onnx.load(path).graph.node)
    print(f"{folder.name}: opset {model.opset_import[0].version}, {ops}")


class Net:
    """A graph under construction by hand."""

    def __init__(self):
        self.nodes, self.weights, self.inputs, self.outputs, self.count = [], [], [], [], 0

    def weight(self, name, values, dtype=None):
        self.weights.append(numpy_helper.from_array(np.array(values, dtype, order="C"), name))
        return name

    def ints(self, *values):
        self.count += 1
        return self.weight(f"ints_{self.count}", values, np.int64)

    def op(self, op_type, inputs, outputs=1, **attributes):
        """Add a node. `outputs`: how many to name automatically, or their names. Gives a name if there is one, else a list."""
        self.count += 1
        if isinstance(outputs, int):
            outputs = [f"{op_type.lower()}_{self.count}" + (f"_{k}" if outputs > 1 else "") for k in range(outputs)]
        elif isinstance(outputs, str):
            outputs = [outputs]
        self.nodes.append(helper.make_node(op_type, list(inputs), outputs, name=f"{op_type}_{self.count}", **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def input(self, name, dtype, *shape):
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name, dtype, *shape):
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def model(self, name, opset=17, ir_version=8, domains=()):
        inputs = list(self.inputs)
        if ir_version < 4:  # older files list weights as inputs too
            inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in self.weights]
        graph = helper.make_graph(self.nodes, name, inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="lstmc testdata")
