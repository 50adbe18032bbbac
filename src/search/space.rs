//! What a search may do: groups of a model's maps, a structure for each, a quantizer for all; and how that is spelled as a pipeline.

use lstmc_frontend::ir::{Graph, NotCanonical, Program, StepKind, WeightId};
use lstmc_passes::{Pipeline, Table};
use std::fmt::Write;

/// Maps that are changed together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Their names.
    pub maps: Vec<String>,
    /// What they are.
    pub role: Role,
    /// Inputs of the narrowest.
    pub inputs: usize,
    /// The greatest rank that saves numbers, of the smallest.
    pub full: usize,
    /// Numbers in all of them.
    pub parameters: usize,
}

/// What maps are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Tokens to vectors: a row is read at each step, the size hardly matters for time.
    Embedding,
    /// The maps of a recurrent cell.
    Recurrent,
    /// Any other product.
    Linear,
    /// The product that makes the logits.
    Output,
}

/// What becomes of a group's maps before they are quantized.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Structure {
    /// Nothing.
    #[default]
    Dense,
    /// Two thin factors.
    LowRank(usize),
    /// A part of the weights is zero: percents, and whether they are blocks that kernels skip.
    Pruned(usize, bool),
}

/// How numbers are stored.
#[derive(Clone, PartialEq, Debug)]
pub enum Quantizer {
    /// As they are.
    Kept,
    /// All together, bits a weight on average.
    Rate(f64),
    /// All together, in so many bytes.
    Bytes(usize),
    /// All alike: bits of codes.
    Uniform(u32),
    /// Bits of each group's codes.
    Bits(Vec<u32>),
}

/// Training, between structure and quantizer or of codes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Training {
    /// Times that the text is read.
    pub epochs: f64,
    /// Of the random choices.
    pub seed: u64,
}

/// A candidate, in parts.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// Of each group.
    pub structures: Vec<Structure>,
    /// Before the quantizer, if any.
    pub training: Option<Training>,
    /// Makes codes.
    pub quantizer: Quantizer,
    /// Of the codes, after the quantizer, if any.
    pub tuning: Option<Training>,
}

/// The groups of a model.
#[derive(Clone, Debug)]
pub struct Space {
    /// In order of execution.
    pub groups: Vec<Group>,
    /// Numbers in all weights.
    pub parameters: usize,
    /// The state of the widest recurrent cell.
    width: usize,
    table: Table,
}

/// Scales for so many consecutive inputs: the numbers among these that divide a width.
const SCALES: std::ops::RangeInclusive<usize> = 32..=65;

/// Epochs from which on a model is trained for long.
const LONG: f64 = 4.0;

/// Bits from which on rounding to nearest, with a scale for each row, is good enough.
const FINE_BITS: u32 = 8;

impl Space {
    /// The groups of a model in language-model form; pipelines are made of the passes in `table`.
    pub fn of(graph: &Graph, table: Table) -> Result<Space, NotCanonical> {
        let program = Program::of(graph)?;
        let decoder = program.decoder();
        let mut space = Space { groups: vec![], parameters: program.parameters(), width: 0, table };
        for (id, step) in program.steps() {
            match &step.kind {
                StepKind::Embed(e) => space.add(graph, Role::Embedding, &[e.table]),
                StepKind::Cell(c) => {
                    if let Ok([_, width]) = graph.weight(c.recurrent).map.matrix_shape() {
                        space.width = space.width.max(width);
                    }
                    space.add(graph, Role::Recurrent, &[c.input, c.recurrent]);
                }
                StepKind::Apply(a) => {
                    let role = if decoder == Some(id) { Role::Output } else { Role::Linear };
                    let maps: Vec<WeightId> = a.terms.iter().map(|(_, w)| *w).collect();
                    space.add(graph, role, &maps);
                }
                StepKind::Map(_) | StepKind::Norm(_) | StepKind::LogSoftmax(_) | StepKind::Concat(_) => {}
            }
        }
        Ok(space)
    }

