//! Small sizes that a model is evaluated with: every shape is then known, and so is all that is computed from shapes.
//!
//! The axes of the inputs are named as exporters please, or not at all; which axis of the tokens counts time, and which axis of a state counts
//! streams, shows only when the model is evaluated. So there are several candidates, the likeliest first, and the first that gives a language
//! model is right.

use super::loops::body_of;
use crate::ir::{Dim, Graph, Onnx, Op, Operand, Type, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Time steps and streams of an evaluation, where the model does not fix them.
const STEPS: usize = 3;
const STREAMS: usize = 2;

/// The maximum number of candidates.
const MOST: usize = 64;

/// What an axis of the tokens counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Time steps.
    Steps,
    /// Streams.
    Streams,
    /// Nothing: it has one element, or it is the features of a one-hot vector.
    Nothing,
}

/// The sizes of one evaluation.
#[derive(Clone, PartialEq, Debug)]
pub struct Sizes {
    /// The input that is the tokens.
    pub tokens: ValueId,
    /// Whether tokens are one-hot vectors along the last axis.
    pub one_hot: bool,
    /// What each axis of the tokens counts.
    pub roles: Vec<Role>,
    /// Time steps.
    pub steps: usize,
    /// Streams.
    pub streams: usize,
    shapes: BTreeMap<ValueId, Vec<usize>>,
    /// The axis of an input that counts streams.
    axes: BTreeMap<ValueId, usize>,
}

impl Sizes {
    pub(super) fn shape(&self, input: ValueId) -> &[usize] {
        &self.shapes[&input]
    }

    /// The inputs.
    pub(super) fn inputs(&self) -> impl Iterator<Item = ValueId> {
        self.shapes.keys().copied()
    }

    /// The time step and the stream of each token, in order.
    pub(super) fn places(&self) -> Vec<[usize; 2]> {
        let shape = self.shape(self.tokens);
        let shape = &shape[..shape.len() - usize::from(self.one_hot)];
        let place = |index: usize| {
            let (mut rest, mut place) = (index, [0, 0]);
            for (&d, role) in shape.iter().zip(&self.roles).rev() {
                match role {
                    Role::Steps => place[0] = rest % d,
                    Role::Streams => place[1] = rest % d,
                    Role::Nothing => {}
                }
                rest /= d.max(1);
            }
            place
        };
        (0..shape.iter().product()).map(place).collect()
    }

    pub(super) fn streams_axis(&self, input: ValueId) -> Option<usize> {
        self.axes.get(&input).copied()
    }

    /// These sizes with another value as the tokens: one that is computed from them, such as the tokens behind a start token.
    pub(super) fn with_tokens(&self, value: ValueId, shape: &[usize]) -> Option<Sizes> {
        if shape.len() != self.roles.len() || self.one_hot {
            return None;
        }
        let mut sizes = Sizes { tokens: value, ..self.clone() };
        sizes.shapes.insert(value, shape.to_vec());
        let of = |role: Role| sizes.roles.iter().position(|r| *r == role).map_or(1, |k| shape[k]);
        (sizes.steps, sizes.streams) = (of(Role::Steps), of(Role::Streams));
        (sizes.streams == self.streams).then_some(sizes)
    }

    /// The sizes of given shapes of all inputs, with the roles of these sizes.
    pub fn at(&self, shapes: BTreeMap<ValueId, Vec<usize>>) -> Sizes {
        let of = |role: Role| {
            let shape = &shapes[&self.tokens];
            self.roles.iter().position(|r| *r == role).map_or(1, |k| shape[k])
        };
        Sizes { steps: of(Role::Steps), streams: of(Role::Streams), shapes: shapes.clone(), ..self.clone() }
    }
}

/// Integer inputs that are looked up in a table of weights, in order of the nodes that do.
fn looked_up(graph: &Graph) -> Vec<ValueId> {
    let mut tokens = vec![];
    look_up(graph, &BTreeMap::new(), &mut tokens);
    tokens
}

