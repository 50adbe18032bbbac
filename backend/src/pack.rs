//! Packing: a graph's weights in the layouts that the plan decided.

use crate::error::CompileError;
use crate::plan::{LANES, PANEL, PANEL_UNITS, Packed, Packing, Plan, dense, tail_vectors};
use lstmc_frontend::ir::{Gate, GateOrder, Graph, Op, Operand, WeightId};
use std::sync::Arc;

/// The order of gates in packed panels.
pub(crate) const PACKED_GATES: [Gate; 4] = [Gate::Input, Gate::Output, Gate::Forget, Gate::Cell];

/// A packed weight's data: our own aligned copy, or the graph's where the layout is the same.
#[derive(Debug)]
pub enum PackedData {
    /// f32s from `start` on, where they are aligned to 64 bytes.
    Own {
        /// The allocation.
        data: Vec<f32>,
        /// The first f32 that is aligned.
        start: usize,
    },
    /// The graph's own row-major data.
    Shared(Arc<Vec<f32>>),
}

impl PackedData {
    fn zeros(len: usize) -> PackedData {
        let data = vec![0.0f32; len + 16];
        let start = data.as_ptr().align_offset(64).min(16);
        PackedData::Own { data, start }
    }

    /// The packed f32s.
    pub fn as_slice(&self) -> &[f32] {
        match self {
            PackedData::Own { data, start } => &data[*start..],
            PackedData::Shared(data) => data,
        }
    }

    fn as_mut(&mut self) -> &mut [f32] {
        match self {
            PackedData::Own { data, start } => &mut data[*start..],
            PackedData::Shared(_) => unreachable!("only our own copies are filled"),
        }
    }
}

/// Packs every weight of a plan.
pub fn pack(plan: &Plan, graph: &Graph) -> Result<Vec<PackedData>, CompileError> {
    plan.weights.iter().map(|p| pack_one(p, graph)).collect()
}

fn pack_one(packed: &Packed, graph: &Graph) -> Result<PackedData, CompileError> {
    let source = |i: usize| dense(graph, packed.sources[i]);
    Ok(match packed.packing {
        Packing::Rows { .. } => PackedData::Shared(source(0)?),
        Packing::Panels { out, input } => {
            let w = source(0)?;
            let mut to = PackedData::zeros(packed.packing.len());
            panels(&w, out, input, to.as_mut());
            to
        }
        Packing::GatePanels { hidden, input } => {
            let order = gate_order(graph, packed.sources[0]);
            let (w, u) = (source(0)?, source(1)?);
            let mut to = PackedData::zeros(packed.packing.len());
            gate_panels(order, &[(&w, input), (&u, hidden)], hidden, to.as_mut());
            to
        }
        Packing::Vector { len, fill } => {
            let mut to = PackedData::zeros(packed.packing.len());
            if !packed.sources.is_empty() {
                to.as_mut()[..len].copy_from_slice(&source(0)?);
            }
            let padded = len.next_multiple_of(LANES);
            to.as_mut()[len..padded].fill(fill.value());
            to
        }
        Packing::GateBias { hidden } => {
            let order = gate_order(graph, packed.sources[0]);
            let b = source(0)?;
            let mut to = PackedData::zeros(packed.packing.len());
            gate_panels(order, &[(&b, 1)], hidden, to.as_mut());
            to
        }
    })
}

/// The gate order of the cell that reads a weight.
pub(crate) fn gate_order(graph: &Graph, weight: WeightId) -> GateOrder {
    graph
        .nodes()
        .find_map(|(_, n)| match n.op {
            Op::Lstm { gates } if n.operands().contains(&Operand::Weight(weight)) => Some(gates),
            _ => None,
        })
        .unwrap_or(GateOrder::Iofc)
}

/// `[out][input]` to `[out / 32][input][32]`.
fn panels(w: &[f32], out: usize, input: usize, to: &mut [f32]) {
    let mut at = 0;
    for first in (0..out).step_by(PANEL) {
        let real = PANEL.min(out - first);
        let width = tail_vectors(real) * LANES;
        let panel = &mut to[at..at + input * width];
        for lane in 0..real {
            let row = &w[(first + lane) * input..(first + lane + 1) * input];
            for (k, &x) in row.iter().enumerate() {
                panel[k * width + lane] = x;
            }
        }
        at += input * width;
    }
}

/// Maps of `[4 hidden][inputs]` side by side to `[hidden / 8][all inputs][4 gates][8]`.
fn gate_panels(order: GateOrder, maps: &[(&[f32], usize)], hidden: usize, to: &mut [f32]) {
    let inputs: usize = maps.iter().map(|(_, n)| n).sum();
    let mut at = 0;
    for first in (0..hidden).step_by(PANEL_UNITS) {
        let real = PANEL_UNITS.min(hidden - first);
        let width = tail_vectors(real) * LANES;
        let panel = &mut to[at..at + inputs * 4 * width];
        for (gate_at, gate) in PACKED_GATES.into_iter().enumerate() {
            for unit in 0..real {
                let row = order.position(gate) * hidden + first + unit;
                let mut k = 0;
                for (map, n) in maps {
                    for &x in &map[row * n..(row + 1) * n] {
                        panel[k * 4 * width + gate_at * width + unit] = x;
                        k += 1;
                    }
                }
            }
        }
        at += inputs * 4 * width;
    }
}
