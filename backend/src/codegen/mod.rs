//! From a plan to CLIF: one function per entry point, the same for JIT and object files.
//!
//! ```text
//!   advance(weights, state, scratch, token)          gather, layers; the state is replaced
//!   logits(weights, scratch, out)                    output layer, all logits
//!   score(weights, scratch, target) -> f32           `logits`, and the log-probability of one word (object files)
//!   top_k(weights, scratch, ids, values, k)          `logits`, and the k best words (object files)
//!   recurrent_N(weights, gates, state, scratch)      the gates' sums of an LSTM step from those of its input (batched path)
//!   gather(weights, scratch, token)                  a row of the embedding (batched path)
//!   phase_N(weights, state, scratch, token, out,     a phase of a step, panels from..to of it where they are shared
//!           from, to)                                (several threads)
//! ```
//!
//! `weights` is the address of a table with the address of every packed weight; all vectors are of four f32 lanes.

mod cell;
mod emit;
mod formula;
mod gather;
mod integer;
pub mod math;
mod output;
mod panel;
mod product;
mod program;
mod quantize;
mod strips;

pub(crate) use emit::{Emit, buffer_flags, caller_flags};
pub use program::{Entry, Program};
pub(crate) use program::{build_engine, build_listed, build_stepwise, features};

#[cfg(test)]
pub(crate) mod testing {
    //! A function that applies one elementwise function in place, for accuracy tests.

    use super::emit::{Emit, F32X4, caller_flags};
    use super::math;
    use cranelift_codegen::Context;
    use cranelift_codegen::ir::{AbiParam, InstBuilder};
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
    use cranelift_module::{FuncId, Linkage, Module};

    /// The functions under test.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Function {
        Exp,
        Sigmoid,
        Tanh,
        Ln,
    }

    /// Defines `f(values, turns)`.
    pub(crate) fn define(module: &mut dyn Module, f: Function) -> FuncId {
        let pointer = module.target_config().pointer_type();
        let mut context = Context::new();
        context.func.signature = module.make_signature();
        context.func.signature.params.extend([AbiParam::new(pointer), AbiParam::new(pointer)]);
        let id = module.declare_function("f", Linkage::Export, &context.func.signature).unwrap();
        let mut builder_context = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut context.func, &mut builder_context);
        let block = builder.create_block();
        builder.append_block_params_for_function_params(block);
        builder.switch_to_block(block);
        builder.seal_block(block);
        let p = builder.block_params(block).to_vec();
        let mut e = Emit { b: &mut builder, features: super::program::features(module.isa()) };
        let zero = e.size(0);
        e.repeat_dynamic(zero, p[1], &[p[0]], |e, _, q| {
            let x = e.load(F32X4, caller_flags(), q[0], 0);
            let y = match f {
                Function::Exp => math::exp(e, &[x])[0],
                Function::Sigmoid => math::sigmoid(e, &[x])[0],
                Function::Tanh => math::tanh(e, &[x])[0],
                Function::Ln => {
                    let lanes = [0u8, 1, 2, 3].map(|i| e.b.ins().extractlane(x, i));
                    let [a, b, c, d] = lanes.map(|l| math::ln(e, l));
                    let y = e.splat(a);
                    let y = e.b.ins().insertlane(y, b, 1);
                    let y = e.b.ins().insertlane(y, c, 2);
                    e.b.ins().insertlane(y, d, 3)
                }
            };
            e.store(caller_flags(), y, q[0], 0);
            vec![e.offset(q[0], 16)]
        });
        builder.ins().return_(&[]);
        builder.finalize(module.isa().frontend_config());
        module.define_function(id, &mut context).unwrap();
        id
    }
}