/// Those that a graph looks up whose inputs come from these inputs of the graph around it.
fn look_up(graph: &Graph, outer: &BTreeMap<ValueId, Vec<ValueId>>, tokens: &mut Vec<ValueId>) {
    let producer = |v: ValueId| graph.node(graph.producer(v));
    let sources = |from: ValueId| {
        let (mut seen, mut stack, mut found) = (BTreeSet::new(), vec![from], vec![]);
        while let Some(v) = stack.pop() {
            if !seen.insert(v) {
                continue;
            }
            let node = producer(v);
            match node.op {
                Op::Input | Op::State => found.extend(outer.get(&v).cloned().unwrap_or_else(|| vec![v])),
                // A size is not a token.
                Op::Shape { .. } => {}
                _ => stack.extend(node.operands().iter().rev().filter_map(|o| match o {
                    Operand::Value(v) => Some(*v),
                    _ => None,
                })),
            }
        }
        found
    };
    for (_, node) in graph.nodes() {
        if let Some((body, first)) = body_of(&node.op) {
            // The number of the iteration and the condition come before what is carried.
            let operands = node.operands().iter().map(|o| match o {
                Operand::Value(v) => sources(*v),
                _ => vec![],
            });
            let operands = vec![vec![]; first].into_iter().chain(operands.skip(first));
            look_up(body, &body.sources(&Op::Input).into_iter().zip(operands).collect(), tokens);
        }
        let which = match node.op {
            Op::Gather { .. } => 1,
            Op::Onnx(Onnx::OneHot { .. }) => 0,
            _ => continue,
        };
        let Some(Operand::Value(indices)) = node.operands().get(which) else { continue };
        let is_table = which == 0
            || match node.operands()[0] {
                Operand::Weight(w) => {
                    let map = &graph.weight(w).map;
                    map.dtype().is_float() || map.shape().len() > 1
                }
                Operand::Value(v) => sources(v).is_empty() && graph.type_of(v).dtype.is_float(),
                Operand::None => false,
            };
        if is_table {
            let found = sources(*indices);
            let new: Vec<ValueId> = found.into_iter().filter(|v| !tokens.contains(v)).collect();
            tokens.extend(new);
        }
    }
}

/// Candidates, the likeliest first; none if there is no input that tokens can be.
pub(super) fn candidates(graph: &Graph) -> Vec<Sizes> {
    let inputs: Vec<ValueId> = [Op::Input, Op::State].iter().flat_map(|op| graph.sources(op)).collect();
    let mut tokens: Vec<(ValueId, bool)> = looked_up(graph).into_iter().map(|v| (v, false)).collect();
    if tokens.is_empty() {
        // A one-hot vector is multiplied with the embedding instead.
        let is_one_hot = |v: &ValueId| {
            let ty = graph.type_of(*v);
            let width = ty.shape.last().and_then(Dim::as_constant);
            ty.dtype.is_float() && ty.shape.len() >= 2 && width.is_some_and(|n| n > 1)
        };
        tokens = inputs.iter().filter(|v| is_one_hot(v)).map(|&v| (v, true)).collect();
        // A state has as many elements as a one-hot vector may have: names and sizes tell.
        let sounds_like_state = |v: ValueId| {
            let name = graph.name_of(v).to_ascii_lowercase();
            let word = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
            matches!(word, "h" | "c")
                || ["state", "hidden", "cell", "h_", "c_"].iter().any(|s| name.contains(s))
        };
        let width = |v: ValueId| graph.type_of(v).shape.last().and_then(Dim::as_constant).unwrap_or(0);
        tokens.sort_by_key(|&(v, _)| (sounds_like_state(v), std::cmp::Reverse(width(v))));
    }
    let mut all: Vec<Sizes> = vec![];
    // Some models are right for one stream only.
    for streams in [STREAMS, 1] {
        for &(token, one_hot) in &tokens {
            for roles in roles(graph.type_of(token), one_hot) {
                let mut more = with_roles(graph, &inputs, (token, one_hot), roles, streams);
                more.retain(|sizes| !all.contains(sizes));
                all.append(&mut more);
            }
        }
    }
    all.truncate(MOST);
    all
}

/// What the axes of tokens may count.
fn roles(ty: &Type, one_hot: bool) -> Vec<Vec<Role>> {
    let rank = ty.shape.len() - usize::from(one_hot);
    let open: Vec<usize> = (0..rank).filter(|&k| !ty.shape[k].is(1)).collect();
    let of = |steps: Option<usize>, streams: Option<usize>| {
        let role = |k: usize| match Some(k) {
            at if at == steps => Role::Steps,
            at if at == streams => Role::Streams,
            _ => Role::Nothing,
        };
        (0..ty.shape.len()).map(role).collect::<Vec<_>>()
    };
    match open[..] {
        [] => vec![of(None, None)],
        [a] => vec![of(Some(a), None), of(None, Some(a))],
        [a, b, ..] => vec![of(Some(a), Some(b)), of(Some(b), Some(a))],
    }
}

