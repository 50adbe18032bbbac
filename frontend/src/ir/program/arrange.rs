//! The order of a program's steps.

use super::{Group, Program, Sequence, Step, StepId};
use petgraph::algo::kosaraju_scc;
use petgraph::graph::DiGraph;
use std::collections::BTreeSet;

impl Program<'_> {
    /// Finds the groups and renumbers the steps in their order.
    pub(super) fn arrange(&mut self) {
        let mut read_by: DiGraph<(), ()> = DiGraph::new();
        let nodes: Vec<_> = self.steps.iter().map(|_| read_by.add_node(())).collect();
        for (k, step) in self.steps.iter().enumerate() {
            for x in step.kind.reads() {
                let from = match x.of {
                    Sequence::Step(s) => s,
                    Sequence::State(s) => self.states[s.index()].next,
                };
                read_by.add_edge(nodes[from.index()], nodes[k], ());
            }
        }
        let mut components: Vec<Vec<usize>> = vec![];
        let mut component = vec![0; nodes.len()];
        for found in kosaraju_scc(&read_by) {
            let mut steps: Vec<usize> = found.iter().map(|n| n.index()).collect();
            steps.sort_unstable();
            steps.iter().for_each(|&k| component[k] = components.len());
            components.push(steps);
        }
        // Of all components that are ready, the one with the first step is next: without stepwise states, the order stays.
        let mut waits = vec![0; components.len()];
        for edge in read_by.raw_edges() {
            waits[component[edge.target().index()]] += 1;
        }
        let inner = |c: usize| {
            let targets = components[c].iter().flat_map(|&k| read_by.neighbors(nodes[k]));
            targets.filter(|t| component[t.index()] == c).count()
        };
        let inner: Vec<usize> = (0..components.len()).map(inner).collect();
        let mut ready: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (c, steps) in components.iter().enumerate() {
            waits[c] -= inner[c];
            if waits[c] == 0 {
                ready.insert((steps[0], c));
            }
        }
        let mut place = vec![StepId(0); nodes.len()];
        let mut order = vec![];
        while let Some((_, c)) = ready.pop_first() {
            let first = order.len() as u32;
            for &k in &components[c] {
                place[k] = StepId(order.len() as u32);
                order.push(k);
                for target in read_by.neighbors(nodes[k]).map(|t| component[t.index()]).filter(|&t| t != c) {
                    waits[target] -= 1;
                    if waits[target] == 0 {
                        ready.insert((components[target][0], target));
                    }
                }
            }
            self.groups.push(Group { steps: first..order.len() as u32, is_recurrent: inner[c] > 0 });
        }
        let mut old: Vec<Option<Step>> = std::mem::take(&mut self.steps).into_iter().map(Some).collect();
        self.steps = order.iter().filter_map(|&k| old[k].take()).collect();
        let mut is_read = vec![false; nodes.len()];
        for step in &mut self.steps {
            for x in step.kind.reads_mut() {
                if let Sequence::Step(s) = &mut x.of {
                    *s = place[s.index()];
                    is_read[s.index()] = true;
                }
            }
        }
        for state in &mut self.states {
            state.next = place[state.next.index()];
            is_read[state.next.index()] |= state.is_stepwise;
        }
        self.steps.iter_mut().zip(is_read).for_each(|(step, is_read)| step.is_read = is_read);
        self.output = place[self.output.index()];
    }
}
