//! Loops over the time steps that were unrolled when the model was exported: the same nodes again for each step.
//!
//! ```text
//!   h0 = tanh(x0 + init)   h1 = tanh(x1 + h0)   h2 = tanh(x2 + h1)   y = concat h0, h1, h2
//! ```
//!
//! From values that are put together for all steps, such as `(h0, h1, h2)`, the nodes of all steps are followed backwards side by side, as long as they are
//! the same. Where the steps read `(init, h0, h1)`, which are the values of the step before, they read a state. Whether that is right shows when the graph
//! is evaluated with the state in place of these values (see [`super::loops`]).

use super::evaluate::Evaluator;
use super::loops::Carried;
use super::sizes::Sizes;
use super::value::{Abstract, Why};
use crate::ir::{Graph, Node, NodeId, Onnx, Op, Operand, ValueId};
use std::collections::{HashMap, HashSet};

/// Values that more nodes read are not followed to these.
const MOST_READERS: usize = 64;

/// A value of each step.
type Values = Vec<Operand>;

/// What may be a state.
pub(super) struct Repeated {
    /// Before the first step.
    initial: Operand,
    /// After each step.
    next: Values,
    /// The nodes that read it, with the operand and the step.
    readers: Vec<(NodeId, usize, usize)>,
    /// What it became.
    state: Option<Carried>,
}

/// The states that an unrolled loop over so many steps may have.
fn find(graph: &Graph, steps: usize) -> Vec<Repeated> {
    if steps < 2 {
        return vec![];
    }
    let mut search = Search { graph, steps, ..Search::default_of(graph) };
    for (_, node) in graph.nodes() {
        let parts = parts(graph, node, steps);
        if parts.len() == steps {
            search.follow(parts);
        }
    }
    for values in taken(graph, steps) {
        search.lead(values);
    }
    let Search { read, readers, after, .. } = search;
    let state = |before: &Values| {
        let next = after.get(&before[1..]).filter(|next| *next != before)?.clone();
        Some(Repeated { initial: before[0], next, readers: readers[before].clone(), state: None })
    };
    read.iter().filter_map(state).collect()
}

/// What a node puts together along an axis, or what the last of several nodes and those before it append or write one by one.
fn parts<'g>(graph: &'g Graph, mut node: &'g Node, steps: usize) -> Values {
    let producer = |o: Operand| match o {
        Operand::Value(v) => Some(graph.node(graph.producer(v))),
        _ => None,
    };
    let is_join = matches!(node.op, Op::Concat { .. });
    if !is_join && !matches!(node.op, Op::Onnx(Onnx::ScatterND { .. } | Onnx::ScatterElements { .. })) {
        return vec![];
    }
    let mut all: Values = vec![];
    while let Some((&before, others)) = node.operands().split_first() {
        let new = if is_join { others } else { others.get(1..2).unwrap_or(&[]) };
        all.extend(new.iter().rev());
        match producer(before).filter(|earlier| earlier.op == node.op) {
            Some(earlier) if all.len() <= steps => node = earlier,
            _ => {
                all.extend(is_join.then_some(before));
                break;
            }
        }
    }
    all.reverse();
    all
}

/// What nodes take of one value: the results of one node, or of nodes that differ in their constants only.
fn taken(graph: &Graph, steps: usize) -> Vec<Values> {
    let mut all: Vec<Values> = vec![];
    let mut readers: Vec<(&Op, Operand, Values)> = vec![];
    for (_, node) in graph.nodes() {
        match &node.op {
            Op::Split { .. } => all.push(node.results().iter().map(|&v| v.into()).collect()),
            Op::Gather { .. } | Op::Slice if matches!(node.operands()[0], Operand::Value(_)) => {
                let place = readers.iter_mut().find(|(op, x, _)| **op == node.op && *x == node.operands()[0]);
                match place {
                    Some((.., results)) => results.push(node.results()[0].into()),
                    None => readers.push((&node.op, node.operands()[0], vec![node.results()[0].into()])),
                }
            }
            _ => {}
        }
    }
    all.extend(readers.into_iter().map(|(.., results)| results));
    all.retain(|values| values.len() == steps);
    all
}

struct Search<'g> {
    graph: &'g Graph,
    steps: usize,
    seen: HashSet<Values>,
    /// The values that nodes read, in order, and these nodes.
    read: Vec<Values>,
    readers: HashMap<Values, Vec<(NodeId, usize, usize)>>,
    /// Values of all steps, by those of all but the last.
    after: HashMap<Values, Values>,
}

