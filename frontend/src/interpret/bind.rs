//! Symbols and their sizes in one run.

use crate::ir::{Dim, Symbol, Type};
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// The size of each symbol.
#[derive(Default)]
pub(super) struct Bindings(BTreeMap<Symbol, usize>);

impl Bindings {
    /// The dimension with bound symbols replaced.
    fn resolve(&self, dim: &Dim) -> Dim {
        self.0.iter().fold(dim.clone(), |d, (symbol, &value)| d.substitute(symbol, value))
    }

    /// Assumes that a dimension has this size, and binds its symbol if it is the only unbound one. Returns whether that is possible.
    fn unify(&mut self, dim: &Dim, size: usize) -> bool {
        match self.resolve(dim) {
            Dim::Unknown | Dim::Rest => true,
            Dim::Known { coefficient, symbols } if symbols.is_empty() => {
                usize::try_from(coefficient).is_ok_and(|c| c == size)
            }
            Dim::Known { coefficient, symbols } if symbols.len() == 1 => {
                let Ok(c) = usize::try_from(coefficient) else { return false };
                let fits = c > 0 && size.is_multiple_of(c);
                if fits {
                    self.0.insert(symbols[0].clone(), size / c);
                }
                fits
            }
            // A product of otherwise unbound symbols determines none of them.
            Dim::Known { .. } => true,
        }
    }

    /// Whether a tensor has this type; binds symbols.
    pub(super) fn accept(&mut self, ty: &Type, tensor: &Tensor) -> bool {
        if !ty.is_ranked() {
            return true;
        }
        ty.dtype == tensor.dtype()
            && ty.shape.len() == tensor.shape().len()
            && ty.shape.iter().zip(tensor.shape()).all(|(d, &n)| self.unify(d, n))
    }

    /// The type with bound symbols replaced.
    pub(super) fn resolve_type(&self, ty: &Type) -> Type {
        Type::new(ty.dtype, ty.shape.iter().map(|d| self.resolve(d)).collect())
    }

    /// The sizes, or the first dimension that is not bound.
    pub(super) fn sizes(&self, ty: &Type) -> Result<Vec<usize>, Dim> {
        ty.shape.iter().map(|d| self.resolve(d).as_constant().ok_or_else(|| d.clone())).collect()
    }
}
