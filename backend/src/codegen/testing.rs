//! Elementwise functions of [`math`] over slices, for their accuracy tests.
#![allow(unsafe_code, reason = "generated code is called through a function pointer")]

use super::clif::Clif;
use super::emit::{Emit, Memory, Type, Value};
use super::module::{Place, define};
use super::{formula, math};
use crate::isa::{self, OptLevel};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module};
use lstmc_kernels::Level;

/// The functions under test.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Function {
    Exp,
    Sigmoid,
    Tanh,
    Ln,
    /// The primitives of formulas, of any argument.
    AnyExp,
    AnyLn,
}

/// Code of `f(values, turns)`, of four values per iteration.
fn emit(e: &mut dyn Emit, p: &[Value], f: Function) {
    let zero = e.size(0);
    e.repeat_range([zero, p[1]], &[p[0]], |e, _, q| {
        let elementwise = match f {
            Function::Exp => math::exp,
            Function::Sigmoid => math::sigmoid,
            Function::Tanh => math::tanh,
            Function::AnyExp => formula::exp,
            Function::AnyLn => formula::ln,
            Function::Ln => {
                for at in [0, 4, 8, 12] {
                    let x = e.load(Type::F32, Memory::Caller, q[0], at);
                    let y = math::ln(e, x);
                    e.store(Memory::Caller, y, q[0], at);
                }
                return vec![e.offset(q[0], 16)];
            }
        };
        let x = e.load(Type::F32x4, Memory::Caller, q[0], 0);
        let y = elementwise(e, &[x])[0];
        e.store(Memory::Caller, y, q[0], 0);
        vec![e.offset(q[0], 16)]
    });
}

/// `f` of every element, in code for a level.
pub(crate) fn map(level: Level, f: Function, values: &[f32]) -> Vec<f32> {
    let isa = isa::host(level, OptLevel::None).unwrap();
    let mut module =
        JITModule::new(JITBuilder::with_isa(isa.clone(), cranelift_module::default_libcall_names()));
    let pointer = module.target_config().pointer_type();
    let id = define(
        &mut Place::new(&mut module, &*isa),
        "f",
        Linkage::Export,
        (vec![pointer; 2], None),
        None,
        |_, b, p| {
            Clif::new(b, &*isa, &[], &[]).function(p, |e, p| {
                emit(e, p, f);
                None
            });
        },
    )
    .unwrap();
    module.finalize_definitions().unwrap();
    let mut out = values.to_vec();
    out.resize(values.len().next_multiple_of(4), 0.0);
    let turns = out.len() / 4;
    // SAFETY: `emit` builds a function of this signature, which reads and writes `turns` vectors of four.
    unsafe {
        let f = std::mem::transmute::<*const u8, unsafe extern "C" fn(*mut f32, usize)>(
            module.get_finalized_function(id),
        );
        f(out.as_mut_ptr(), turns);
        module.free_memory();
    }
    out.truncate(values.len());
    out
}
