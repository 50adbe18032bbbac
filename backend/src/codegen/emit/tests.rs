//! What every language needs of emitted code: operands have the types that their operation takes, and values are used where they are in scope.

use super::*;
use crate::codegen::program::{Body, batched, body, linked_body, stepwise};
use crate::plan::{PANEL, Plan, Target};
use lstmc_frontend::ir::arbitrary::{Kind, language_model_of, random_map};

/// Keeps types alone. A condition is a byte; a mask is four i32.
struct Typed {
    features: Features,
    /// By value; none where the value's scope has ended.
    types: Vec<Option<Type>>,
}

impl Typed {
    fn value(&mut self, ty: Type) -> Value {
        self.types.push(Some(ty));
        Value(self.types.len() as u32 - 1)
    }

    fn ty(&self, x: Value) -> Type {
        self.types[x.0 as usize].expect("a value is used in its scope")
    }

    fn all(&self, values: &[Value]) -> Vec<Type> {
        values.iter().map(|&x| self.ty(x)).collect()
    }

    /// A value of the type that both have.
    fn like(&mut self, x: Value, y: Value) -> Value {
        assert_eq!(self.ty(x), self.ty(y));
        self.value(self.ty(x))
    }

    #[track_caller]
    fn check(&self, x: Value, types: &[Type]) -> Type {
        assert!(types.contains(&self.ty(x)), "{:?} where one of {types:?} is wanted", self.ty(x));
        self.ty(x)
    }

    /// Values of some types, in a scope of their own that ends with `inner`.
    fn scope<T>(&mut self, types: &[Type], inner: impl FnOnce(&mut Typed, &[Value]) -> T) -> T {
        let outer = self.types.len();
        let values: Vec<Value> = types.iter().map(|&ty| self.value(ty)).collect();
        let result = inner(self, &values);
        self.types[outer..].fill(None);
        result
    }
}

/// The type of a function's result.
pub(crate) fn result_type(
    features: Features,
    parameters: &[Type],
    body: impl FnOnce(&mut dyn Emit, &[Value]) -> Option<Value>,
) -> Option<Type> {
    let mut e = Typed { features, types: vec![] };
    let parameters: Vec<Value> = parameters.iter().map(|&ty| e.value(ty)).collect();
    let result = body(&mut e, &parameters);
    result.map(|x| e.ty(x))
}

const FLOATS: [Type; 2] = [Type::F32, Type::F32x4];
const INTEGERS: [Type; 5] = [Type::I8, Type::I8x16, Type::I32, Type::I32x4, Type::Address];

impl Emit for Typed {
    fn features(&self) -> Features {
        self.features
    }

    fn size(&mut self, _: usize) -> Value {
        self.value(Type::Address)
    }

    fn i32(&mut self, _: i32) -> Value {
        self.value(Type::I32)
    }

    fn f32(&mut self, _: f32) -> Value {
        self.value(Type::F32)
    }

    fn constant(&mut self, _: f32) -> Value {
        self.value(Type::F32x4)
    }

    fn bytes(&mut self, _: [u8; 16]) -> Value {
        self.value(Type::I8x16)
    }

    fn address(&mut self, _: Data) -> Value {
        self.value(Type::Address)
    }

    fn load(&mut self, ty: Type, _: Memory, address: Value, _: usize) -> Value {
        self.check(address, &[Type::Address]);
        self.value(match ty {
            Type::U8 | Type::U16 => Type::Address,
            Type::I16x4 => Type::I32x4,
            ty => ty,
        })
    }

    fn store(&mut self, memory: Memory, value: Value, address: Value, _: usize) {
        self.check(address, &[Type::Address]);
        self.check(value, &[Type::F32, Type::F32x4, Type::I32, Type::I8x16, Type::Address]);
        assert!(!matches!(memory, Memory::Weights | Memory::Rows));
    }

    fn load_address(&mut self, table: Value, _: usize) -> Value {
        self.like(table, table)
    }

    fn load_address_at(&mut self, table: Value, n: Value) -> Value {
        self.like(table, n)
    }

    fn load_indices(&mut self, address: Value) -> [Value; 4] {
        [(); 4].map(|()| self.like(address, address))
    }

    fn load_quad(&mut self, address: Value, bytes: usize) -> Quad {
        [(); 2].map(|()| self.load(Type::I8x16, Memory::Buffer, address, bytes))
    }

    fn stack(&mut self, _: usize) -> Value {
        self.value(Type::Address)
    }