fn with_roles(
    graph: &Graph,
    inputs: &[ValueId],
    (tokens, one_hot): (ValueId, bool),
    roles: Vec<Role>,
    streams: usize,
) -> Vec<Sizes> {
    let mut symbols: HashMap<Dim, usize> = HashMap::new();
    let mut shape = vec![];
    let dims = &graph.type_of(tokens).shape;
    for (dim, role) in dims.iter().zip(&roles) {
        let size = dim.as_constant().unwrap_or(match role {
            Role::Steps => STEPS,
            Role::Streams => streams,
            Role::Nothing => 1,
        });
        if dim.as_constant().is_none() && *dim != Dim::Unknown {
            symbols.insert(dim.clone(), size);
        }
        shape.push(size);
    }
    let at = |role: Role| roles.iter().position(|r| *r == role);
    let of = |role: Role| at(role).map_or(1, |k| shape[k]);
    let (steps, streams) = (of(Role::Steps), of(Role::Streams));
    let stream_symbol = at(Role::Streams).map(|k| &dims[k]).filter(|d| d.as_constant().is_none());
    let shapes = BTreeMap::from([(tokens, shape.clone())]);
    let base = Sizes { tokens, one_hot, roles: roles.clone(), steps, streams, shapes, axes: BTreeMap::new() };
    let mut all = vec![(base, symbols)];
    let widths = widths(graph);
    for &input in inputs.iter().filter(|&&v| v != tokens) {
        let ty = graph.type_of(input);
        let mut next = vec![];
        for (sizes, symbols) in &all {
            for (shape, axis) in shapes_of(ty, stream_symbol, symbols, [steps, streams], &widths) {
                let (mut sizes, mut symbols) = (sizes.clone(), symbols.clone());
                let named = ty.shape.iter().zip(&shape).filter(|(d, _)| d.as_constant().is_none());
                symbols.extend(named.map(|(d, &n)| (d.clone(), n)));
                sizes.shapes.insert(input, shape);
                sizes.axes.extend(axis.map(|a| (input, a)));
                next.push((sizes, symbols));
            }
        }
        next.truncate(MOST);
        all = next;
    }
    all.into_iter().map(|(sizes, _)| sizes).collect()
}

/// Sizes that an axis of unknown size may have: units, layers.
fn widths(graph: &Graph) -> Vec<usize> {
    let mut units: Vec<usize> = vec![];
    let mut layers = 0;
    for (_, node) in graph.nodes() {
        let n = match &node.op {
            Op::OnnxLstm(l) => l.hidden_size,
            Op::OnnxGru(g) => g.hidden_size,
            Op::OnnxRnn(r) => r.hidden_size,
            _ => continue,
        };
        layers += 1;
        if !units.contains(&n) {
            units.push(n);
        }
    }
    if units.is_empty() {
        let columns = graph.weights().filter_map(|(_, w)| w.map.shape().last().copied());
        units = columns.filter(|&n| n > 1).collect::<BTreeSet<usize>>().into_iter().take(8).collect();
    }
    units.extend([layers, 2 * layers].into_iter().filter(|&n| n > 0));
    units
}

/// The shapes that an input other than the tokens may have, and which axis counts streams.
fn shapes_of(
    ty: &Type,
    streams_symbol: Option<&Dim>,
    symbols: &HashMap<Dim, usize>,
    [steps, streams]: [usize; 2],
    widths: &[usize],
) -> Vec<(Vec<usize>, Option<usize>)> {
    let open: Vec<usize> = (0..ty.shape.len()).filter(|&k| ty.shape[k].as_constant().is_none()).collect();
    let named = |k: usize| symbols.get(&ty.shape[k]).copied().filter(|_| ty.shape[k] != Dim::Unknown);
    if !ty.dtype.is_float() || open.is_empty() {
        let size = |k: usize| ty.shape[k].as_constant().or(named(k));
        let default = if ty.shape.len() <= 1 { streams } else { steps };
        let shape: Vec<usize> = (0..ty.shape.len()).map(|k| size(k).unwrap_or(default)).collect();
        let mut axes: Vec<usize> = (0..shape.len()).filter(|&k| streams > 1 && shape[k] == streams).collect();
        if !open.is_empty() || axes.is_empty() {
            return vec![(shape, None)];
        }
        // Layers come before streams, and these before units.
        axes.sort_by_key(|&k| (k + 1 == shape.len(), k == 0));
        return axes.into_iter().map(|axis| (shape.clone(), Some(axis))).collect();
    }
    // The axis of the streams: that of the tokens' name, if there is one, otherwise any.
    let by_name =
        open.iter().copied().find(|&k| Some(&ty.shape[k]) == streams_symbol && ty.shape[k] != Dim::Unknown);
    let axes: Vec<usize> = match by_name {
        Some(k) => vec![k],
        // Streams come before units.
        None => {
            let mut axes = open.clone();
            axes.retain(|&k| named(k).is_none_or(|n| n == streams));
            axes.sort_by_key(|&k| (k + 1 == ty.shape.len(), k == 0 && open.len() > 1));
            axes
        }
    };
    let mut all = vec![];
    for axis in axes {
        let mut shapes: Vec<Vec<usize>> = vec![vec![]];
        for k in 0..ty.shape.len() {
            let sizes: Vec<usize> = if k == axis {
                vec![streams]
            } else if let Some(n) = ty.shape[k].as_constant().or(named(k)) {
                vec![n]
            } else if k + 1 == ty.shape.len() {
                widths.to_vec()
            } else {
                widths.iter().rev().copied().chain([1]).collect()
            };
            shapes = shapes
                .into_iter()
                .flat_map(|s| {
                    sizes.iter().map(move |&n| {
                        let mut s = s.clone();
                        s.push(n);
                        s
                    })
                })
                .collect();
        }
        all.extend(shapes.into_iter().map(|s| (s, Some(axis))));
    }
    all.truncate(MOST);
    all
}
