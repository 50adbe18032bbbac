//! The order of the nodes: as in the file, except for nodes that come before their inputs.

use super::super::error::{NodeProblem, OnnxError};
use super::super::proto::{GraphProto, NodeProto};
use super::node_name;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// The indices of the nodes such that each comes after those whose results it reads; a file in order keeps its order.
///
/// `known` are the names that initialisers, inputs and outer graphs define.
pub(super) fn order(nodes: &[NodeProto], known: impl Fn(&str) -> bool) -> Result<Vec<usize>, OnnxError> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        producers.extend(node.output.iter().filter(|o| !o.is_empty()).map(|o| (o.as_str(), i)));
    }
    let mut readers: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    let mut waits: Vec<usize> = vec![0; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for input in reads(node) {
            let Some(&producer) = producers.get(input) else {
                if known(input) {
                    continue;
                }
                let problem = NodeProblem::Undefined { name: input.to_string() };
                return Err(OnnxError::Node { node: node_name(node, i), problem });
            };
            readers[producer].push(i);
            waits[i] += 1;
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        waits.iter().enumerate().filter(|&(_, &n)| n == 0).map(|(i, _)| Reverse(i)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &reader in &readers[i] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    match waits.iter().position(|&n| n > 0) {
        None => Ok(order),
        Some(start) => Err(cycle(nodes, &producers, &waits, start)),
    }
}

/// The names that a node reads, those that its subgraphs read from outside included.
fn reads(node: &NodeProto) -> HashSet<&str> {
    let subgraphs = node.attribute.iter().filter_map(|a| a.g.as_deref());
    let inputs = node.input.iter().map(String::as_str).filter(|n| !n.is_empty());
    inputs.chain(subgraphs.flat_map(captured)).collect()
}

/// The names that a graph reads from outside.
fn captured(graph: &GraphProto) -> HashSet<&str> {
    let mut names: HashSet<&str> = graph.node.iter().flat_map(reads).collect();
    names.extend(graph.output.iter().map(|o| o.name.as_str()));
    let inputs = graph.input.iter().map(|i| &i.name).chain(graph.initializer.iter().map(|t| &t.name));
    for name in inputs.chain(graph.node.iter().flat_map(|n| &n.output)) {
        names.remove(name.as_str());
    }
    names
}

/// Walks from a waiting node to one that it waits for, until a node repeats.
fn cycle(nodes: &[NodeProto], producers: &HashMap<&str, usize>, waits: &[usize], start: usize) -> OnnxError {
    const MOST_SHOWN: usize = 8;
    let mut path = vec![start];
    loop {
        let last = path[path.len() - 1];
        let waiting = reads(&nodes[last])
            .into_iter()
            .filter_map(|n| producers.get(n).copied())
            .filter(|&p| waits[p] > 0)
            .min();
        // A node waits only for nodes that wait themselves.
        let Some(next) = waiting else { break };
        let known = path.iter().position(|&p| p == next);
        path.push(next);
        if let Some(first) = known {
            path.drain(..first);
            break;
        }
    }
    // From producer to reader.
    path.reverse();
    let mut names: Vec<String> = path.iter().map(|&i| node_name(&nodes[i], i)).collect();
    if names.len() > MOST_SHOWN {
        let cut = names.len() - MOST_SHOWN;
        names.splice(MOST_SHOWN / 2..MOST_SHOWN / 2 + cut, [format!("({cut} more)")]);
    }
    OnnxError::Cycle { nodes: names }
}