    fn unary(&mut self, op: Unary, x: Value) -> Value {
        let ty = match (op, self.ty(x)) {
            (Unary::Neg | Unary::Abs | Unary::Sqrt, ty @ (Type::F32 | Type::F32x4)) => ty,
            (Unary::ToFloat, Type::I32) => Type::F32,
            (Unary::ToFloat, Type::I32x4) | (Unary::Splat, Type::F32) => Type::F32x4,
            (Unary::Extend, Type::I32) => Type::Address,
            (Unary::Truncate, Type::Address) => Type::I32,
            (Unary::Splat, Type::I32) => Type::I32x4,
            (Unary::Splat, Type::I8) => Type::I8x16,
            (Unary::Any, Type::I32x4) | (Unary::IsNotZero | Unary::IsZero, Type::Address) => Type::I8,
            (Unary::IsZero, Type::I8) => Type::I8,
            (op, ty) => panic!("{op:?} of {ty:?}"),
        };
        self.value(ty)
    }

    fn binary(&mut self, op: Binary, x: Value, y: Value) -> Value {
        assert_eq!(self.ty(x), self.ty(y));
        let float = FLOATS.contains(&self.ty(x));
        let ty = match (op, self.ty(x)) {
            (Binary::Less | Binary::Greater, Type::F32x4) => Type::I32x4,
            (Binary::Less | Binary::Greater, Type::F32 | Type::Address) => Type::I8,
            (Binary::Equal, Type::Address | Type::I32) => Type::I8,
            (Binary::Add | Binary::Sub | Binary::Mul, ty) => ty,
            (Binary::Div, ty) if float => ty,
            (Binary::And | Binary::Or, ty) if !float => ty,
            (op, ty) => panic!("{op:?} of {ty:?}"),
        };
        self.value(ty)
    }

    fn shift_right(&mut self, x: Value, bits: Value) -> Value {
        self.check(x, &[Type::I32]);
        self.check(bits, &[Type::I32]);
        self.like(x, x)
    }

    fn with_constant(&mut self, _: Constant, x: Value, _: i64) -> Value {
        self.check(x, &INTEGERS);
        self.like(x, x)
    }

    fn is_above(&mut self, x: Value, _: u32) -> Value {
        self.check(x, &[Type::I32]);
        self.value(Type::I8)
    }

    fn select(&mut self, condition: Value, x: Value, y: Value) -> Value {
        let by = if self.ty(x) == Type::F32x4 { Type::I32x4 } else { Type::I8 };
        self.check(condition, &[by]);
        self.like(x, y)
    }

    fn mul_add(&mut self, x: Value, y: Value, z: Value) -> Value {
        self.check(x, &FLOATS);
        self.like(x, y);
        self.like(y, z)
    }

    fn divide(&mut self, x: Value, _: usize) -> [Value; 2] {
        self.check(x, &[Type::Address]);
        [(); 2].map(|()| self.like(x, x))
    }

    fn lane(&mut self, x: Value, lane: u8) -> Value {
        assert!(lane < 4);
        let ty = self.check(x, &[Type::F32x4, Type::I32x4]);
        self.value(if ty == Type::F32x4 { Type::F32 } else { Type::I32 })
    }

    fn cast(&mut self, ty: Type, x: Value) -> Value {
        let scalars = [Type::F32, Type::I32];
        assert_eq!(scalars.contains(&ty), scalars.contains(&self.ty(x)));
        self.value(ty)
    }

    fn widen(&mut self, bytes: Value) -> [Value; 4] {
        self.check(bytes, &[Type::I8x16]);
        [(); 4].map(|()| self.value(Type::I32x4))
    }

    fn narrow(&mut self, words: [Value; 4]) -> Value {
        assert_eq!(self.all(&words), [Type::I32x4; 4]);
        self.value(Type::I8x16)
    }

    fn dot(&mut self, weights: Value, activations: Value, acc: Value) -> Value {
        assert_eq!(self.all(&[weights, activations, acc]), [Type::I8x16, Type::I8x16, Type::I32x4]);
        self.value(Type::I32x4)
    }

    fn dot_quad(&mut self, weights: Value, quad: Quad, acc: Value) -> Value {
        self.dot(weights, quad[0], acc)
    }

    fn sums(&mut self, _: PackedWidth, addresses: [Value; 2], quads: usize) -> Vec<Value> {
        assert_eq!(self.all(&addresses), [Type::Address; 2]);
        assert!(self.features.sums && quads > 0);
        vec![(); PANEL / LANES].into_iter().map(|()| self.value(Type::I32x4)).collect()
    }

