//! Rows of tables: f32, codes, tensor trains.

use super::emit::{Constant, Emit, Memory, Type, Value};
use super::quantize::expand;
use crate::plan::{Groups, Integer, LANES, PANEL, Packing, QUAD, Rows, Scale};

/// Copies an f32 row, which starts at a multiple of four bytes and must not be read past its end.
pub(crate) fn floats(e: &mut dyn Emit, table: Value, token: Value, to: Value, len: usize) {
    let from = e.advance(table, token, len * 4);
    e.copy_exact([from, to], [Memory::Rows, Memory::Buffer], len);
}

/// Decodes a row of codes. Each group's last vector writes beyond it, where the next group then writes.
pub(crate) fn codes(e: &mut dyn Emit, table: Value, rows: usize, token: Value, to: Value, groups: Groups) {
    let from = e.advance(table, token, groups.len);
    let scales = e.offset(table, Rows::code_bytes(rows, groups));
    let scales = e.advance(scales, token, groups.count() * 4);
    let one = |e: &mut dyn Emit, p: &[Value], count: usize| {
        let scale = e.load(Type::F32, Memory::Weights, p[1], 0);
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

/// Copies the row of f32 panels that a product reads too: one number per input.
pub(crate) fn panel_floats(e: &mut dyn Emit, panels: Value, input: usize, token: Value, to: Value) {
    let [panel, lane] = e.divide(token, PANEL);
    let panel = e.advance(panels, panel, input * PANEL * 4);
    let from = e.element(panel, lane);
    e.repeat(input, &[from, to], |e, _, p| {
        let x = e.load(Type::F32, Memory::Weights, p[0], 0);
        e.store(Memory::Buffer, x, p[1], 0);
        vec![e.offset(p[0], PANEL * 4), e.offset(p[1], 4)]
    });
}

/// Decodes the row of panels of codes that a product reads too: the codes of four inputs from each quad.
pub(crate) fn panel_codes(e: &mut dyn Emit, panels: Value, i: Integer, token: Value, to: Value) {
    let bits = i.width.bits();
    let [panel, lane] = e.divide(token, PANEL);
    let panel = e.advance(panels, panel, i.panel_bytes());
    // Vectors of four lanes alternate over the levels of a byte.
    let [fours, within] = e.divide(lane, LANES);
    let [vector, level] = e.divide(fours, i.levels());
    let place = e.with_constant(Constant::Mul, vector, LANES as i64);
    let place = e.add(place, within);
    let shift = e.with_constant(Constant::Mul, level, bits as i64);
    let shift = e.truncate(shift);
    let group = |e: &mut dyn Emit, p: &[Value], g: usize| {
        let quads = i.groups.quads(g);
        let scales = e.offset(p[0], quads * i.quad_bytes());
        let scale = match i.scale {
            Scale::F32 => {
                let at = e.element(scales, lane);
                e.load(Type::F32, Memory::Weights, at, 0)
            }
            // Four are widened, one is selected.
            Scale::F16 => {
                let scales = e.advance(scales, fours, LANES * 2);
                let four = e.load_halves(scales, 0, 1.0);
                let stack = e.stack(LANES * 4);
                e.store(Memory::Caller, four, stack, 0);
                let at = e.element(stack, within);
                e.load(Type::F32, Memory::Caller, at, 0)
            }
        };
        let first = e.element(p[0], place);
        e.repeat(quads, &[first, p[1]], |e, _, p| {
            let mut word = e.load(Type::I32, Memory::Weights, p[0], 0);
            if i.signed {
                word = e.with_constant(Constant::Xor, word, i64::from(0x8080_8080u32 as i32));
            }
            for k in 0..QUAD {
                let by = e.with_constant(Constant::Add, shift, (8 * k) as i64);
                let code = e.shift_right(word, by);
                let mask = e.i32((1 << bits) - 1);
                let code = e.and(code, mask);
                let code = e.with_constant(Constant::Add, code, -i64::from(i.width.offset()));
                let x = e.to_float(code);
                let x = e.mul(x, scale);
                e.store(Memory::Buffer, x, p[1], 4 * k);
            }
            vec![e.offset(p[0], i.quad_bytes()), e.offset(p[1], QUAD * 4)]
        });
        // A group's last quad writes beyond it, where the next group then writes.
        let next = quads * i.quad_bytes() + PANEL * i.scale.size();
        vec![e.offset(p[0], next), e.offset(p[1], i.groups.inputs(g) * 4)]
    };
    let whole = i.groups.len / i.groups.size;
    let p = e.repeat(whole, &[panel, to], |e, _, p| group(e, p, 0));
    if whole < i.groups.count() {
        group(e, &p, whole);
    }
}

/// Multiplies the slices of the cores that a token selects: `row = G1[i1] . G2[i2] ... Gd[id]`, all its columns at once.
///
/// ```text
///   acc: [columns so far][rank]       out[j] = acc[j] . Gk[ik]       [columns so far][in mode * next rank]
/// ```
pub(crate) fn train(
    e: &mut dyn Emit,
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
        [rest, digits[k]] = e.divide(rest, shapes[k][0]);
    }
    let slice = |e: &mut dyn Emit, k: usize| {
        let [_, rank, width] = shapes[k];
        let bytes = rank * width.next_multiple_of(LANES) * 4;
        e.advance(cores[k].0, digits[k], bytes)
    };
    let mut acc = slice(e, 0);
    if cores.len() == 1 {
        e.copy(acc, to, shapes[0][2]);
        return;
    }
    // Columns so far: the first core's width is `in mode * rank` of the next.
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
fn combine(e: &mut dyn Emit, acc: Value, rank: usize, core: Value, width: usize, to: Value) {
    const BLOCK: usize = 8;
    let (vectors, row) = (width.div_ceil(LANES), width.next_multiple_of(LANES) * 4);
    for first in (0..vectors).step_by(BLOCK) {
        let count = BLOCK.min(vectors - first);
        let zero = e.constant(0.0);
        let mut carried = vec![zero; count];
        carried.push(acc);
        carried.push(e.offset(core, first * LANES * 4));
        let sums = e.repeat(rank, &carried, |e, _, p| {
            let s = e.load(Type::F32, Memory::Caller, p[count], 0);
            let s = e.splat(s);
            let mut next: Vec<Value> = (0..count)
                .map(|v| {
                    let w = e.load(Type::F32x4, Memory::Weights, p[count + 1], v * LANES * 4);
                    e.mul_add(w, s, p[v])
                })
                .collect();
            next.push(e.offset(p[count], 4));
            next.push(e.offset(p[count + 1], row));
            next
        });
        for (v, &x) in sums[..count].iter().enumerate() {
            e.store(Memory::Caller, x, to, (first + v) * LANES * 4);
        }
    }
}