    /// Adds a group of these maps, without those that are in another; a tied output layer makes time matter for its table.
    fn add(&mut self, graph: &Graph, role: Role, maps: &[WeightId]) {
        let mut group = Group { maps: vec![], role, inputs: usize::MAX, full: usize::MAX, parameters: 0 };
        for &id in maps {
            let weight = graph.weight(id);
            if let Some(other) = self.groups.iter_mut().find(|g| g.maps.contains(&weight.name)) {
                other.role = if other.role == Role::Embedding { role } else { other.role };
                continue;
            }
            // A target is a pattern, in which these mean something else.
            let is_plain = !weight.name.contains(['*', '?', '|', ' ']);
            let Ok([rows, inputs]) = weight.map.matrix_shape() else { continue };
            if is_plain && rows > 0 && inputs > 0 && !group.maps.contains(&weight.name) {
                group.maps.push(weight.name.clone());
                group.inputs = group.inputs.min(inputs);
                group.full = group.full.min(rows * inputs / (rows + inputs));
                group.parameters += rows * inputs;
            }
        }
        if !group.maps.is_empty() {
            self.groups.push(group);
        }
    }

    /// A candidate without structures.
    pub fn plain(&self, quantizer: Quantizer) -> Candidate {
        let structures = vec![Structure::Dense; self.groups.len()];
        Candidate { structures, training: None, quantizer, tuning: None }
    }

    /// Its pipeline; `None` if it cannot be spelled, as with a custom pass table that lacks a pass.
    pub fn pipeline(&self, candidate: &Candidate) -> Option<String> {
        let mut passes: Vec<String> = vec![];
        for (group, structure) in self.groups.iter().zip(&candidate.structures) {
            let target = group.maps.join("|");
            match structure {
                Structure::Dense => {}
                Structure::LowRank(rank) => {
                    passes.push(format!("low-rank(target=\"{target}\", rank={rank})"))
                }
                Structure::Pruned(percent, blocks) => {
                    let block = if *blocks { ", block=16x1" } else { "" };
                    let sparsity = *percent as f64 / 100.0;
                    passes.push(format!("prune(target=\"{target}\", sparsity={sparsity}{block})"));
                }
            }
        }
        passes.extend(candidate.training.map(|training| self.training(training)));
        match &candidate.quantizer {
            Quantizer::Kept => {}
            Quantizer::Rate(rate) => passes.push(format!("quantize(rate={rate})")),
            Quantizer::Bytes(bytes) => passes.push(format!("quantize(bytes={bytes})")),
            Quantizer::Uniform(bits) => passes.push(format!("quantize(bits={bits})")),
            Quantizer::Bits(bits) => passes.extend(self.quantized(&candidate.structures, bits)),
        }
        passes.extend(candidate.tuning.map(|training| self.tuning(training)));
        Pipeline::parse_with(&passes.join(", "), self.table).ok().map(|p| p.to_string())
    }

    /// Training before codes: the schedule of the shipped recipes for 200 units. Wider models take smaller steps and more dropout, and longer runs more dropout.
    fn training(&self, Training { epochs, seed }: Training) -> String {
        let width = self.width.max(1) as f64 / 200.0;
        let rate = round(0.002 / width.sqrt(), 1e-4).max(1e-4);
        let least = if epochs < LONG { 0.15 } else { 0.25 };
        let dropout = round(least + 0.1 * width.log2(), 0.01).clamp(0.1, 0.5);
        format!("recover(epochs={epochs}, optimizer=adamw, lr={rate}, dropout={dropout}, seed={seed})")
    }

    /// Training of codes, of which the file gets smaller: that of the smallest shipped recipe.
    fn tuning(&self, Training { epochs, seed }: Training) -> String {
        let maps: Vec<&str> = self.groups.iter().flat_map(|g| &g.maps).map(String::as_str).collect();
        format!(
            "recover(target=\"{}\", epochs={epochs}, optimizer=adamw, lr=0.003, batch=32, bptt=30, dropout=0.1, factors=keep, dead-zone=0.58, rate-penalty=0.00003, distill=0.5, average=0.2, seed={seed})",
            maps.join("|")
        )
    }

    /// A pass for each kind of codes.
    fn quantized(&self, structures: &[Structure], bits: &[u32]) -> Vec<String> {
        let mut kinds: Vec<((u32, Option<usize>), String)> = vec![];
        for ((group, structure), &bits) in self.groups.iter().zip(structures).zip(bits) {
            let width = match structure {
                Structure::LowRank(rank) => *rank,
                _ => group.inputs,
            };
            let divides = |scale: &usize| width.is_multiple_of(*scale);
            let scales = if bits >= FINE_BITS { None } else { SCALES.rev().find(divides) };
            let target = group.maps.join("|");
            match kinds.iter_mut().find(|(kind, _)| *kind == (bits, scales)) {
                // Writing to a string cannot fail.
                Some((_, all)) => _ = write!(all, "|{target}"),
                None => kinds.push(((bits, scales), target)),
            }
        }
        let pass = |((bits, scales), target): ((u32, Option<usize>), String)| {
            let group = scales.map_or(String::new(), |n| format!(", group={n}"));
            format!("quantize(target=\"{target}\", bits={bits}{group})")
        };
        kinds.into_iter().map(pass).collect()
    }
}

