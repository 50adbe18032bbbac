//! Maps with identity.

use super::{LinearMap, MapError};
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The identity of a [`Part`]: two with the same id are one part. Ids mean nothing else, and differ from run to run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PartId(u64);

/// A map that others may share: the map of a weight, a factor, a core, or the values under a mask. A clone is the same part; what is shared is
/// stored, printed, packed and counted once. Parts are equal if their maps are.
#[derive(Clone, Debug)]
pub struct Part {
    id: PartId,
    map: Arc<LinearMap>,
}

impl Part {
    /// A new part, which nothing shares yet.
    pub fn new(map: LinearMap) -> Part {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Part { id: PartId(NEXT.fetch_add(1, Ordering::Relaxed)), map: Arc::new(map) }
    }

    /// Its map.
    pub fn into_map(self) -> LinearMap {
        Arc::unwrap_or_clone(self.map)
    }

    /// Which part it is.
    pub fn id(&self) -> PartId {
        self.id
    }
}

impl Deref for Part {
    type Target = LinearMap;

    fn deref(&self) -> &LinearMap {
        &self.map
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Part) -> bool {
        self.id == other.id || self.map == other.map
    }
}

impl From<LinearMap> for Part {
    fn from(map: LinearMap) -> Part {
        Part::new(map)
    }
}

impl From<Tensor> for Part {
    fn from(t: Tensor) -> Part {
        LinearMap::Dense(t).into()
    }
}

/// Rewrites parts one at a time: a shared part is rewritten once and stays shared, and a part that does not change keeps its identity.
#[derive(Debug, Default)]
pub struct Rewrite {
    done: BTreeMap<PartId, Part>,
}

impl Rewrite {
    /// The part that `f` returns for one; if it returns none, the part with the parts inside it rewritten.
    pub fn part<E: From<MapError>>(
        &mut self,
        part: &Part,
        f: &mut dyn FnMut(&Part) -> Result<Option<Part>, E>,
    ) -> Result<Part, E> {
        if let Some(new) = self.done.get(&part.id) {
            return Ok(new.clone());
        }
        let new = match f(part)? {
            Some(new) => new,
            None => {
                let mut is_same = true;
                let map = part.map_parts(|inner| {
                    let new = self.part(inner, f)?;
                    is_same &= new.id == inner.id;
                    Ok::<Part, E>(new)
                })?;
                if is_same { part.clone() } else { Part::new(map) }
            }
        };
        self.done.insert(part.id, new.clone());
        Ok(new)
    }

    /// Whether this rewrite has met a part inside the map.
    pub fn has_met_part_of(&self, map: &LinearMap) -> bool {
        map.children().iter().any(|(_, part)| self.done.contains_key(&part.id) || self.has_met_part_of(part))
    }
}
