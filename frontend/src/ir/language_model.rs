//! Language-model form as a type: what is not canonical cannot become a [`LanguageModel`], and later stages take nothing else.
//!
//! ```text
//!   %tokens ──▶ embedding ──▶ (lstm | linear | elementwise)* ──▶ logits [S, B, vocabulary]
//!                               │ ▲
//!                               ▼ │ one pair of states per lstm, fed back
//! ```

use super::graph::{GateOrder, Graph, Node, NodeId, Operand, OutputRole, Type, ValueId, WeightId};
use super::map::{LinearMap, TensorTrain};
use super::op::Op;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A graph that was found to be in language-model form, with its layers in order of execution.
#[derive(Clone, Debug)]
pub struct LanguageModel<'g> {
    graph: &'g Graph,
    tokens: ValueId,
    logits: ValueId,
    layers: Vec<Layer>,
    vocabulary: usize,
}

/// One node of language-model form.
#[derive(Clone, PartialEq, Debug)]
pub enum Layer {
    /// Tokens to vectors.
    Embedding(EmbeddingLayer),
    /// A recurrent layer.
    Lstm(LstmLayer),
    /// A product, perhaps with a bias; the last one is the output layer.
    Linear(LinearLayer),
    /// An `add`, `mul`, `tanh` and the like on sequences.
    Elementwise {
        /// The node.
        node: NodeId,
        /// `[S, B, features]`.
        result: ValueId,
    },
}

/// `embedding %tokens, @table`.
#[derive(Clone, PartialEq, Debug)]
pub struct EmbeddingLayer {
    /// The node.
    pub node: NodeId,
    /// `[vocabulary, features]`.
    pub table: WeightId,
    /// Columns of the table.
    pub features: usize,
    /// `[S, B, features]`.
    pub result: ValueId,
}

/// `lstm %x, %h, %c, @input, @recurrent, @bias`.
#[derive(Clone, PartialEq, Debug)]
pub struct LstmLayer {
    /// The node.
    pub node: NodeId,
    /// The order of the gates along the rows of the weights.
    pub gates: GateOrder,
    /// `[S, B, features]`.
    pub x: ValueId,
    /// State `[B, hidden]`: the output of the step before.
    pub h: ValueId,
    /// State `[B, hidden]`: the cell of the step before.
    pub c: ValueId,
    /// `[4 hidden, features]`.
    pub input: WeightId,
    /// `[4 hidden, hidden]`.
    pub recurrent: WeightId,
    /// `[4 hidden]`.
    pub bias: WeightId,
    /// Inputs.
    pub features: usize,
    /// Units.
    pub hidden: usize,
    /// `[S, B, hidden]`.
    pub result: ValueId,
    /// The next value of `h`.
    pub next_h: ValueId,
    /// The next value of `c`.
    pub next_c: ValueId,
}

/// `linear %x, @weight[, @bias]`.
#[derive(Clone, PartialEq, Debug)]
pub struct LinearLayer {
    /// The node.
    pub node: NodeId,
    /// `[S, B, inputs]`.
    pub x: ValueId,
    /// `[outputs, inputs]`.
    pub weight: WeightId,
    /// `[outputs]`.
    pub bias: Option<WeightId>,
    /// Columns of the weight.
    pub inputs: usize,
    /// Rows of the weight.
    pub outputs: usize,
    /// `[S, B, outputs]`.
    pub result: ValueId,
}

