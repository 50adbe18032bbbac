//! A graph from text: parsed, verified, printed, run by the interpreter.
//!
//!     cargo run --example ir
#![allow(clippy::print_stdout, reason = "an example shows its results")]

use lstmc::frontend::interpret::Interpreter;
use lstmc::frontend::ir::{parse, print, verify};
use lstmc::frontend::tensor::Tensor;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = "model \"m\" {
          %x: f32[1, 1, 2] = input
          %y = linear %x, @w
          return y %y
        }
        @w: f32[3, 2] [1, 0, -0.5, 2, 0.25, -1]";
    let graph = parse(text)?;
    verify(&graph)?;
    println!("{}", print(&graph));
    let x = Tensor::from_f32([1, 1, 2], vec![1.0, 2.0])?;
    let results = Interpreter::new(&graph)?.run(&[("x", x)])?;
    assert_eq!(results[0].1.f32s()?, [1.0, 3.5, -1.75]);
    Ok(())
}
