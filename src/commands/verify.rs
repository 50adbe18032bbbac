//! `lstmc verify`: ONNX test cases.