/// Why a graph is not in language-model form.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "not in language-model form: {at}: expected {expected}, found {found}; the pass `canonicalize` makes it so"
)]
pub struct NotCanonical {
    /// The node, value or output.
    pub at: String,
    /// What language-model form has there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl NotCanonical {
    fn new(at: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> NotCanonical {
        NotCanonical { at: at.into(), expected: expected.into(), found: found.into() }
    }
}

impl<'g> LanguageModel<'g> {
    /// Checks that `graph` is in language-model form and lists its layers.
    pub fn of(graph: &'g Graph) -> Result<LanguageModel<'g>, NotCanonical> {
        let reader = Reader { graph };
        let tokens = reader.tokens()?;
        let logits = reader.logits()?;
        let layers = graph
            .nodes()
            .filter(|(_, n)| !matches!(n.op, Op::Input | Op::State))
            .map(|(id, node)| reader.layer(id, node))
            .collect::<Result<Vec<_>, _>>()?;
        reader.states(&layers)?;
        let vocabulary = reader.vocabulary(&layers, logits)?;
        Ok(LanguageModel { graph, tokens, logits, layers, vocabulary })
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// `i64[S, B]`.
    pub fn tokens(&self) -> ValueId {
        self.tokens
    }

    /// `f32[S, B, vocabulary]`.
    pub fn logits(&self) -> ValueId {
        self.logits
    }

    /// The number of words.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Every layer, in order of execution.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The embedding.
    pub fn embedding(&self) -> &EmbeddingLayer {
        let found = self.layers.iter().find_map(|l| match l {
            Layer::Embedding(e) => Some(e),
            _ => None,
        });
        found.expect("LanguageModel::of checked that there is one")
    }

    /// The recurrent layers, first to last.
    pub fn lstms(&self) -> impl Iterator<Item = &LstmLayer> {
        self.layers.iter().filter_map(|l| match l {
            Layer::Lstm(l) => Some(l),
            _ => None,
        })
    }

    /// The linear layers, first to last.
    pub fn linears(&self) -> impl Iterator<Item = &LinearLayer> {
        self.layers.iter().filter_map(|l| match l {
            Layer::Linear(l) => Some(l),
            _ => None,
        })
    }

    /// The linear layer that makes the logits; none where they come from another node.
    pub fn decoder(&self) -> Option<&LinearLayer> {
        self.linears().find(|l| l.result == self.logits)
    }

    /// Numbers stored in all weights; what weights share counts once.
    pub fn parameters(&self) -> usize {
        parameters(self.graph)
    }

    /// Multiply-adds in products with weights for one token of one stream. Elementwise work is not counted.
    pub fn multiply_adds(&self) -> usize {
        let map = |w: WeightId| &self.graph.weight(w).map;
        let cost = |layer: &Layer| match layer {
            Layer::Embedding(e) => lookup_multiply_adds(map(e.table)),
            Layer::Linear(l) => map(l.weight).multiply_adds(),
            Layer::Lstm(l) => stacked_multiply_adds(map(l.input), map(l.recurrent)),
            Layer::Elementwise { .. } => 0,
        };
        self.layers.iter().map(cost).fold(0, usize::saturating_add)
    }
}

/// Numbers stored in all weights of any graph; a map that several weights share counts once.
pub fn parameters(graph: &Graph) -> usize {
    fn count(map: &LinearMap, seen: &mut BTreeSet<*const LinearMap>) -> usize {
        match map {
            LinearMap::Dense(_) | LinearMap::Quantized(_) | LinearMap::Sparse(_) => map.parameters(),
            LinearMap::LowRank(_) | LinearMap::TensorTrain(_) => {
                let children = map.children();
                children
                    .iter()
                    .map(|(_, c)| if seen.insert(Arc::as_ptr(c)) { count(c, seen) } else { 0 })
                    .sum()
            }
        }
    }
    let mut seen = BTreeSet::new();
    graph.weights().map(|(_, w)| count(&w.map, &mut seen)).sum()
}

/// Multiply-adds of reading one row of a table.
fn lookup_multiply_adds(table: &LinearMap) -> usize {
    match table {
        LinearMap::Dense(_) | LinearMap::Quantized(_) | LinearMap::Sparse(_) => 0,
        LinearMap::LowRank(l) => lookup_multiply_adds(l.left()) + row_times(l.right()),
        LinearMap::TensorTrain(t) => train_row_multiply_adds(t),
    }
}

/// Multiply-adds of a row vector times a map: as many as of the map times a vector, but for tensor trains, which contract
/// in another order; passes do not nest those in factors.
fn row_times(map: &LinearMap) -> usize {
    map.multiply_adds()
}

/// A row is built left to right: `[n1 .. n(k-1), r(k-1)]` times the core's slice `[r(k-1), nk rk]`.
fn train_row_multiply_adds(t: &TensorTrain) -> usize {
    let ranks = t.ranks();
    let mut before = 1usize;
    let mut total = 0usize;
    for (k, &n) in t.in_modes().iter().enumerate() {
        if k > 0 {
            total = total.saturating_add(before.saturating_mul(ranks[k] * n * ranks[k + 1]));
        }
        before = before.saturating_mul(n);
    }
    total
}

/// `input x + recurrent h`; a left factor that both share is applied once, to the sum of the right products.
fn stacked_multiply_adds(input: &LinearMap, recurrent: &LinearMap) -> usize {
    let both = input.multiply_adds().saturating_add(recurrent.multiply_adds());
    match (input, recurrent) {
        (LinearMap::LowRank(a), LinearMap::LowRank(b)) if Arc::ptr_eq(a.left(), b.left()) => {
            both - a.left().multiply_adds()
        }
        _ => both,
    }
}

struct Reader<'g> {
    graph: &'g Graph,
}

impl Reader<'_> {
    fn label(&self, node: &Node) -> String {
        let result = node.results().first().map(|&v| format!("%{} = ", self.graph.name_of(v)));
        format!("{}{}", result.unwrap_or_default(), node.op.name())
    }