/// The nearest multiple of a unit, without digits beyond it.
fn round(value: f64, unit: f64) -> f64 {
    (value / unit).round() / unit.recip().round()
}

impl Group {
    /// A rank of about this part of the full one; multiples of 8, as far as it is large.
    pub fn rank(&self, part: f64) -> Structure {
        let rank = (self.full as f64 * part).round() as usize;
        let rank = if rank >= 16 { rank.next_multiple_of(8) } else { rank };
        Structure::LowRank(rank.clamp(1, self.full.max(1)))
    }

    /// The first structures to try where size counts.
    pub fn coarse(&self) -> Vec<Structure> {
        match self.role {
            Role::Embedding => vec![self.rank(0.5), self.rank(0.25)],
            Role::Output => vec![self.rank(0.5), Structure::Pruned(50, false)],
            Role::Recurrent | Role::Linear => vec![Structure::Pruned(50, false)],
        }
    }

    /// Structures a small step away.
    pub fn near(&self, structure: Structure) -> Vec<Structure> {
        let mut all = match structure {
            Structure::Dense => vec![self.rank(0.75)],
            Structure::LowRank(rank) => {
                let scaled = |by: f64| self.rank(by * rank as f64 / self.full.max(1) as f64);
                vec![scaled(0.75), scaled(1.3), Structure::Dense]
            }
            Structure::Pruned(percent, blocks) => {
                let moved =
                    |by: isize| Structure::Pruned(percent.saturating_add_signed(by).clamp(5, 95), blocks);
                vec![moved(-15), moved(15), Structure::Dense]
            }
        };
        all.retain(|s| *s != structure);
        all.dedup();
        all
    }

    /// The choices where time counts, each with its bits; the first is what others are compared with.
    pub fn timed(&self) -> Vec<(Structure, u32)> {
        let mut all = vec![(Structure::Dense, 8)];
        if self.role == Role::Embedding {
            return all;
        }
        all.extend([(Structure::Dense, 4), (Structure::Dense, 2)]);
        for part in [0.6, 0.4, 0.25] {
            all.extend([(self.rank(part), 8), (self.rank(part), 4)]);
        }
        all.extend([50, 70, 85].map(|percent| (Structure::Pruned(percent, true), 8)));
        all.dedup();
        all
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use lstmc_frontend::ir::arbitrary;
    use lstmc_passes::registry::PASSES;

    /// The space of a small model of two layers.
    pub(crate) fn space() -> Space {
        Space::of(&arbitrary::language_model(40, 2, 300, 1), PASSES).unwrap()
    }

    #[test]
    fn groups_of_a_model() {
        let space = space();
        let roles: Vec<Role> = space.groups.iter().map(|g| g.role).collect();
        assert_eq!(roles, [Role::Embedding, Role::Recurrent, Role::Recurrent, Role::Output]);
        assert_eq!(space.groups[1].maps, ["lstm0.input", "lstm0.recurrent"]);
        assert_eq!((space.groups[3].inputs, space.groups[3].parameters), (40, 12000));
    }

    #[test]
    fn pipelines_are_read_back() {
        let space = space();
        let plain = space.plain(Quantizer::Rate(2.5));
        assert_eq!(space.pipeline(&plain).unwrap(), "quantize(rate=2.5)");
        let mut candidate = space.plain(Quantizer::Bits(vec![4, 8, 8, 4]));
        candidate.structures[0] = Structure::LowRank(16);
        candidate.structures[3] = Structure::Pruned(50, true);
        candidate.training = Some(Training { epochs: 9.0, seed: 1 });
        candidate.tuning = Some(Training { epochs: 1.0, seed: 1 });
        insta::assert_snapshot!(space.pipeline(&candidate).unwrap().replace("), ", "),\n"));
        for group in &space.groups {
            for structure in group.coarse().into_iter().chain(group.timed().into_iter().map(|(s, _)| s)) {
                let mut candidate = space.plain(Quantizer::Bytes(9000));
                candidate.structures = vec![structure; space.groups.len()];
                assert!(space.pipeline(&candidate).is_some(), "{structure:?}");
                assert!(!group.near(structure).contains(&structure));
            }
        }
    }
}