impl<'g> Search<'g> {
    fn default_of(graph: &'g Graph) -> Search<'g> {
        let (seen, read, readers, after) = Default::default();
        Search { graph, steps: 0, seen, read, readers, after }
    }

    /// Follows what is computed from some values, side by side, and all of that backwards.
    fn lead(&mut self, from: Values) {
        let (mut todo, mut led) = (std::collections::VecDeque::from([from]), HashSet::new());
        while let Some(values) = todo.pop_front() {
            if !led.insert(values.clone()) {
                continue;
            }
            // The nodes that read each value: which operand, and as what.
            let readers = values.iter().map(|&value| {
                let Operand::Value(v) = value else { return vec![] };
                let of = self.graph.users(self.graph.producer(v)).collect::<std::collections::BTreeSet<_>>();
                let reads = |id: NodeId| {
                    let node = self.graph.node(id);
                    Some((node.operands().iter().position(|&o| o == value)?, id))
                };
                of.into_iter().filter_map(reads).collect::<Vec<_>>()
            });
            let readers: Vec<Vec<(usize, NodeId)>> = readers.collect();
            if readers[0].len() > MOST_READERS {
                continue;
            }
            for &(k, first) in &readers[0] {
                let like = |(j, id): &&(usize, NodeId)| *j == k && self.is_like(*id, first);
                let place = readers[0].iter().filter(like).position(|(_, id)| *id == first);
                let count = readers[0].iter().filter(like).count();
                let same = readers.iter().map(|of| {
                    let of: Vec<_> = of.iter().filter(like).collect();
                    Some(of.get(place?).filter(|_| of.len() == count)?.1)
                });
                let Some(nodes) = same.collect::<Option<Vec<NodeId>>>() else { continue };
                for result in 0..self.graph.node(first).results().len() {
                    let made: Values =
                        nodes.iter().map(|&n| self.graph.node(n).results()[result].into()).collect();
                    if self.repeated(&made).is_some() {
                        self.follow(made.clone());
                        todo.push_back(made);
                    }
                }
            }
        }
    }

    /// Whether two nodes do the same with the same weights.
    fn is_like(&self, a: NodeId, b: NodeId) -> bool {
        let (a, b) = (self.graph.node(a), self.graph.node(b));
        let is_same = |(x, y): (&Operand, &Operand)| match (x, y) {
            (Operand::Weight(x), Operand::Weight(y)) => {
                self.graph.weight(*x).map == self.graph.weight(*y).map
            }
            _ => true,
        };
        a.op == b.op && a.operands().iter().zip(b.operands()).all(is_same)
    }

    fn follow(&mut self, root: Values) {
        let mut todo = std::collections::VecDeque::from([root]);
        while let Some(values) = todo.pop_front() {
            if !self.seen.insert(values.clone()) || self.after.contains_key(&values[1..]) {
                continue;
            }
            self.after.entry(values[..self.steps - 1].to_vec()).or_insert_with(|| values.clone());
            let Some(nodes) = self.repeated(&values) else { continue };
            for k in 0..self.graph.node(nodes[0]).operands().len() {
                let read: Values = nodes.iter().map(|&n| self.graph.node(n).operands()[k]).collect();
                let is_value = |o: &Operand| matches!(o, Operand::Value(_));
                if !read.iter().any(is_value) || read.iter().all(|o| *o == read[0]) {
                    continue;
                }
                let readers = self.readers.entry(read.clone()).or_insert_with(|| {
                    self.read.push(read.clone());
                    vec![]
                });
                readers.extend(nodes.iter().enumerate().map(|(step, &node)| (node, k, step)));
                todo.push_back(read);
            }
        }
    }

    /// The nodes that make these values, if they are different nodes that do the same.
    fn repeated(&self, values: &Values) -> Option<Vec<NodeId>> {
        let value = |o: &Operand| match o {
            Operand::Value(v) => Some(*v),
            _ => None,
        };
        let values: Vec<ValueId> = values.iter().map(value).collect::<Option<_>>()?;
        let nodes: Vec<NodeId> = values.iter().map(|&v| self.graph.producer(v)).collect();
        let shape = |k: usize| {
            let node = self.graph.node(nodes[k]);
            (node.operands().len(), node.results().iter().position(|&r| r == values[k]))
        };
        let first = self.graph.node(nodes[0]);
        let are_same =
            (1..nodes.len()).all(|k| shape(k) == shape(0) && self.graph.node(nodes[k]).op == first.op);
        let are_different = nodes.iter().collect::<HashSet<_>>().len() == nodes.len();
        (are_same && are_different).then_some(nodes)
    }
}

impl<'g> Evaluator<'g> {
    /// The evaluation of a graph, with the states of unrolled loops.
    pub(super) fn evaluated(graph: &'g Graph, sizes: &'g Sizes) -> Evaluator<'g> {
        let mut repeated = find(graph, sizes.steps);
        loop {
            let mut evaluator = Evaluator::new(graph, sizes);
            let read: Vec<Operand> =
                repeated.iter().flat_map(|r| r.next.iter().copied().chain([r.initial])).collect();
            evaluator.keep(&read);
            for (k, r) in repeated.iter().enumerate() {
                for &(node, operand, step) in &r.readers {
                    evaluator.readers.entry((node, operand)).or_insert((k, step));
                }
            }
            evaluator.repeated = repeated;
            evaluator.run();
            repeated = std::mem::take(&mut evaluator.repeated);
            let before = repeated.len();
            repeated.retain_mut(|r| evaluator.settled(r));
            if repeated.len() == before {
                return evaluator;
            }
            evaluator.carried.clear();
        }
    }

    /// Whether what was evaluated as a state is one.
    fn settled(&mut self, repeated: &mut Repeated) -> bool {
        let Some(state) = repeated.state.take() else { return false };
        let next = repeated.next.iter().map(|&o| self.known(o)).collect::<Option<Vec<Abstract>>>();
        let Some(next) = next else { return false };
        let is_unknown = |next: &Abstract| match next {
            Abstract::Poison(reason) => !matches!(reason.why, Why::Order(_)),
            _ => false,
        };
        if next.iter().any(is_unknown) {
            // That is the reason why the model is refused.
            return true;
        }
        let finished = state.finish(next.iter(), self.sizes.streams).ok();
        let finished = finished.filter(|s| self.is_read(s.slot) && self.changes(s));
        let is_settled = finished.is_some();
        self.carried.extend(finished);
        is_settled
    }

    /// The state that a node reads in place of this operand.
    pub(super) fn repeated(&mut self, node: NodeId, operand: usize) -> Option<Abstract> {
        let (k, step) = *self.readers.get(&(node, operand))?;
        if self.repeated[k].state.is_none() {
            let initial = self.known(self.repeated[k].initial)?;
            self.repeated[k].state = self.carry("a state", &initial);
        }
        self.repeated[k].state.as_ref()?.at(step, self.sizes.streams).ok()
    }
}