    fn signs(&mut self, bytes: Value) -> [Value; 2] {
        self.check(bytes, &[Type::I8x16]);
        [(); 2].map(|()| self.value(Type::I8x16))
    }

    fn pairs(&mut self, unsigned: Value, signed: Value) -> Value {
        assert_eq!(self.all(&[unsigned, signed]), [Type::I8x16; 2]);
        self.value(Type::I16x8)
    }

    fn add_pairs(&mut self, pairs: Value, acc: Value) -> Value {
        assert_eq!(self.all(&[pairs, acc]), [Type::I16x8, Type::I32x4]);
        self.value(Type::I32x4)
    }

    fn call(&mut self, entry: Entry, arguments: &[Value]) -> Option<Value> {
        let (parameters, returns) = entry.shape();
        assert_eq!(self.all(arguments), vec![Type::Address; parameters]);
        returns.then(|| self.value(Type::F32))
    }

    fn repeat_from(
        &mut self,
        start: Value,
        end: Value,
        carried: &[Value],
        turn: &mut Turn<'_>,
    ) -> Vec<Value> {
        assert_eq!(self.all(&[start, end]), [Type::Address; 2]);
        let types = self.all(carried);
        let counted: Vec<Type> = [Type::Address].into_iter().chain(types.iter().copied()).collect();
        self.scope(&counted, |e, p| {
            let next = turn(e, p[0], &p[1..]);
            assert_eq!(e.all(&next), types);
        });
        types.into_iter().map(|ty| self.value(ty)).collect()
    }

    fn choose_from(&mut self, condition: Value, otherwise: &[Value], then: &mut Branch<'_>) -> Vec<Value> {
        self.check(condition, &[Type::I8]);
        let types = self.all(otherwise);
        self.scope(&[], |e, _| {
            let values = then(e);
            assert_eq!(e.all(&values), types);
        });
        types.into_iter().map(|ty| self.value(ty)).collect()
    }

    fn repeat_while(&mut self, carried: &[Value], turn: &mut WhileTurn<'_>) -> Vec<Value> {
        let types = self.all(carried);
        self.scope(&types, |e, p| {
            let (more, next) = turn(e, p);
            e.check(more, &[Type::I8]);
            assert_eq!(e.all(&next), types);
        });
        types.into_iter().map(|ty| self.value(ty)).collect()
    }

    fn return_if(&mut self, condition: Value, result: Value) {
        self.check(condition, &[Type::I8]);
        self.check(result, &[Type::I32, Type::Address]);
    }

    fn descend(&mut self, x: Value, test: &mut Test<'_>, next: &mut Next<'_>) -> Value {
        let ty = self.check(x, &[Type::Address]);
        self.scope(&[ty], |e, p| {
            let (condition, found) = test(e, p[0]);
            e.check(condition, &[Type::I8]);
            let x = next(e, &found);
            e.check(x, &[ty]);
        });
        self.value(ty)
    }
}

#[test]
fn every_function_is_typed_and_scoped() {
    let cases = Kind::ALL.into_iter().flat_map(|kind| (0..4).map(move |seed| (kind, seed)));
    let features = [
        Features { dot: false, signed_bytes: false, pairs: false, sums: false },
        Features { dot: false, signed_bytes: false, pairs: true, sums: false },
        Features { dot: false, signed_bytes: true, pairs: false, sums: false },
        Features { dot: true, signed_bytes: false, pairs: false, sums: false },
        Features { dot: true, signed_bytes: true, pairs: false, sums: false },
        Features { dot: true, signed_bytes: true, pairs: false, sums: true },
    ];
    for ((kind, seed), features) in cases.flat_map(|case| features.map(|f| (case, f))) {
        let Features { signed_bytes, pairs, .. } = features;
        let graph = language_model_of(19, 2, 2100, |_, shape| random_map(kind, shape, seed));
        let plan = Plan::new(
            &graph,
            Target { signed_bytes, pairs, wide: pairs.then_some(crate::plan::Wide::Avx2), shared: false },
        )
        .unwrap();
        let phases = (0..plan.phases().len()).map(Entry::Phase);
        for entry in stepwise(&plan).chain(batched(&plan)).chain(phases) {
            let (parameters, returns) = entry.shape();
            let parameters = vec![Type::Address; parameters];
            let linked = matches!(entry, Entry::Advance | Entry::Logits).then_some(linked_body as Body);
            for body in [body as Body].into_iter().chain(linked) {
                let result = result_type(features, &parameters, |e, p| body(&plan, entry, e, p));
                assert_eq!(result, returns.then_some(Type::F32), "{entry:?}");
            }
        }
    }
}
