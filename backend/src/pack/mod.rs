//! Packing: a graph's weights in the layouts that the plan decided.

mod integer;
mod strips;

use crate::error::CompileError;
use crate::plan::{
    Format, LANES, PANEL, Packed, Packing, Panels, Plan, Rows, StripValues, dense, dense_with_columns,
    gate_row,
};
use lstmc_frontend::ir::{Graph, LinearMap, Quantized};
use lstmc_kernels::PackedData;

/// Packs all weights of a plan.
pub fn pack(plan: &Plan, graph: &Graph) -> Result<Vec<PackedData>, CompileError> {
    plan.weights.iter().map(|p| pack_one(p, graph)).collect()
}

/// Packs one weight.
pub fn pack_one(packed: &Packed, graph: &Graph) -> Result<PackedData, CompileError> {
    let source = &packed.source;
    let mut to = match packed.packing {
        Packing::Rows { format: Rows::F32, .. } => return Ok(PackedData::shared(dense(graph, source)?)),
        _ => PackedData::zeros(packed.packing.bytes()),
    };
    let map = &**source.resolve(graph);
    let named = |error| CompileError::Map { name: source.name(graph), error };
    match packed.packing {
        // Returned above.
        Packing::Rows { format: Rows::F32, .. } => {}
        Packing::Rows { rows, cols, format: Rows::Codes { groups } } => {
            integer::rows(quantized(map), rows, cols, groups, to.bytes_mut()).map_err(named)?;
        }
        Packing::Panels(p) => match p.format {
            Format::F32 => panels(&p, &dense(graph, source)?, to.f32s_mut()),
            Format::Integer(i) => {
                integer::panels(&p, i, quantized(map), to.bytes_mut()).map_err(named)?;
            }
            Format::Strips(s) => {
                let LinearMap::Sparse(sparse) = map else { unreachable!("strips are made of sparse maps") };
                let kept = sparse.element_mask().map_err(named)?;
                match s.values {
                    StripValues::F32 => {
                        let values = dense(graph, &source.child(0))?;
                        strips::floats(&p, s, &kept, &values, to.bytes_mut());
                    }
                    StripValues::Int8 { signed } => {
                        let q = quantized(sparse.values());
                        strips::integers(&p, s, signed, &kept, q, to.bytes_mut()).map_err(named)?;
                    }
                }
            }
        },
        Packing::Transposed(p) => {
            let w = dense(graph, source)?;
            let (rows, cols) = (p.input, p.out);
            let mut transposed = vec![0.0; w.len()];
            for i in 0..rows {
                for j in 0..cols {
                    transposed[j * rows + i] = w[i * cols + j];
                }
            }
            panels(&p, &transposed, to.f32s_mut());
        }
        Packing::Core { modes, rank, width } => {
            core(&dense_with_columns(graph, source)?, modes, rank, width, to.f32s_mut());
        }
        Packing::Vector { len } => to.f32s_mut()[..len].copy_from_slice(&dense(graph, source)?),
        Packing::Columns { len } => {
            let columns = map.columns().map(|c| c.to_f32()).transpose().map_err(|e| named(e.into()))?;
            to.f32s_mut()[..len].copy_from_slice(&columns.expect("the plan found columns"));
        }
        Packing::GateBias { units, gates } => {
            let bias = dense(graph, source)?;
            for (lane, to) in to.f32s_mut().iter_mut().enumerate() {
                *to = gate_row(gates, units, lane).map_or(0.0, |row| bias[row]);
            }
        }
        Packing::Parameters { units, .. } => {
            let all = dense(graph, source)?;
            let rows = to.f32s_mut().chunks_exact_mut(units.next_multiple_of(PANEL).max(1));
            rows.zip(all.chunks_exact(units.max(1))).for_each(|(to, from)| to[..units].copy_from_slice(from));
        }
    }
    Ok(to)
}

/// The codes that the plan found in a map; a mask's values are zero where nothing is kept.
fn quantized(map: &LinearMap) -> &Quantized {
    match map {
        LinearMap::Quantized(q) => q,
        other => unreachable!("the plan chose integers for a {} map", other.kind()),
    }
}

/// Row-major `[out][input]` to `[out / 32][input][32]`.
fn panels(p: &Panels, w: &[f32], to: &mut [f32]) {
    for (n, panel) in to.chunks_exact_mut((p.input * PANEL).max(1)).enumerate() {
        for (lane, row) in p.rows(n).into_iter().enumerate() {
            let Some(row) = row else { continue };
            for (k, &x) in w[row * p.input..(row + 1) * p.input].iter().enumerate() {
                panel[k * PANEL + lane] = x;
            }
        }
    }
}

/// A core `[rank * modes, width]`, the rank outermost, to `[modes][rank][width, padded]`.
fn core(g: &[f32], modes: usize, rank: usize, width: usize, to: &mut [f32]) {
    let padded = width.next_multiple_of(LANES);
    for m in 0..modes {
        for a in 0..rank {
            let at = (m * rank + a) * padded;
            to[at..at + width].copy_from_slice(&g[(a * modes + m) * width..][..width]);
        }
    }
}