    fn tokens(&self) -> Result<ValueId, NotCanonical> {
        let inputs = self.graph.sources(&Op::Input);
        let [tokens] = inputs[..] else {
            return Err(NotCanonical::new("inputs", "one, the tokens", inputs.len().to_string()));
        };
        self.expect(tokens, &Type::tokens())?;
        Ok(tokens)
    }

    fn logits(&self) -> Result<ValueId, NotCanonical> {
        let named: Vec<&str> = self
            .graph
            .outputs()
            .iter()
            .filter_map(|o| match &o.role {
                OutputRole::Named(n) => Some(n.as_str()),
                OutputRole::State(_) => None,
            })
            .collect();
        if named != ["logits"] {
            return Err(NotCanonical::new("outputs", "`logits` and states", format!("{named:?}")));
        }
        Ok(self.graph.output_named("logits").expect("found above"))
    }

    fn expect(&self, value: ValueId, ty: &Type) -> Result<(), NotCanonical> {
        let found = self.graph.type_of(value);
        if found == ty {
            return Ok(());
        }
        let at = format!("%{}", self.graph.name_of(value));
        Err(NotCanonical::new(at, ty.to_string(), found.to_string()))
    }

    /// The features of a sequence.
    fn sequence(&self, value: ValueId) -> Result<usize, NotCanonical> {
        let found = self.graph.type_of(value);
        let features = found.shape.last().and_then(|d| d.as_constant()).unwrap_or(0);
        self.expect(value, &Type::sequence(features))?;
        Ok(features)
    }

    fn value(&self, node: &Node, k: usize) -> Result<ValueId, NotCanonical> {
        match node.operands().get(k) {
            Some(Operand::Value(v)) => Ok(*v),
            other => Err(NotCanonical::new(
                self.label(node),
                format!("a value as operand {k}"),
                format!("{other:?}"),
            )),
        }
    }

    fn weight(&self, node: &Node, k: usize) -> Result<WeightId, NotCanonical> {
        match node.operands().get(k) {
            Some(Operand::Weight(w)) => Ok(*w),
            other => Err(NotCanonical::new(
                self.label(node),
                format!("a weight as operand {k}"),
                format!("{other:?}"),
            )),
        }
    }

    fn layer(&self, id: NodeId, node: &Node) -> Result<Layer, NotCanonical> {
        let result = |k: usize| node.results()[k];
        Ok(match &node.op {
            Op::Embedding => Layer::Embedding(EmbeddingLayer {
                node: id,
                table: self.weight(node, 1)?,
                features: self.sequence(result(0))?,
                result: result(0),
            }),
            Op::Lstm { gates } => Layer::Lstm(LstmLayer {
                node: id,
                gates: *gates,
                x: self.value(node, 0)?,
                h: self.value(node, 1)?,
                c: self.value(node, 2)?,
                input: self.weight(node, 3)?,
                recurrent: self.weight(node, 4)?,
                bias: self.weight(node, 5)?,
                features: self.sequence(self.value(node, 0)?)?,
                hidden: self.sequence(result(0))?,
                result: result(0),
                next_h: result(1),
                next_c: result(2),
            }),
            Op::Linear => Layer::Linear(LinearLayer {
                node: id,
                x: self.value(node, 0)?,
                weight: self.weight(node, 1)?,
                bias: match node.operands().get(2) {
                    None | Some(Operand::None) => None,
                    Some(_) => Some(self.weight(node, 2)?),
                },
                inputs: self.sequence(self.value(node, 0)?)?,
                outputs: self.sequence(result(0))?,
                result: result(0),
            }),
            Op::Binary(_) | Op::Unary(_) => {
                self.sequence(result(0))?;
                Layer::Elementwise { node: id, result: result(0) }
            }
            other => {
                let expected = "embedding, lstm, linear or an elementwise operator";
                return Err(NotCanonical::new(self.label(node), expected, other.name()));
            }
        })
    }

