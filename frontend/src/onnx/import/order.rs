//! The order of the nodes: as in the file, except for nodes that come before their inputs.

use super::super::error::{NodeProblem, OnnxError};
use super::super::proto::NodeProto;
use super::node_name;
use crate::ir::Operand;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The indices of the nodes such that each comes after those whose results it reads; a file in order keeps its order.
///
/// `known` are the names that initialisers and inputs define.
pub(super) fn order(nodes: &[NodeProto], known: &HashMap<String, Operand>) -> Result<Vec<usize>, OnnxError> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        producers.extend(node.output.iter().filter(|o| !o.is_empty()).map(|o| (o.as_str(), i)));
    }
    let mut readers: Vec<Vec<usize>> = vec![vec![]; nodes.len()];
    let mut waits: Vec<usize> = vec![0; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for input in node.input.iter().filter(|n| !n.is_empty() && !known.contains_key(*n)) {
            let Some(&producer) = producers.get(input.as_str()) else {
                let problem = NodeProblem::Undefined { name: input.clone() };
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

/// Walks from a waiting node to one that it waits for, until a node repeats.
fn cycle(nodes: &[NodeProto], producers: &HashMap<&str, usize>, waits: &[usize], start: usize) -> OnnxError {
    const MOST_SHOWN: usize = 8;
    let mut path = vec![start];
    loop {
        let last = path[path.len() - 1];
        let waiting =
            nodes[last].input.iter().filter_map(|n| producers.get(n.as_str())).find(|&&p| waits[p] > 0);
        // A node waits only for nodes that wait themselves.
        let Some(&next) = waiting else { break };
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
