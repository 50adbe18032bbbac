//! Layouts: how the axes of a generic value are composed of the axes of language-model form.
//!
//! ```text
//!   lstm's Y            [S, 1, B, H]     [[t0], [], [t1], [features]]
//!   after reshape       [S*B, H]         [[t0, t1], [features]]
//! ```
//!
//! Every axis is a product of atoms, most significant first. An atom of size 1 is omitted, because it holds no information:
//! so a squeeze, an unsqueeze and a reshape are all one operation, regrouping the same sequence of atoms.

use crate::ir::Dim;
use std::fmt;

/// The quantity that an atom counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Axis {
    /// An axis of the token input: steps or streams, which the first LSTM determines.
    Token(usize),
    /// The elements of a vector.
    Feature,
    /// The elements of a stack of states.
    Stack,
    /// An axis of a state input.
    State(usize),
}

/// A factor of an axis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Atom {
    pub(super) axis: Axis,
    pub(super) size: Dim,
}

/// The axes of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout(pub(super) Vec<Vec<Atom>>);

impl Layout {
    /// One atom per dimension.
    pub(super) fn new(shape: &[Dim], axis: impl Fn(usize) -> Axis) -> Layout {
        Layout(shape.iter().enumerate().map(|(k, size)| atoms(axis(k), size)).collect())
    }

    /// The layout with an axis of `features` appended.
    pub(super) fn with_features(mut self, features: usize) -> Layout {
        self.0.push(atoms(Axis::Feature, &features.into()));
        self
    }

    /// The layout with the last axis (the features) replaced.
    pub(super) fn replace_features(mut self, features: usize) -> Layout {
        self.0.pop();
        self.with_features(features)
    }

    /// Whether the last axis is the features and no other axis has any.
    pub(super) fn ends_in_features(&self) -> bool {
        let Some((last, rest)) = self.0.split_last() else { return false };
        let is_feature = |a: &Atom| a.axis == Axis::Feature;
        last.len() <= 1 && last.iter().all(is_feature) && !rest.iter().flatten().any(is_feature)
    }

    pub(super) fn rank(&self) -> usize {
        self.0.len()
    }

    /// `perm[k]` is the axis that becomes axis `k`; empty reverses them.
    pub(super) fn transposed(&self, perm: &[i64]) -> Option<Layout> {
        if perm.is_empty() {
            return Some(Layout(self.0.iter().rev().cloned().collect()));
        }
        perm.iter().map(|&p| self.0.get(usize::try_from(p).ok()?).cloned()).collect::<Option<_>>().map(Layout)
    }

    /// The same atoms in the same order as axes of these sizes; `None` if an atom would have to be split.
    pub(super) fn regrouped(&self, shape: &[Dim]) -> Option<Layout> {
        let flat: Vec<Atom> = self.0.iter().flatten().cloned().collect();
        let unknown = shape.iter().position(|d| *d == Dim::Unknown);
        let (head, tail) = match unknown {
            None => (shape, &shape[..0]),
            Some(k) => (&shape[..k], &shape[k + 1..]),
        };
        let (mut from, mut to) = (0, flat.len());
        let mut axes = vec![];
        for size in head {
            axes.push(take(size, || {
                let atom = flat[from..to].first().cloned();
                from += usize::from(atom.is_some());
                atom
            })?);
        }
        let mut behind = vec![];
        for size in tail.iter().rev() {
            let mut axis = take(size, || {
                let atom = flat[from..to].last().cloned();
                to -= usize::from(atom.is_some());
                atom
            })?;
            axis.reverse();
            behind.push(axis);
        }
        match unknown {
            Some(_) => axes.push(flat[from..to].to_vec()),
            None if from < to => return None,
            None => {}
        }
        axes.extend(behind.into_iter().rev());
        Some(Layout(axes))
    }

    /// The axis for a possibly negative number.
    pub(super) fn axis(&self, axis: i64) -> Option<usize> {
        let rank = self.rank() as i64;
        let k = if axis < 0 { axis + rank } else { axis };
        (0..rank).contains(&k).then_some(k as usize)
    }
}

fn atoms(axis: Axis, size: &Dim) -> Vec<Atom> {
    if size.is(1) { vec![] } else { vec![Atom { axis, size: size.clone() }] }
}

/// Atoms whose sizes multiply to `size`.
fn take(size: &Dim, mut next: impl FnMut() -> Option<Atom>) -> Option<Vec<Atom>> {
    let mut product = Dim::constant(1);
    let mut axis = vec![];
    while product != *size {
        let atom = next()?;
        product = product.times(&atom.size);
        axis.push(atom);
    }
    Some(axis)
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = self
            .0
            .iter()
            .map(|axis| {
                let names: Vec<String> = axis
                    .iter()
                    .map(|a| match a.axis {
                        Axis::Token(k) => format!("t{k}"),
                        Axis::Feature => "features".into(),
                        Axis::Stack => "layers".into(),
                        Axis::State(k) => format!("state axis {k}"),
                    })
                    .collect();
                if names.is_empty() { "1".into() } else { names.join("*") }
            })
            .collect();
        write!(f, "[{}]", axes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Symbol;

    fn s() -> Dim {
        Dim::symbol(Symbol::new("seq"))
    }

    fn b() -> Dim {
        Dim::symbol(Symbol::new("batch"))
    }

    fn tokens() -> Layout {
        Layout::new(&[s(), b()], Axis::Token)
    }

    #[test]
    fn reshapes_regroup_and_transposes_permute() {
        let x = tokens().with_features(8);
        let rows = x.regrouped(&[s().times(&b()), 8.into()]).unwrap();
        assert_eq!(rows.to_string(), "[t0*t1, features]");
        assert_eq!(
            rows.regrouped(&[s(), 1.into(), b(), 8.into()]).unwrap().to_string(),
            "[t0, 1, t1, features]"
        );
        assert_eq!(rows.regrouped(&[Dim::Unknown, b(), 8.into()]).unwrap(), x);
        assert_eq!(rows.regrouped(&[s(), Dim::Unknown]).unwrap().to_string(), "[t0, t1*features]");
        assert_eq!(x.transposed(&[1, 0, 2]).unwrap().to_string(), "[t1, t0, features]");
        assert_eq!(x.transposed(&[]).unwrap().to_string(), "[features, t1, t0]");
    }

    #[test]
    fn an_atom_is_never_split_or_reordered() {
        let x = tokens().with_features(8);
        assert_eq!(x.regrouped(&[s(), b(), 2.into(), 4.into()]), None);
        assert_eq!(x.regrouped(&[b(), s(), 8.into()]), None);
        assert_eq!(x.regrouped(&[s(), b()]), None);
    }

    #[test]
    fn axes_of_size_one_come_and_go() {
        let x = Layout::new(&[5.into(), 1.into()], Axis::Token).with_features(8);
        assert_eq!(x.to_string(), "[t0, 1, features]");
        assert_eq!(x.regrouped(&[1.into(), 5.into(), 8.into()]).unwrap().to_string(), "[1, t0, features]");
        assert!(Layout::new(&[s()], Axis::Token).with_features(1).ends_in_features());
    }
}
