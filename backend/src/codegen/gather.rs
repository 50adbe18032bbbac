//! Rows of tables: f32, codes, tensor trains.

use super::emit::{Emit, F32X4, buffer_flags, caller_flags, weight_flags};
use super::quantize::expand;
use crate::plan::{Groups, LANES, Packing, Rows};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value, types};

/// Copies an f32 row, which starts at any multiple of four bytes and must not be read past its end.
pub(crate) fn floats(e: &mut Emit<'_, '_>, table: Value, token: Value, to: Value, len: usize) {
    let row = e.b.ins().imul_imm_s(token, (len * 4) as i64);
    let from = e.b.ins().iadd(table, row);
    let flags = MemFlagsData::new().with_notrap().with_readonly();
    let p = e.repeat(len / 4, &[from, to], |e, _, p| {
        let v = e.load(F32X4, flags, p[0], 0);
        e.store(buffer_flags(), v, p[1], 0);
        vec![e.offset(p[0], 16), e.offset(p[1], 16)]
    });
    for i in 0..len % 4 {
        let v = e.load(types::F32, flags, p[0], 4 * i);
        e.store(buffer_flags(), v, p[1], 4 * i);
    }
}

/// Decodes a row of codes. Each group's last vector writes beyond it, where the next group then writes.
pub(crate) fn codes(
    e: &mut Emit<'_, '_>,
    table: Value,
    rows: usize,
    token: Value,
    to: Value,
    groups: Groups,
) {
    let row = e.b.ins().imul_imm_s(token, groups.len as i64);
    let from = e.b.ins().iadd(table, row);
    let scales = e.offset(table, Rows::code_bytes(rows, groups));
    let row = e.b.ins().imul_imm_s(token, (groups.count() * 4) as i64);
    let scales = e.b.ins().iadd(scales, row);
    let one = |e: &mut Emit<'_, '_>, p: &[Value], count: usize| {
        let scale = e.load(types::F32, weight_flags(), p[1], 0);
        expand(e, p[0], count, scale, p[2]);
        let next = [groups.size, 4, groups.size * 4];
        p.iter().zip(next).map(|(&p, n)| e.offset(p, n)).collect::<Vec<_>>()
    };
    let whole = groups.len / groups.size;
    let p = e.repeat(whole, &[from, scales, to], |e, _, p| one(e, p, groups.size));
    if whole < groups.count() {
        one(e, &p, groups.inputs(whole));
    }
}

/// Multiplies the slices of the cores that a token selects: `row = G1[i1] . G2[i2] ... Gd[id]`, all its columns at once.
///
/// ```text
///   acc: [columns so far][rank]       out[j] = acc[j] . Gk[ik]       [columns so far][in mode * next rank]
/// ```
pub(crate) fn train(
    e: &mut Emit<'_, '_>,
    cores: &[(Value, &Packing)],
    token: Value,
    to: Value,
    work: [Value; 2],
) {
    let shapes: Vec<[usize; 3]> = cores
        .iter()
        .map(|(_, packing)| match packing {
            Packing::Core { modes, rank, width } => [*modes, *rank, *width],
            other => unreachable!("the plan gives cores, not {other}"),
        })
        .collect();
    let mut digits = vec![token; cores.len()];
    let mut rest = token;
    for k in (0..cores.len()).rev() {
        let modes = e.size(shapes[k][0]);
        digits[k] = e.b.ins().urem(rest, modes);
        rest = e.b.ins().udiv(rest, modes);
    }
    let slice = |e: &mut Emit<'_, '_>, k: usize| {
        let [_, rank, width] = shapes[k];
        let bytes = rank * width.next_multiple_of(LANES) * 4;
        let at = e.b.ins().imul_imm_s(digits[k], bytes as i64);
        e.b.ins().iadd(cores[k].0, at)
    };
    let mut acc = slice(e, 0);
    if cores.len() == 1 {
        e.copy(acc, to, shapes[0][2]);
        return;
    }
    // Columns so far: the first core's width is in mode * rank of the next.
    let mut columns = shapes[0][2] / shapes[1][1];
    for k in 1..cores.len() {
        let [_, rank, width] = shapes[k];
        let core = slice(e, k);
        let out = if k + 1 == cores.len() { to } else { work[k % 2] };
        e.repeat(columns, &[acc, out], |e, _, p| {
            combine(e, p[0], rank, core, width, p[1]);
            vec![e.offset(p[0], rank * 4), e.offset(p[1], width * 4)]
        });
        acc = out;
        columns *= width / shapes.get(k + 1).map_or(1, |next| next[1]);
    }
}

/// `to = sum of acc[a] * core[a]` over rows of `width`, padded to whole vectors.
fn combine(e: &mut Emit<'_, '_>, acc: Value, rank: usize, core: Value, width: usize, to: Value) {
    const BLOCK: usize = 8;
    let (vectors, row) = (width.div_ceil(LANES), width.next_multiple_of(LANES) * 4);
    for first in (0..vectors).step_by(BLOCK) {
        let count = BLOCK.min(vectors - first);
        let zero = e.constant(0.0);
        let mut carried = vec![zero; count];
        carried.push(acc);
        carried.push(e.offset(core, first * LANES * 4));
        let sums = e.repeat(rank, &carried, |e, _, p| {
            let s = e.load(types::F32, caller_flags(), p[count], 0);
            let s = e.splat(s);
            let mut next: Vec<Value> = (0..count)
                .map(|v| {
                    let w = e.load(F32X4, weight_flags(), p[count + 1], v * LANES * 4);
                    e.mul_add(w, s, p[v])
                })
                .collect();
            next.push(e.offset(p[count], 4));
            next.push(e.offset(p[count + 1], row));
            next
        });
        for (v, &x) in sums[..count].iter().enumerate() {
            e.store(caller_flags(), x, to, (first + v) * LANES * 4);
        }
    }
}