    /// Every state belongs to one lstm, which makes its next value.
    fn states(&self, layers: &[Layer]) -> Result<(), NotCanonical> {
        let mut used = BTreeSet::new();
        for layer in layers {
            let Layer::Lstm(l) = layer else { continue };
            for (state, next) in [(l.h, l.next_h), (l.c, l.next_c)] {
                let at = format!("%{}", self.graph.name_of(state));
                if self.graph.node(self.graph.producer(state)).op != Op::State {
                    return Err(NotCanonical::new(at, "a state", "another value"));
                }
                if !used.insert(state) {
                    return Err(NotCanonical::new(at, "a state of one lstm", "two that read it"));
                }
                if self.graph.next_state(state) != Some(next) {
                    let expected = format!("%{} as its next value", self.graph.name_of(next));
                    let found = self.graph.next_state(state);
                    let found = found.map_or("none".into(), |v| format!("%{}", self.graph.name_of(v)));
                    return Err(NotCanonical::new(at, expected, found));
                }
            }
        }
        if used.is_empty() {
            return Err(NotCanonical::new("nodes", "at least one lstm", "none"));
        }
        match self.graph.sources(&Op::State).into_iter().find(|s| !used.contains(s)) {
            None => Ok(()),
            Some(s) => {
                let at = format!("%{}", self.graph.name_of(s));
                Err(NotCanonical::new(at, "an lstm that reads it", "none"))
            }
        }
    }

    fn vocabulary(&self, layers: &[Layer], logits: ValueId) -> Result<usize, NotCanonical> {
        let tables: Vec<WeightId> = layers
            .iter()
            .filter_map(|l| match l {
                Layer::Embedding(e) => Some(e.table),
                _ => None,
            })
            .collect();
        let [table] = tables[..] else {
            return Err(NotCanonical::new("nodes", "one embedding", tables.len().to_string()));
        };
        let rows = self.graph.weight(table).map.shape()[0];
        self.expect(logits, &Type::sequence(rows))?;
        if self.graph.vocabulary != Some(rows) {
            let found = self.graph.vocabulary.map_or("none".into(), |n| n.to_string());
            return Err(NotCanonical::new("vocabulary", format!("{rows}, the embedding's rows"), found));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse;

    const MODEL: &str = r#"
model "m" (vocabulary 6) {
  %tokens: i64[S, B] = input
  %h0: f32[B, 2] = state
  %c0: f32[B, 2] = state
  %x0 = embedding %tokens, @embedding
  %x1, %h0.next, %c0.next = lstm %x0, %h0, %c0, @lstm0.input, @lstm0.recurrent, @lstm0.bias {gates = iofc}
  %logits = linear %x1, @decoder, @decoder.bias
  return logits %logits, state %h0 = %h0.next, state %c0 = %c0.next
}
@embedding: low_rank [6, 4] { left: f32[6, 3] random 1, right: f32[3, 4] random 2 }
@lstm0.input: low_rank [8, 4] { left: f32[8, 1] random 3, right: f32[1, 4] random 4 }
@lstm0.recurrent: low_rank [8, 2] { left: @lstm0.input/left, right: f32[1, 2] random 5 }
@lstm0.bias: f32[8] random 6
@decoder: tensor_train [6, 2] modes 2x3 by 1x2 { core0: f32[2, 2] random 7, core1: f32[6, 2] random 8 }
@decoder.bias: f32[6] random 9
"#;

    #[test]
    fn what_is_shared_counts_once() {
        let graph = parse(MODEL).unwrap();
        let model = LanguageModel::of(&graph).unwrap();
        let (embedding, lstm, decoder) = (6 * 3 + 3 * 4, 8 + 4 + 2 + 8, 4 + 12 + 6);
        assert_eq!(model.parameters(), embedding + lstm + decoder);
        let train = graph.weight(model.decoder().unwrap().weight).map.multiply_adds();
        // A row of the embedding is a row of the left factor times the right one; the shared factor is applied once.
        assert_eq!(model.multiply_adds(), 3 * 4 + (8 + 4 + 2) + train);
    }

    #[test]
    fn layers_have_their_sizes() {
        let graph = parse(MODEL).unwrap();
        let model = LanguageModel::of(&graph).unwrap();
        let lstm = model.lstms().next().unwrap();
        assert_eq!(
            (lstm.features, lstm.hidden, model.embedding().features, model.vocabulary()),
            (4, 2, 4, 6)
        );
        assert_eq!(graph.name_of(lstm.next_c), "c0.next");
        assert_eq!(model.decoder().unwrap().outputs, 6);
    }

    #[test]
    fn what_is_not_canonical_is_said() {
        let error = |from: &str, to: &str| {
            assert!(MODEL.contains(from));
            LanguageModel::of(&parse(&MODEL.replace(from, to)).unwrap()).unwrap_err().to_string()
        };
        let errors = [
            error(", state %c0 = %c0.next", ""),
            error("state %h0 = %h0.next, state %c0 = %c0.next", "state %h0 = %c0.next, state %c0 = %h0.next"),
            error("return logits", "return scores"),
            error("(vocabulary 6)", "(vocabulary 7)"),
            error("%logits = linear", "%copy = onnx.identity %x1\n  %logits = linear"),
        ];
        insta::assert_snapshot!(errors.join("\n"));
    }
}
