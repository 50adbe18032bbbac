//! Factors of similar size: `A B = (A D) (D^-1 B)` for any diagonal `D`, and descent is best conditioned if column `j` of the left factor has the
//! same norm as row `j` of the right one; low-rank decompositions leave all of a direction's norm on one side. (Balanced factors: Tu et al. 2016,
//! "Low-rank solutions of linear matrix equations via Procrustes flow"; Du et al. 2018, who show that gradient flow keeps what balance there is at
//! the start.)

use super::super::number::Number;
use super::{Form, Kind, Slot, Weights};
use std::collections::BTreeSet;

/// The products of two slots.
#[derive(Default)]
struct Products {
    pairs: Vec<[usize; 2]>,
    /// Slots that are read in any other way.
    alone: BTreeSet<usize>,
}

impl Products {
    fn visit(&mut self, form: &Form) {
        match form {
            Form::Slot(slot) => {
                self.alone.insert(*slot);
            }
            Form::Product(a, b) => match (&**a, &**b) {
                (Form::Slot(a), Form::Slot(b)) => self.pairs.push([*a, *b]),
                (a, b) => [a, b].into_iter().for_each(|f| self.visit(f)),
            },
        }
    }

    /// Left and right slots that must be scaled together because they share a partner.
    fn groups(&self) -> Vec<[BTreeSet<usize>; 2]> {
        let mut groups: Vec<[BTreeSet<usize>; 2]> = vec![];
        for &[left, right] in &self.pairs {
            let mut joined = [BTreeSet::from([left]), BTreeSet::from([right])];
            groups.retain(|[lefts, rights]| {
                let meets = lefts.contains(&left) || rights.contains(&right);
                if meets {
                    joined[0].extend(lefts);
                    joined[1].extend(rights);
                }
                !meets
            });
            groups.push(joined);
        }
        groups
    }
}

impl<T: Number> Weights<T> {
    /// Scales the factors of low-rank maps so that columns of the left and rows of the right are of equal length, jointly if factors are shared;
    /// their products do not change. A factor that is not trained, is rounded to codes, or is also read in another way stays unchanged, with all its
    /// partners.
    pub(in super::super) fn balance(&mut self) {
        let mut products = Products::default();
        self.whole.values().for_each(|form| products.visit(form));
        for slot in &self.slots {
            if let Kind::Train { cores, .. } = &slot.kind {
                cores.iter().for_each(|form| products.visit(form));
            }
        }
        let [all_lefts, all_rights] =
            [0, 1].map(|k| products.pairs.iter().map(|p| p[k]).collect::<BTreeSet<_>>());
        let is_free = |slot: &usize| {
            let both = all_lefts.contains(slot) && all_rights.contains(slot);
            self.slots[*slot].is_scalable() && !both && !products.alone.contains(slot)
        };
        let groups = products.groups();
        let groups: Vec<_> = groups.into_iter().filter(|g| g.iter().flatten().all(is_free)).collect();
        for [lefts, rights] in groups {
            for j in 0..lefts.first().map_or(0, |&l| self.slots[l].shape[1]) {
                let left: f64 = lefts.iter().map(|&l| square(self.slots[l].column(j))).sum();
                let right: f64 = rights.iter().map(|&r| square(self.slots[r].row(j))).sum();
                // The fourth root: of squares, and half of it on each side.
                let scale = (right / left).sqrt().sqrt();
                if scale.is_normal() {
                    lefts.iter().for_each(|&l| scale_by(self.slots[l].column(j), scale));
                    rights.iter().for_each(|&r| scale_by(self.slots[r].row(j), 1.0 / scale));
                }
            }
        }
    }
}

impl<T: Number> Slot<T> {
    fn is_scalable(&self) -> bool {
        self.trained && matches!(self.kind, Kind::Leaf { codes: None, .. })
    }

    fn column(&mut self, j: usize) -> impl Iterator<Item = &mut T> {
        self.value.iter_mut().skip(j).step_by(self.shape[1])
    }

    fn row(&mut self, j: usize) -> impl Iterator<Item = &mut T> {
        let cols = self.shape[1];
        self.value[j * cols..][..cols].iter_mut()
    }
}

fn square<'a, T: Number>(vector: impl Iterator<Item = &'a mut T>) -> f64 {
    vector.map(|x| x.to_f64().powi(2)).sum()
}

fn scale_by<'a, T: Number>(vector: impl Iterator<Item = &'a mut T>, scale: f64) {
    vector.for_each(|x| *x *= T::of(scale));
}
